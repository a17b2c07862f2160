"""What the launcher makes of its processes, with processes of its own that need no torch."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.launch import Ranks, conclude, rank_environment, read_results, threads_per_process, watch
from finetune_trainer.rendezvous import Agreed
from finetune_trainer.train.settings import read_spec

Script = Callable[..., Ranks]


@pytest.fixture
def ranks() -> Iterator[Script]:
    """ranks(*sources) starts a Python process for each source; signals are held back as in the launcher."""
    held = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    processes: list[subprocess.Popen[bytes]] = []

    def start(*sources: str) -> Ranks:
        started = Ranks()
        for rank, source in enumerate(sources):
            process = subprocess.Popen([sys.executable, "-c", source])
            processes.append(process)
            started.running[process.pid] = rank
        return started

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


OBEYS = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep({seconds}), sys.exit(75)))
signal.pthread_sigmask(signal.SIG_SETMASK, ())
time.sleep(60)
"""


def _terminate_soon() -> None:
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()


def test_a_signal_is_passed_on_and_the_grace_period_waited_for(ranks: Script) -> None:
    started = ranks(OBEYS.format(seconds=2), OBEYS.format(seconds=0))
    _terminate_soon()
    assert watch(started, grace=30) is True
    assert started.codes == {0: 75, 1: 75}


def test_what_does_not_end_in_time_is_killed_and_said(
    ranks: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FINETUNE_WORK_DIR", str(tmp_path))
    started = ranks(OBEYS.format(seconds=60))
    _terminate_soon()
    began = time.monotonic()
    assert watch(started, grace=12) is True
    assert 2 <= time.monotonic() - began < 10
    report = conclude({}, started, 1, stopped=True)
    assert (report.reason, report.exit_code) == ("Interrupted", 75)
    assert "raise terminationGracePeriodSeconds" in report.message


def test_an_end_is_noticed_though_another_thread_took_its_signal(ranks: Script) -> None:
    done = threading.Event()

    def listen() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        done.wait()

    other = threading.Thread(target=listen)
    other.start()
    started = ranks("pass")
    (pid,) = started.running
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # it ended while nobody waited for the signal
    began = time.monotonic()
    assert watch(started, grace=30) is False
    assert time.monotonic() - began < 30  # it was 60
    done.set()
    other.join()


def test_orphans_are_collected(ranks: Script) -> None:
    """PID 1 inherits what its descendants leave; here the test process stands in for it."""
    import ctypes

    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
    started = ranks("import os, subprocess; subprocess.Popen(['sleep', '0.2']); import time; time.sleep(1)")
    assert watch(started, grace=30) is False
    assert started.codes == {0: 0}
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def _result(folder: Path, rank: int, code: int, reason: str = "R", world: int = 2) -> None:
    report = {"reason": reason, "message": f"{reason} of {rank}", "exitCode": code, "step": 5}
    (folder / f"rank-{rank}.json").write_text(json.dumps({"worldSize": world, "report": report}))


@pytest.mark.parametrize(
    ("said", "codes", "killed", "expected"),
    [
        ({0: 0, 1: 0}, {0: 0, 1: 0}, set(), 0),
        ({0: 70, 1: 79}, {0: 70, 1: 79}, set(), 79),
        ({0: 70, 1: 65}, {0: 70, 1: 65}, set(), 65),
        ({0: 75, 1: 70}, {0: 75, 1: 70}, set(), 75),
        ({0: 75, 1: 75}, {0: 75, 1: 75}, set(), 75),
        ({0: 69, 1: 75}, {0: 69, 1: 75}, set(), 69),
        ({1: 66}, {0: -9, 1: 66}, {0}, 66),
        ({0: 70}, {0: 70, 1: -9}, set(), 70),
        ({}, {0: -11, 1: -9}, {1}, 70),
        ({0: 0}, {0: 0, 1: -9}, {1}, 70),
    ],
)
def test_one_code_for_all(
    tmp_path: Path, said: dict[int, int], codes: dict[int, int], killed: set[int], expected: int
) -> None:
    for rank, code in said.items():
        _result(tmp_path, rank, code)
    report = conclude(read_results(tmp_path), Ranks(codes=codes, killed=killed), 2, stopped=False)
    assert report.exit_code == expected


def test_a_crash_explains_more_than_its_echo(tmp_path: Path) -> None:
    """Rank 0 only saw its connection break; that rank 1 was killed is the reason."""
    _result(tmp_path, 0, 70, "InternalError")
    report = conclude(read_results(tmp_path), Ranks(codes={0: 70, 1: -9}), 2, stopped=False)
    assert "training process 1 was killed" in report.message
    assert report.step == 5


def test_success_in_a_smaller_world_is_none(tmp_path: Path) -> None:
    for rank in (0, 1):
        _result(tmp_path, rank, 0, world=1)
    report = conclude(read_results(tmp_path), Ranks(codes={0: 0, 1: 0}), 2, stopped=False)
    assert report.exit_code == 70
    assert "2 processes were started, but they met as ['1']" in report.message


def test_the_users_environment_wins(tmp_path: Path) -> None:
    here = Agreed(size=2, nodes=1, first_rank=0, address="127.0.0.1", port=4711)
    environment = rank_environment({"OMP_NUM_THREADS": "7"}, here, 1, 2, tmp_path, 3)
    assert environment["OMP_NUM_THREADS"] == "7"
    assert (environment["RANK"], environment["WORLD_SIZE"], environment["MASTER_PORT"]) == ("1", "2", "4711")
    assert rank_environment({}, here, 0, 1, tmp_path, 3)["OMP_NUM_THREADS"] == "3"


def test_a_rank_of_another_node_knows_its_place_in_the_world(tmp_path: Path) -> None:
    there = Agreed(size=6, nodes=3, first_rank=2, address="10.0.0.7", port=4711)
    environment = rank_environment({}, there, 1, 2, tmp_path, 1)
    assert (environment["RANK"], environment["LOCAL_RANK"], environment["WORLD_SIZE"]) == ("3", "1", "6")
    assert environment["MASTER_ADDR"] == "10.0.0.7"
    assert "GLOO_SOCKET_IFNAME" not in environment  # the pod's own address, which its host name has


@pytest.mark.parametrize(
    ("spec", "count", "available", "threads"),
    [
        ({"cpusPerGpu": 1}, 1, 64, 1),  # as asked, however large the node is
        ({"cpusPerGpu": 8}, 1, 2, 2),  # never more than there are
        ({"cpusPerGpu": 8}, 2, 64, 4),  # on CPU it is the pod's, shared by the processes
        ({"cpusPerGpu": 8, "finetuningGpus": 2}, 2, 64, 8),
        ({"cpusPerGpu": 0.5}, 1, 4, 1),
        ({}, 1, 64, 8),
    ],
)
def test_threads_follow_the_manifest_not_the_node(
    make_config: Any, spec: dict[str, Any], count: int, available: int, threads: int
) -> None:
    resolved = read_spec(make_config(spec=spec))
    assert threads_per_process(resolved, count, available) == threads
