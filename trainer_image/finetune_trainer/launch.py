"""PID 1 of the train container: starts the training processes, passes signals on, and says how it ended.

Written for this because the usual launchers do not do it (docs/adr): `accelerate launch` on CPU starts one process
instead of two, turns exit codes into 1 and does not pass SIGTERM on; torchrun kills its processes 30 s after SIGTERM.
Imports no torch: it must listen to signals at once. With several nodes each has its own launcher; they meet in
rendezvous.py, end together, and tell the same story.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
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
from finetune_trainer.errors import Interrupted, TrainerError, describe
from finetune_trainer.rendezvous import PATIENCE_SECONDS, Agreed, NodeEnd, Peers, read_place
from finetune_trainer.train.checkpoint_folder import report_checkpoints
from finetune_trainer.train.rank import ENV_RESULT_DIR
from finetune_trainer.train.settings import processes_per_node, read_job_config, read_spec, work_dir

SIGNALS = (signal.SIGTERM, signal.SIGINT)
NEWS = signal.SIGUSR1  # from the thread that listens to the other nodes' launchers
MARGIN_SECONDS = 10.0  # of the grace period, for the last words
LOOK_SECONDS = 2.0  # a SIGCHLD that another thread of this process swallowed costs no more than this
PEER_SECONDS = 5.0  # for the others to say what they saw, when one process has died
LAST_WORD_SECONDS = 10.0  # for the other nodes to say how they ended
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
    signal.pthread_sigmask(signal.SIG_BLOCK, {*SIGNALS, signal.SIGCHLD, NEWS})
    job_name = attempt = None
    try:
        job = read_job_config()
        job_name, attempt = job.name, int(os.environ.get(constants.ENV_ATTEMPT) or job.try_number)
        resolved = read_spec(job)
        count = processes_per_node(resolved)
        peers = find_peers(count, resolved)
        agreed = meet(peers) if peers else Agreed(count, 1, 0, "127.0.0.1", _free_port())
        with tempfile.TemporaryDirectory(prefix="finetune-") as results:
            threads = threads_per_process(resolved, count, available_cpus())
            ranks = start_ranks(agreed, count, Path(results), threads)
            stopped = watch(
                ranks,
                float(os.environ.get(constants.ENV_GRACE) or filled(resolved.spec.termination_grace_period_seconds)),
                peers,
            )
            report = conclude(read_results(Path(results)), ranks, len(ranks.codes), stopped, agreed.size)
            if peers:
                report = join(report, peers, stopped)
    except Exception as error:
        if not isinstance(error, TrainerError):
            traceback.print_exception(error)
        said = describe(error)
        report = TerminationReport(reason=said["reason"], message=said["message"], exit_code=said["exitCode"])
    if report.attempt is None:
        report = report.model_copy(update={"attempt": attempt})
    leave(report, job_name or "job")
    return int(report.exit_code or 0)


def find_peers(count: int, resolved: ResolvedSpec) -> Peers | None:
    """Begins to look for the other nodes' launchers; None for a job of one node."""
    place = read_place(os.environ, count, resolved.total_batch)
    if place is None:
        return None
    main_thread = threading.get_ident()
    peers = Peers(place, wake=lambda: signal.pthread_kill(main_thread, NEWS))
    peers.start()
    return peers


def meet(peers: Peers) -> Agreed:
    """Waits for the other nodes. Raises Interrupted if they do not come, or if the pod is told to stop meanwhile."""
    place, deadline = peers.place, time.monotonic() + PATIENCE_SECONDS
    print(f"node {place.index} of {place.nodes}: waiting for the others at {place.leader}:{place.port}", flush=True)
    while peers.agreed is None:
        if peers.refused:
            raise Interrupted(f"node {place.index} was turned away: {peers.refused}")
        if time.monotonic() > deadline:
            who = f"nodes {peers.missing()[:10]}" if peers.leads else "node 0, or nodes that it waits for,"
            raise Interrupted(
                f"{who} did not come within {PATIENCE_SECONDS / 60:.0f} min: their pods have not started. This attempt "
                "gives its resources back; a queue (queueName) starts all nodes together or none"
            )
        info = signal.sigtimedwait({*SIGNALS, NEWS}, LOOK_SECONDS)
        if info is not None and info.si_signo in SIGNALS:
            raise Interrupted("stopped while waiting for the other nodes; nothing was lost")
    agreed = peers.agreed
    print(f"{agreed.nodes} nodes have met: {agreed.size} processes, at {agreed.address}:{agreed.port}", flush=True)
    if agreed.first_rank is None:
        print("this node is left over: the total batch cannot be spread over it, so it stands idle", flush=True)
    return agreed


