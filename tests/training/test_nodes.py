"""Launchers of several nodes: how they meet, what each makes of another's end. They are threads and small processes
here; whole trainings on separate pod addresses are in tests/cluster/operator/test_nodes.py."""

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from finetune_api.batch import nodes_that_train
from finetune_api.report import TerminationReport
from finetune_trainer import rendezvous
from finetune_trainer.errors import BadConfiguration
from finetune_trainer.launch import Ranks, join, watch
from finetune_trainer.rendezvous import NodeEnd, Peers, Place, read_place

Meet = Callable[..., Peers]


@pytest.fixture
def node() -> Iterator[Meet]:
    """node(index, nodes=2, …) -> a launcher's side of the rendezvous, already looking for the others."""
    started: list[Peers] = []
    with socket.socket() as probe:
        probe.bind(("127.0.1.1", 0))
        port = probe.getsockname()[1]

    def start(index: int, nodes: int = 2, **given: Any) -> Peers:
        values = {"least": nodes, "processes": 2, "total_batch": 8, "run": "uid/1", **given}
        place = Place(index=index, nodes=nodes, leader="127.0.1.1", port=port, address=f"127.0.{index + 1}.1", **values)
        peers = Peers(place, wake=lambda: None)
        peers.start()
        started.append(peers)
        return peers

    yield start
    for peers in started:
        peers.close()


def until(condition: Callable[[], Any], seconds: float = 10) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.005)


def test_all_nodes_agree_on_one_world(node: Meet) -> None:
    late = [node(2, 3), node(1, 3)]  # before node 0 listens
    leader = node(0, 3, total_batch=12)
    until(lambda: all(one.agreed for one in (*late, leader)))
    assert [one.agreed and one.agreed.first_rank for one in (leader, late[1], late[0])] == [0, 2, 4]
    assert {(one.agreed.size, one.agreed.address, one.agreed.port) for one in (leader, *late) if one.agreed} == {
        (6, "127.0.1.1", leader.agreed.port if leader.agreed else 0)
    }


def test_fewer_nodes_begin_when_no_more_are_granted(node: Meet, monkeypatch: pytest.MonkeyPatch) -> None:
    """3 of 4 came; 8 sequences cannot be spread over 3 x 2 processes, so one stands idle."""
    monkeypatch.setattr(rendezvous, "SETTLE_SECONDS", 0.5)
    nodes = [node(index, 4, least=2) for index in range(3)]
    until(lambda: all(one.agreed for one in nodes))
    assert [one.agreed and one.agreed.first_rank for one in nodes] == [0, 2, None]
    assert {one.agreed.size for one in nodes if one.agreed} == {4}


@pytest.mark.parametrize(("granted", "expected"), [(4, 4), (3, 2), (2, 2), (1, 1)])
def test_nodes_over_which_the_total_batch_can_be_spread(granted: int, expected: int) -> None:
    assert nodes_that_train(granted, processes=2, total_batch=16) == expected


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"run": "uid/2"}, "another job's rendezvous, or another try's"),
        ({"processes": 4}, "node 1 has 4 processes, node 0 has 2"),
    ],
)
def test_a_stranger_is_turned_away(node: Meet, given: dict[str, Any], why: str) -> None:
    leader, stranger = node(0), node(1, **given)
    until(lambda: stranger.refused)
    assert why in (stranger.refused or "")
    assert leader.agreed is None
    assert leader.missing() == [1]


def test_noise_on_the_port_does_no_harm(node: Meet) -> None:
    leader = node(0)
    until(lambda: _noise(leader, b"GET / HTTP/1.1\r\n\r\n"))
    _noise(leader, b"x" * 200_000)
    other = node(1)
    until(lambda: leader.agreed and other.agreed)


def _noise(leader: Peers, data: bytes) -> bool:
    try:
        with socket.create_connection((leader.place.address, leader.place.port), 1) as connection:
            connection.sendall(data)
            return True
    except ConnectionRefusedError:
        return False
    except OSError:
        return True


def test_a_node_told_to_stop_stops_all(node: Meet) -> None:
    leader, other, third = node(0, 3, total_batch=12), node(1, 3), node(2, 3)
    until(lambda: all(one.agreed for one in (leader, other, third)))
    other.say_stopping()
    until(lambda: leader.stopping and third.stopping)


def _report(code: int, reason: str = "InternalError", message: str = "echo") -> TerminationReport:
    return TerminationReport(reason=reason, message=message, exit_code=code, step=5)


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [
        (70, 79, (79, "OutOfMemory", "node 1: why")),  # the cause, not the broken connection that others saw
        (70, 70, (70, "OutOfMemory", "node 1: why")),
        (65, 70, (65, "InternalError", "echo")),  # what cannot be mended counts from any node
        (0, 70, (70, "OutOfMemory", "node 1: why")),  # the world trained together, or did not train
        (0, 0, (0, "InternalError", "echo")),
    ],
)
def test_the_first_failure_explains_the_attempt(
    node: Meet, own: int, other: int, expected: tuple[int, str, str]
) -> None:
    leader, follower = node(0), node(1)
    until(lambda: leader.agreed and follower.agreed)
    if other:
        follower.say_failing()
        until(lambda: leader.first == 1)
    follower.finish(NodeEnd(1, other, "OutOfMemory", "why"))
    report = join(_report(own), leader, stopped=False)
    assert (report.exit_code, report.reason, report.message) == expected
    assert report.step == 5


