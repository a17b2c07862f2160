"""PID 1 of the train container: starts the training processes, passes signals on, and says how it ended.

Written for this because the usual launchers do not do it (docs/adr): `accelerate launch` on CPU starts one process
instead of two, turns exit codes into 1 and does not pass SIGTERM on; torchrun kills its processes 30 s after SIGTERM.
Imports no torch: it must listen to signals at once.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_api import constants
from finetune_api.constants import ExitCode
from finetune_api.report import TerminationReport
from finetune_api.resolve import ResolvedSpec, filled
from finetune_trainer import redaction
from finetune_trainer.errors import TrainerError, describe
from finetune_trainer.train.checkpoint_folder import report_checkpoints
from finetune_trainer.train.rank import ENV_RESULT_DIR
from finetune_trainer.train.settings import processes_per_node, read_job_config, read_spec, work_dir

SIGNALS = (signal.SIGTERM, signal.SIGINT)
MARGIN_SECONDS = 10.0  # of the grace period, for the last words
LOOK_SECONDS = 2.0  # a SIGCHLD that another thread of this process swallowed costs no more than this
PEER_SECONDS = 5.0  # for the others to say what they saw, when one process has died
# Of several processes' codes the one that explains most: what no retry would mend, then the rest.
PRECEDENCE = (65, 66, 78, 79, 69, 75, 70)


@dataclass
class Ranks:
    """The running training processes and what is known of the finished ones."""

    running: dict[int, int] = field(default_factory=dict)  # pid -> rank
    codes: dict[int, int] = field(default_factory=dict)  # rank -> exit code, negative: killed by that signal
    killed: set[int] = field(default_factory=set)  # ranks that the launcher itself killed


def main() -> int:
    """Runs the job in CONFIG; returns the exit code."""
    redaction.install()
    signal.pthread_sigmask(signal.SIG_BLOCK, {*SIGNALS, signal.SIGCHLD})
    job_name = attempt = None
    try:
        job = read_job_config()
        job_name, attempt = job.name, int(os.environ.get(constants.ENV_ATTEMPT) or job.try_number)
        resolved = read_spec(job)
        count = processes_per_node(resolved)
        with tempfile.TemporaryDirectory(prefix="finetune-") as results:
            ranks = start_ranks(count, Path(results), threads_per_process(resolved, count, available_cpus()))
            stopped = watch(
                ranks,
                float(os.environ.get(constants.ENV_GRACE) or filled(resolved.spec.termination_grace_period_seconds)),
            )
            report = conclude(read_results(Path(results)), ranks, count, stopped)
    except Exception as error:
        if not isinstance(error, TrainerError):
            traceback.print_exception(error)
        said = describe(error)
        report = TerminationReport(reason=said["reason"], message=said["message"], exit_code=said["exitCode"])
    if report.attempt is None:
        report = report.model_copy(update={"attempt": attempt})
    leave(report, job_name or "job")
    return int(report.exit_code or 0)


def start_ranks(count: int, results: Path, threads: int) -> Ranks:
    """Starts `count` processes that find each other on this machine."""
    port = _free_port()
    ranks = Ranks()
    for rank in range(count):
        environment = rank_environment(os.environ, rank, count, port, results, threads)
        process = subprocess.Popen([sys.executable, "-m", "finetune_trainer.train.rank"], env=environment)
        ranks.running[process.pid] = rank
    return ranks


def threads_per_process(resolved: ResolvedSpec, count: int, available: int) -> int:
    """CPU threads of each of `count` processes: the job's cpusPerGpu, whatever else the node has.

    More would fight with the node's other pods, and another number of threads adds up in another order, so that the
    same manifest would give other last digits on a larger node.
    """
    asked = filled(resolved.spec.cpus_per_gpu)
    if resolved.on_cpu:  # cpusPerGpu is the whole pod's then
        asked /= count
    return max(1, min(int(asked), available // count))


def rank_environment(
    given: Mapping[str, str], rank: int, count: int, port: int, results: Path, threads: int
) -> dict[str, str]:
    """The environment of one process, as torch.distributed's env:// wants it."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "GLOO_SOCKET_IFNAME": "lo",  # all processes are in this pod; its host name need not resolve
        **given,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "PYTHONUNBUFFERED": "1",
        ENV_RESULT_DIR: str(results),
    }


