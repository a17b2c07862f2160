"""Optimizer state and weights split over two processes: the losses, checkpoints and results of one process."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.train.sharded_optimizer import share_out

ARGUMENTS = {"max_steps": 4, "save_steps": 2, "learning_rate": 2e-3, "eval_strategy": "steps", "eval_steps": 2}
TWO = {"cpuProcesses": 2}
STAGE_1, STAGE_3 = {"distributedType": "auto-deepspeed-stage1"}, {"distributedType": "auto-deepspeed-stage3"}
FSDP = {
    "distributedType": "custom-accelerate-config",
    "customAccelerateConfig": {
        "distributed_type": "FSDP",
        "num_processes": 2,
        "fsdp_config": {
            "fsdp_version": 2,
            "fsdp_reshard_after_forward": False,
            "fsdp_transformer_layer_cls_to_wrap": "LlamaDecoderLayer",
        },
    },
}
Train = Callable[[list[dict[str, Any]]], None]


def _free_ports() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return min(int(probe.getsockname()[1]), 60_000)


@pytest.fixture(scope="module")
def train_on_two(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """train_on_two(plan) runs the plan of two_ranks.py in two processes."""

    def train(plan: list[dict[str, Any]]) -> None:
        folder = tmp_path_factory.mktemp("plan")
        for number, one in enumerate(plan):
            path = folder / f"{number}.json"
            path.write_text(one["config"].to_json(), encoding="utf-8")
            one |= {"config": str(path), "work": str(one["work"]), "error": str(folder / f"{number}.error")}
        (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
        port = str(_free_ports())
        ranks = []
        for rank in range(2):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
            place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
            with (folder / f"log-{rank}").open("w") as log:
                ranks.append(
                    subprocess.Popen(
                        [sys.executable, str(Path(__file__).with_name("two_ranks.py")), str(folder / "plan.json")],
                        env={**os.environ, **place, "OMP_NUM_THREADS": "1"},
                        stdout=log,
                        stderr=log,
                    )
                )
        try:
            codes = [process.wait(200) for process in ranks]
        finally:
            for process in ranks:
                process.kill()
        assert codes == [0, 0], "".join((folder / f"log-{rank}").read_text()[-3000:] for rank in range(2))

    return train


def _history(work: Path, step: int = 4) -> dict[str, dict[int, float]]:
    history = json.loads((work / "checkpoints" / f"checkpoint-{step}" / "trainer_state.json").read_text())["history"]
    return {
        name: {entry["step"]: entry[name] for entry in history if name in entry}
        for name in ("loss", "eval_loss", "grad_norm")
    }


def test_split_training_equals_one_process(
    train_on_two: Train, train_here: Any, make_config: Any, make_model: Any, validation: Path, tmp_path: Path
) -> None:
    """Each way of splitting from the start; then from the half-way checkpoint of another way, and on one process.

    5 validation batches over 2 processes: in lockstep one process has a batch less.
    """
    import torch
    from safetensors.torch import load_file

    tied = make_model(tie_word_embeddings=True)

    def config(**given: Any) -> Any:
        spec = given.pop("spec", {})
        values = {"per_device": 2, "eval_batch": 2, "validation": validation, "training_args": ARGUMENTS, **given}
        return make_config(**values, spec={**TWO, **spec} if spec else {})

    lora = {"lora": {"r": 4, "lora_dropout": 0.0}}
    sgd = {**ARGUMENTS, "optim": "sgd", "optim_args": "momentum=0.9", "gradient_checkpointing": True}
    kinds = {
        "stage1": (STAGE_1, {}),
        "stage3": (STAGE_3, {}),
        "stage1-adafactor": (STAGE_1, {"training_args": {**ARGUMENTS, "optim": "adafactor"}}),
        "stage3-lora": (STAGE_3, lora),
        "fsdp-tied-sgd-checkpointed": (FSDP, {"model": tied, "training_args": sgd}),
    }
    train_on_two(
        [{"config": config(spec=spec, **given), "work": tmp_path / name} for name, (spec, given) in kinds.items()]
    )
    one: dict[str, Any] = {}
    for name, (_, given) in kinds.items():
        reference = one[name] = train_here(config(**given), work=tmp_path / f"{name}-one")
        split, whole = _history(tmp_path / name), _history(reference.work)
        for number in split:
            assert split[number] == pytest.approx(whole[number], rel=1e-5 if number != "grad_norm" else 1e-4), name
        ours = load_file(next((tmp_path / name / "checkpoints" / "checkpoint-final").glob("*.safetensors")))
        theirs = load_file(next(reference.final.glob("*.safetensors")))
        assert ours.keys() == theirs.keys()
        for key, weight in ours.items():
            torch.testing.assert_close(weight, theirs[key], rtol=1e-3, atol=2e-5, msg=f"{name}: {key}")

    def halfway(origin: str, name: str) -> Path:
        work = tmp_path / name
        shutil.copytree(tmp_path / origin / "checkpoints" / "checkpoint-2", work / "checkpoints" / "checkpoint-2")
        return work

    resumed = {
        "stage1-to-stage3": (STAGE_3, {}, "stage1"),
        "stage3-to-stage1": (STAGE_1, {}, "stage3"),
        "stage3-to-stage3-lora": (STAGE_3, lora, "stage3-lora"),
    }
    train_on_two(
        [
            {"config": config(spec=spec, **given), "work": halfway(origin, name), "resume": "auto"}
            for name, (spec, given, origin) in resumed.items()
        ]
    )
    for name, (_, given, _) in resumed.items():
        whole = _history(one["stage3-lora" if given else "stage1"].work)
        assert _history(tmp_path / name)["loss"] == pytest.approx(whole["loss"], rel=1e-5), name
    back = train_here(config(), work=halfway("stage3", "stage3-to-one"), FINETUNE_RESUME="auto")
    assert back.losses == pytest.approx(one["stage1"].losses, rel=1e-5)
    halves = torch.load(tmp_path / "stage3" / "checkpoints" / "checkpoint-2" / "optimizer.pt", weights_only=True)
    wholes = torch.load(one["stage3"].checkpoints / "checkpoint-2" / "optimizer.pt", weights_only=True)
    assert halves["param_groups"] == wholes["param_groups"]
    assert {index: sorted(kept) for index, kept in halves["state"].items()} == {
        index: sorted(kept) for index, kept in wholes["state"].items()
    }


@pytest.mark.parametrize(
    ("sizes", "count", "owners"),
    [
        ([5, 1, 1, 4], 2, [0, 1, 0, 1]),
        ([1], 3, [0]),
        ([], 2, []),
        ([2, 2, 2, 2], 2, [0, 1, 0, 1]),
    ],
)
def test_shares_are_about_equal(sizes: list[int], count: int, owners: list[int]) -> None:
    assert share_out(sizes, count) == owners