def test_a_node_that_is_lost_without_a_word_is_an_interruption(node: Meet) -> None:
    leader, follower, third = node(0, 3, total_batch=12), node(1, 3), node(2, 3)
    until(lambda: all(one.agreed for one in (leader, follower, third)))
    follower.close()  # as the kernel does for a killed process
    until(lambda: leader.first == 1 and third.first == 1)
    for one in (leader, third):
        report = join(_report(70), one, stopped=False)
        assert (report.exit_code, report.reason) == (75, "Interrupted")
        assert "node 1 went away without a word" in report.message


def test_a_broken_connection_seen_before_its_node_is_lost_is_an_interruption_too(node: Meet) -> None:
    leader, follower = node(0), node(1)
    until(lambda: leader.agreed and follower.agreed)
    leader.say_failing()
    follower.close()
    report = join(_report(70), leader, stopped=False)
    assert (report.exit_code, report.reason) == (75, "Interrupted")


def test_a_node_killed_while_it_stops_is_an_interruption(node: Meet) -> None:
    """Told to stop, its pod has not the time for the checkpoint: the others lose it in the middle of theirs."""
    leader, follower = node(0), node(1)
    until(lambda: leader.agreed and follower.agreed)
    follower.say_stopping()
    until(lambda: leader.stopping)
    follower.close()
    report = join(_report(70), leader, stopped=True)
    assert (report.exit_code, report.reason) == (75, "Interrupted")


def test_a_crash_while_all_stop_is_a_failure(node: Meet) -> None:
    leader, follower = node(0), node(1)
    until(lambda: leader.agreed and follower.agreed)
    follower.finish(NodeEnd(1, 75, "Interrupted", "saved"))
    report = join(_report(70), leader, stopped=True)
    assert (report.exit_code, report.message) == (70, "echo")


@pytest.mark.parametrize(
    ("leader_code", "expected"), [(0, 0), (69, 69)], ids=["node 0 succeeds", "node 0 cannot upload the result"]
)
def test_no_node_is_done_before_node_0_is(node: Meet, leader_code: int, expected: int) -> None:
    """A pod that has succeeded is not started again with its Job, should the rest be preempted meanwhile."""
    leader, follower = node(0), node(1)
    until(lambda: leader.agreed and follower.agreed)
    ended: list[TerminationReport] = []
    waiting = threading.Thread(target=lambda: ended.append(join(_report(0, ""), follower, stopped=False)))
    waiting.start()
    until(lambda: 1 in leader.ends)
    waiting.join(0.5)
    assert not ended
    leader.finish(NodeEnd(0, leader_code, "Unavailable", "the store did not answer"))
    waiting.join(10)
    assert [report.exit_code for report in ended] == [expected]


def test_a_node_told_to_stop_while_node_0_writes_the_result_has_not_succeeded(node: Meet) -> None:
    leader, follower = node(0), node(1)
    until(lambda: leader.agreed and follower.agreed)
    leader.say_stopping()
    until(lambda: follower.stopping)
    report = join(_report(0, ""), follower, stopped=False)
    assert (report.exit_code, report.reason) == (75, "Interrupted")
    assert "before node 0 had written the result" in report.message


def test_a_silent_node_is_lost(node: Meet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without power closes no connection."""
    monkeypatch.setattr(rendezvous, "SILENCE_SECONDS", 1.0)
    monkeypatch.setattr(rendezvous, "BEAT_SECONDS", 0.2)
    leader, follower = node(0), node(1)
    until(lambda: leader.agreed and follower.agreed)
    time.sleep(1.5)
    assert leader.first is None  # heartbeats keep it alive
    follower._tell = lambda *_, **__: None  # type: ignore[method-assign]
    until(lambda: leader.first == 1)


def test_ranks_end_within_seconds_of_another_node_s_failure(node: Meet) -> None:
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGUSR1})
    try:
        leader, follower = node(0), node(1)
        until(lambda: leader.agreed and follower.agreed)
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        threading.Timer(0.2, follower.say_failing).start()
        began = time.monotonic()
        ranks = Ranks(running={process.pid: 0})
        assert watch(ranks, grace=100, peers=leader) is False
        assert time.monotonic() - began < 15
        assert ranks.killed == {0}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def test_another_node_s_sigterm_is_this_one_s(node: Meet) -> None:
    """All ranks write the checkpoint together, within the grace period."""
    obeys = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(75)); print(flush=True); time.sleep(60)"
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGUSR1})
    try:
        leader, follower = node(0), node(1)
        until(lambda: leader.agreed and follower.agreed)
        process = subprocess.Popen([sys.executable, "-c", obeys], stdout=subprocess.PIPE)
        assert process.stdout is not None
        with process.stdout:
            process.stdout.readline()
        follower.say_stopping()
        ranks = Ranks(running={process.pid: 0})
        assert watch(ranks, grace=100, peers=leader) is True
        assert ranks.codes == {0: 75}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def test_where_the_nodes_meet_comes_from_the_operator() -> None:
    given = {
        "FINETUNE_NODES": "2",
        "JOB_COMPLETION_INDEX": "1",
        "FINETUNE_RENDEZVOUS": "a-1-0.a-1",
        "POD_IP": "10.0.0.9",
    }
    place = read_place(given, processes=4, total_batch=8)
    assert place is not None
    assert (place.index, place.leader, place.port, place.service, place.address) == (
        1,
        "a-1-0.a-1",
        29400,
        "a-1",
        "10.0.0.9",
    )
    assert read_place({}, 4, 8) is None
    with pytest.raises(BadConfiguration, match="JOB_COMPLETION_INDEX"):
        read_place({"FINETUNE_NODES": "2"}, 4, 8)
