"""A run that is killed at any moment, also while it writes a checkpoint, ends like one that was not.

Each run here is one or two forks of this process, which have imported everything already, so that dozens of deaths cost
seconds. Moments are counted: every sign of life of the loop, and every fsync, rename and file of a checkpoint.
"""

import contextlib
import json
import os
import random
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

from finetune_api import constants
from finetune_trainer.train import manifest
from finetune_trainer.train.checkpoint_folder import list_checkpoints

ARGUMENTS = {"save_steps": 3, "eval_strategy": "steps", "eval_steps": 5}  # of 12 steps
DROPOUT = {"r": 4, "lora_dropout": 0.2, "target_modules": "all-linear"}


@dataclass
class Ended:
    """What became of a run: exit codes by rank (negative: the signal), and the moments of rank 0."""

    work: Path
    codes: list[int]
    moments: list[str]
    log: str

    @property
    def history(self) -> list[dict[str, Any]]:
        newest = list_checkpoints(self.work / "checkpoints")[0]
        return list(json.loads((newest / "trainer_state.json").read_text())["history"])

    @property
    def losses(self) -> list[tuple[int, str, float]]:
        """Every training and evaluation loss, in order."""
        return [(one["step"], name, one[name]) for one in self.history for name in ("loss", "eval_loss") if name in one]


Run = Callable[..., Ended]


@pytest.fixture
def forks(tmp_path_factory: pytest.TempPathFactory, train_here: Any, make_config: Any, validation: Path) -> Run:
    """forks(config, work=None, ranks=1, victim=0, at=None, by=SIGKILL): trains; the victim gets the signal at its
    `at`th moment."""
    train_here(_config(make_config, validation, {"max_steps": 1}))  # imports what every fork would import again

    def run(
        config: Any,
        work: Path | None = None,
        ranks: int = 1,
        victim: int = 0,
        at: int | None = None,
        by: signal.Signals = signal.SIGKILL,
    ) -> Ended:
        work = work or tmp_path_factory.mktemp("work")
        own = tmp_path_factory.mktemp("forks")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        children = []
        for rank in range(ranks):
            pid = os.fork()
            if pid == 0:
                _child(config, work, own, rank, ranks, port, at if rank == victim else None, by)
            children.append(pid)
        codes = _wait(children)
        moments = (own / "moments-0").read_text().split() if (own / "moments-0").exists() else []
        log = "".join((own / f"log-{rank}").read_text() for rank in range(ranks))
        return Ended(work, codes, moments, log)

    return run


def _wait(children: list[int]) -> list[int]:
    """Exit codes; when one dies by a signal the others follow, as the launcher sees to it."""
    codes: dict[int, int] = {}
    while len(codes) < len(children):
        pid, status = os.waitpid(-1, 0)
        if pid not in children:
            continue
        codes[pid] = os.waitstatus_to_exitcode(status)
        if codes[pid] < 0:
            for other in set(children) - set(codes):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(other, signal.SIGKILL)
    return [codes[pid] for pid in children]