def available_cpus() -> int:
    """CPUs that this container may use: the smaller of the affinity and the cgroup's quota."""
    affinity = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, min(affinity, int(quota) // int(period)))
    except (OSError, ValueError):
        return affinity


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def watch(ranks: Ranks, grace: float) -> bool:
    """Waits until every process has ended; whether the pod was told to stop.

    A signal is passed on, and the processes have the grace period less MARGIN_SECONDS; a second Ctrl-C ends them now.
    When one dies by itself the others, which wait for it in vain, follow after PEER_SECONDS.
    """
    stopped = False
    deadline: float | None = None
    while ranks.running:
        timeout = LOOK_SECONDS if deadline is None else min(LOOK_SECONDS, max(0.0, deadline - time.monotonic()))
        info = signal.sigtimedwait({*SIGNALS, signal.SIGCHLD}, timeout)
        if info is not None and info.si_signo in SIGNALS:
            if stopped and info.si_signo == signal.SIGINT:
                deadline = time.monotonic()
            elif not stopped:
                stopped, deadline = True, time.monotonic() + max(1.0, grace - MARGIN_SECONDS)
            _signal_all(ranks, signal.SIGTERM)
        if _reap(ranks) and not stopped and deadline is None:
            deadline = time.monotonic() + PEER_SECONDS
        if deadline is not None and time.monotonic() >= deadline and ranks.running:
            ranks.killed.update(ranks.running.values())
            _signal_all(ranks, signal.SIGKILL)
            deadline = time.monotonic() + 60.0
    return stopped


def _signal_all(ranks: Ranks, number: signal.Signals) -> None:
    for pid in ranks.running:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def _reap(ranks: Ranks) -> bool:
    """Collects every child that has ended, adopted orphans included (PID 1's duty); whether a rank failed."""
    failed = False
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return failed
        if pid == 0:
            return failed
        rank = ranks.running.pop(pid, None)
        if rank is not None:
            code = os.waitstatus_to_exitcode(status)
            ranks.codes[rank] = code
            failed = failed or code != 0


def read_results(folder: Path) -> dict[int, dict[str, Any]]:
    """What each rank wrote; a rank that was killed wrote nothing."""
    results = {}
    for path in folder.glob("rank-*.json"):
        results[int(path.stem.removeprefix("rank-"))] = json.loads(path.read_text(encoding="utf-8"))
    return results


def conclude(results: Mapping[int, dict[str, Any]], ranks: Ranks, count: int, stopped: bool) -> TerminationReport:
    """One report for all ranks: rank 0's numbers, and the code and words of the rank that explains most."""
    reports = {rank: TerminationReport.model_validate(result["report"]) for rank, result in results.items()}
    base = reports.get(0) or TerminationReport(checkpoints=report_checkpoints(work_dir() / "checkpoints") or None)
    codes = {rank: int(reports[rank].exit_code or 0) if rank in reports else None for rank in ranks.codes}
    spoken = {rank: code for rank, code in codes.items() if code}
    # A rank that the launcher killed, or that died of a peer's death, explains nothing if another one does.
    worst = min(
        spoken, key=lambda rank: PRECEDENCE.index(spoken[rank]) if spoken[rank] in PRECEDENCE else 99, default=None
    )
    silent = [rank for rank, code in codes.items() if code is None]
    crashed = [rank for rank in silent if rank not in ranks.killed]
    if stopped and silent and (worst is None or spoken[worst] == ExitCode.INTERRUPTED):
        return _said(base, "Interrupted", ExitCode.INTERRUPTED, _too_late(base))
    if worst is not None and not (crashed and spoken[worst] == ExitCode.INTERNAL):
        return _said(
            base, reports[worst].reason, ExitCode(spoken[worst]), _of_rank(worst, reports[worst].message, count)
        )
    if crashed:
        return _said(base, "InternalError", ExitCode.INTERNAL, _crash_text(crashed[0], ranks.codes[crashed[0]], count))
    if silent:
        return _said(base, "InternalError", ExitCode.INTERNAL, f"rank {silent[0]} did not end by itself and was killed")
    return _check_world(base, results, count)


def _check_world(base: TerminationReport, results: Mapping[int, dict[str, Any]], count: int) -> TerminationReport:
    """Success counts only if every process trained in the same world."""
    sizes = {result.get("worldSize") for result in results.values()}
    if sizes == {count} and len(results) == count:
        return base
    return _said(
        base,
        "InternalError",
        ExitCode.INTERNAL,
        f"{count} processes were started, but they met as {sorted(map(str, sizes))}",
    )


def _said(base: TerminationReport, reason: str, code: ExitCode, message: str) -> TerminationReport:
    return base.model_copy(update={"reason": reason, "exit_code": int(code), "message": message})


def _of_rank(rank: int, message: str, count: int) -> str:
    return message if count == 1 else f"rank {rank}: {message}"


def _too_late(base: TerminationReport) -> str:
    newest = max((one.step or 0 for one in base.checkpoints or ()), default=0)
    where = f"at step {newest}" if newest else "from the start, since there is no checkpoint"
    return (
        "the grace period was too short for the last checkpoint; raise terminationGracePeriodSeconds. "
        f"The next attempt begins {where}"
    )


def _crash_text(rank: int, code: int, count: int) -> str:
    who = "the training process" if count == 1 else f"training process {rank}"
    if code == -signal.SIGKILL:
        return f"{who} was killed (SIGKILL), most likely because the pod's memory ran out; raise memoryPerGpu"
    if code < 0:
        return f"{who} died of signal {signal.Signals(-code).name}; its last words are in the log"
    return f"{who} ended with code {code} and left no report; its last words are in the log"


def leave(report: TerminationReport, job_name: str) -> None:
    """Says it three times: in the log, in the termination message, on the volume (a deleted pod has no message)."""
    line = f"{job_name}: {report.reason or 'Completed'} (exit code {report.exit_code or 0})"
    print(f"{line}: {report.message}" if report.message else line, flush=True)
    name = os.environ.get(constants.ENV_POD_NAME) or f"attempt-{report.attempt or 1}"
    message = Path(os.environ.get(constants.ENV_TERMINATION_LOG) or constants.TERMINATION_LOG)
    _write(message, report.to_message(), "the termination message")
    _write(work_dir() / "records" / f"{name}.json", report.to_text() + "\n", "the record", aside=True)


def _write(path: Path, text: str, what: str, aside: bool = False) -> None:
    """Writes a last word; where that fails the exit code still stands. aside: whole or not at all."""
    text = redaction.redact(text)
    try:
        if aside:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".part")
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
        else:
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        print(f"note: {what} could not be written to {path}: {error}", flush=True)


def run(arguments: Sequence[str] = ()) -> int:
    """For `python -m finetune_trainer.launch`."""
    if arguments:
        print(
            "finetune_trainer.launch takes no arguments; it reads the file that FINETUNE_CONFIG names", file=sys.stderr
        )
        return int(ExitCode.BAD_CONFIG)
    return main()


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