def start_ranks(agreed: Agreed, count: int, results: Path, threads: int) -> Ranks:
    """Starts this node's `count` processes, or none if it is left over."""
    ranks = Ranks()
    if agreed.first_rank is None:
        return ranks
    for local_rank in range(count):
        environment = rank_environment(os.environ, agreed, local_rank, count, results, threads)
        process = subprocess.Popen([sys.executable, "-m", "finetune_trainer.train.rank"], env=environment)
        ranks.running[process.pid] = agreed.first_rank + local_rank
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
    given: Mapping[str, str], agreed: Agreed, local_rank: int, count: int, results: Path, threads: int
) -> dict[str, str]:
    """The environment of one process, as torch.distributed's env:// wants it."""
    own = {"OMP_NUM_THREADS": str(threads)}
    if agreed.nodes == 1:
        own["GLOO_SOCKET_IFNAME"] = "lo"  # all processes are in this pod; its host name need not resolve
    return {
        **own,
        **given,
        "RANK": str((agreed.first_rank or 0) + local_rank),
        "LOCAL_RANK": str(local_rank),
        "WORLD_SIZE": str(agreed.size),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": agreed.address,
        "MASTER_PORT": str(agreed.port),
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


def watch(ranks: Ranks, grace: float, peers: Peers | None = None) -> bool:
    """Waits until every process has ended; whether the job was told to stop, here or on another node.

    A signal is passed on, and the processes have the grace period less MARGIN_SECONDS; a second Ctrl-C ends them now.
    When one dies by itself, here or on another node, the others, which wait for it in vain, follow after PEER_SECONDS.
    """
    stopped = False
    deadline: float | None = None
    while ranks.running or _idle(peers, ranks, stopped):
        timeout = LOOK_SECONDS if deadline is None else min(LOOK_SECONDS, max(0.0, deadline - time.monotonic()))
        info = signal.sigtimedwait({*SIGNALS, signal.SIGCHLD, NEWS}, timeout)
        told = info is not None and info.si_signo in SIGNALS
        if told and peers and not stopped:
            peers.say_stopping()
        if told or (peers and peers.stopping and not stopped):
            if stopped and info is not None and info.si_signo == signal.SIGINT:
                deadline = time.monotonic()
            elif not stopped:
                stopped, deadline = True, time.monotonic() + max(1.0, grace - MARGIN_SECONDS)
            _signal_all(ranks, signal.SIGTERM)
        failed = _reap(ranks)
        if failed and peers and not stopped:
            peers.say_failing()
        if (failed or (peers and peers.first is not None)) and not stopped and deadline is None:
            deadline = time.monotonic() + PEER_SECONDS
        if deadline is not None and time.monotonic() >= deadline and ranks.running:
            ranks.killed.update(ranks.running.values())
            _signal_all(ranks, signal.SIGKILL)
            deadline = time.monotonic() + 60.0
    return stopped


def _idle(peers: Peers | None, ranks: Ranks, stopped: bool) -> bool:
    """Whether this is a node without processes, whose others still train."""
    return peers is not None and not ranks.codes and not stopped and peers.first is None and 0 not in peers.ends


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


def conclude(
    results: Mapping[int, dict[str, Any]], ranks: Ranks, count: int, stopped: bool, size: int | None = None
) -> TerminationReport:
    """One report for this node's `count` ranks of `size` in all: the first rank's numbers, and the code and words of
    the rank that explains most."""
    size = size or count
    reports = {rank: TerminationReport.model_validate(result["report"]) for rank, result in results.items()}
    nothing = TerminationReport(checkpoints=report_checkpoints(work_dir() / "checkpoints") or None)
    base = reports[min(reports)] if reports and (0 in reports or size > count) else nothing
    codes = {rank: int(reports[rank].exit_code or 0) if rank in reports else None for rank in ranks.codes}
    spoken = {rank: code for rank, code in codes.items() if code}
    # A rank that the launcher killed, or that died of a peer's death, explains nothing if another one does.
    worst = min(spoken, key=lambda rank: _rank_of(spoken[rank]), default=None)
    silent = [rank for rank, code in codes.items() if code is None]
    crashed = [rank for rank in silent if rank not in ranks.killed]
    if stopped and silent and (worst is None or spoken[worst] == ExitCode.INTERRUPTED):
        return _said(base, "Interrupted", ExitCode.INTERRUPTED, _too_late(base))
    if worst is not None and not (crashed and spoken[worst] == ExitCode.INTERNAL):
        said = reports[worst]
        known = {"effective": base.effective or said.effective, "resumed_from_step": said.resumed_from_step}
        told = base.model_copy(update=known)
        return _said(told, said.reason, ExitCode(spoken[worst]), _of_rank(worst, said.message, size))
    if crashed:
        return _said(base, "InternalError", ExitCode.INTERNAL, _crash_text(crashed[0], ranks.codes[crashed[0]], size))
    if silent:
        return _said(base, "InternalError", ExitCode.INTERNAL, f"rank {silent[0]} did not end by itself and was killed")
    return _check_world(base, results, count, size)


def _check_world(
    base: TerminationReport, results: Mapping[int, dict[str, Any]], count: int, size: int
) -> TerminationReport:
    """Success counts only if every process trained in the same world."""
    sizes = {result.get("worldSize") for result in results.values()}
    if sizes <= {size} and len(results) == count:
        return base
    return _said(
        base,
        "InternalError",
        ExitCode.INTERNAL,
        f"{size} processes were started, but they met as {sorted(map(str, sizes))}",
    )


def join(own: TerminationReport, peers: Peers, stopped: bool) -> TerminationReport:
    """What this node says of the attempt, after telling the others how it ended here and hearing how it did there.

    A failure is explained by the node that failed first, since the others only saw their connections break; what cannot
    be mended counts from any node. A node that was lost without a word is an interruption, as a lost pod is.
    """
    index = peers.place.index
    peers.finish(NodeEnd(index, int(own.exit_code or 0), own.reason, own.message))
    if not peers.leads and not own.exit_code:
        if stopped or _told_to_stop_before_the_end(peers):
            own = _said(own, "Interrupted", ExitCode.INTERRUPTED, "stopped before node 0 had written the result")
            stopped = True
    elif not stopped or own.exit_code == ExitCode.INTERNAL:
        others = {peers.first} if peers.first is not None else set()
        # A rank sees its connection break before the node behind it is known to be lost.
        broken = own.exit_code == ExitCode.INTERNAL and peers.first in (None, index)
        if (not own.exit_code or broken) and peers.agreed:
            others = set(range(peers.agreed.nodes))
        peers.wait_for_end_of(others - {index}, LAST_WORD_SECONDS)
    alone = stopped and not (own.exit_code == ExitCode.INTERNAL and peers.lost)
    report = own if alone else _with_the_others(own, peers, index)
    peers.close()
    return report


def _told_to_stop_before_the_end(peers: Peers) -> bool:
    """Waits for node 0, which exports and uploads when all others are done; whether this pod was told to stop first.

    A pod that succeeded is not started again with its Job, and the others would wait for it.
    """
    while 0 not in {*peers.ends, *peers.lost} and peers.first is None:
        info = signal.sigtimedwait({*SIGNALS, NEWS}, LOOK_SECONDS)
        told = info is not None and info.si_signo in SIGNALS
        if told:
            peers.say_stopping()
        if told or peers.stopping:
            return True
    peers.wait_for_end_of({peers.first} if peers.first is not None else {0}, LAST_WORD_SECONDS)
    return False


def _with_the_others(own: TerminationReport, peers: Peers, index: int) -> TerminationReport:
    first, code = peers.first, int(own.exit_code or 0)
    if first == index and code == ExitCode.INTERNAL and peers.lost:
        first = min(peers.lost)
    if first is None or first == index:
        return own
    end = peers.ends.get(first)
    explains = code not in (int(ExitCode.OK), int(ExitCode.INTERNAL))  # and is no echo
    if explains and (end is None or _rank_of(code) < _rank_of(end.code)):
        return own
    if end is None:
        return _said(
            own,
            "Interrupted",
            ExitCode.INTERRUPTED,
            f"node {first} went away without a word: its pod was killed, or its machine lost. The next attempt resumes "
            "from the newest checkpoint",
        )
    return _said(own, end.reason, ExitCode(end.code), f"node {first}: {end.message}")


def _rank_of(code: int) -> int:
    return PRECEDENCE.index(code) if code in PRECEDENCE else 99


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