def _child(
    config: Any, work: Path, own: Path, rank: int, ranks: int, port: int, at: int | None, by: signal.Signals
) -> NoReturn:
    """One training process, from the fork to its end."""
    code = 70
    try:
        log = os.open(own / f"log-{rank}", os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "GLOO_SOCKET_IFNAME": "lo",
            "ACCELERATE_USE_CPU": "true",
            constants.ENV_WORK_DIR: str(work),
            constants.ENV_RESUME: "auto",
        }
        code = _train(config, own / f"moments-{rank}", at, by)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _train(config: Any, moments: Path, at: int | None, by: signal.Signals) -> int:
    from accelerate.state import AcceleratorState, PartialState

    from finetune_trainer.errors import Interrupted
    from finetune_trainer.train.progress import Progress
    from finetune_trainer.train.run import Run as TrainingRun
    from finetune_trainer.train.settings import read_settings, read_spec
    from finetune_trainer.train.stopping import Stop

    AcceleratorState._reset_state()
    PartialState._reset_state()
    seen: list[str] = []

    def moment(name: str) -> None:
        seen.append(name)
        if len(seen) == at:
            os.kill(os.getpid(), by)

    class Watched(Progress):
        def beat(self) -> None:
            super().beat()
            moment("beat")

        def update(self, **fields: Any) -> None:
            super().update(**fields)
            moment(str(fields.get("phase", "update")))

    def watch(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            moment(name)
            return original(*args, **kwargs)

        setattr(owner, name, watched)

    for owner, name in ((os, "fsync"), (Path, "rename"), (Path, "write_text"), (manifest.shutil, "rmtree")):
        watch(owner, name)
    stop = Stop()
    stop.listen()
    run = TrainingRun(read_settings(config, read_spec(config)), Watched(attempt=1), stop)
    try:
        run.train()
    except Interrupted:
        return 75
    text = " ".join(seen)  # before this write is one
    moments.open("w").write(text)
    return 0


def _in_a_checkpoint(moments: list[str]) -> list[int]:
    """The moments (from 1) from the second checkpoint's first file to the step after it."""
    begin = [number for number, name in enumerate(moments, 1) if name == "saving"][1]
    end = next(number for number, name in enumerate(moments, 1) if number > begin and name == "training")
    return list(range(begin, end + 1))


@pytest.mark.parametrize("sampling", ["random", "group_by_length"])
def test_killed_at_any_moment_it_ends_as_if_it_had_not_been(
    forks: Run, make_config: Any, validation: Path, sampling: str
) -> None:
    """One process, 4 micro-batches a step, dropout; two deaths in one run at seeded moments, then SIGTERM."""
    arguments = {**ARGUMENTS, "train_sampling_strategy": sampling}
    config = _config(make_config, validation, arguments)
    whole = forks(config)
    assert whole.codes == [0], whole.log
    draw = random.Random(sampling)
    work = None
    for _ in range(2):
        died = forks(config, work=work, at=draw.randrange(20, len(whole.moments) // 3))
        assert died.codes == [-signal.SIGKILL], died.log
        work = died.work
    stopped = forks(config, work=work, at=25, by=signal.SIGTERM)
    assert stopped.codes == [75], stopped.log
    ended = forks(config, work=work)
    assert ended.codes == [0], ended.log
    assert ended.losses == whole.losses
    assert _weights(ended) == _weights(whole)


def test_killed_while_a_checkpoint_is_written(forks: Run, make_config: Any, validation: Path) -> None:
    """At every moment of a checkpoint: before it, in the middle of its files, after its rename, while old ones go."""
    arguments = {**ARGUMENTS, "save_total_limit": 1, "max_steps": 7}
    config = _config(make_config, validation, arguments, per_device=8)
    whole = forks(config)
    moments = _in_a_checkpoint(whole.moments)
    names = [whole.moments[number - 1] for number in moments]
    assert names.count("rename") >= 2, f"the checkpoint's own, and the old one's before it goes: {names}"
    assert {"fsync", "write_text", "rmtree"} <= set(names)
    for at in _one_of_each(moments, names):
        died = forks(config, at=at)
        assert died.codes == [-signal.SIGKILL], died.log
        whole_ones = [path for path in list_checkpoints(died.work / "checkpoints") if manifest.fault(path) is None]
        assert whole_ones == list_checkpoints(died.work / "checkpoints") != [], "a torn checkpoint under its name"
        ended = forks(config, work=died.work)
        assert ended.losses == whole.losses, f"killed at moment {at}, {whole.moments[at - 1]}"
        assert not list((ended.work / "checkpoints").glob(f"{manifest.ASIDE}*"))


def test_two_processes_one_of_which_is_killed(forks: Run, make_config: Any, validation: Path) -> None:
    """2 processes x 2 accumulated, dropout and length grouping: either dies, once while the checkpoint is written."""
    arguments = {**ARGUMENTS, "train_sampling_strategy": "group_by_length"}
    config = _config(make_config, validation, arguments, spec={"cpuProcesses": 2})
    whole = forks(config, ranks=2)
    assert whole.codes == [0, 0], whole.log
    saving = _in_a_checkpoint(whole.moments)
    died = forks(config, ranks=2, victim=0, at=saving[len(saving) // 2])
    assert died.codes[0] == -signal.SIGKILL, died.log
    died = forks(config, work=died.work, ranks=2, victim=1, at=random.Random(3).randrange(20, 40))
    assert died.codes[1] == -signal.SIGKILL, died.log
    stopped = forks(config, work=died.work, ranks=2, victim=1, at=22, by=signal.SIGTERM)
    assert stopped.codes == [75, 75], stopped.log
    ended = forks(config, work=died.work, ranks=2)
    assert ended.codes == [0, 0], ended.log
    assert ended.losses == whole.losses
    assert _weights(ended) == _weights(whole)


def _one_of_each(moments: list[int], names: list[str]) -> list[int]:
    """The first and the last moment of each kind: what lies between two of a kind is like them."""
    chosen = {names.index(name) for name in names} | {len(names) - 1 - names[::-1].index(name) for name in names}
    return [moments[number] for number in sorted(chosen)]


def _config(
    make_config: Any,
    validation: Path,
    arguments: dict[str, Any],
    per_device: int = 2,
    spec: dict[str, Any] | None = None,
) -> Any:
    return make_config(
        lora=DROPOUT,
        per_device=per_device,
        validation=validation,
        training_args=arguments,
        spec={"mergeAdapter": False, **(spec or {})},
    )


def _weights(ended: Ended) -> bytes:
    return (ended.work / "checkpoints" / "checkpoint-final" / "adapter_model.safetensors").read_bytes()
