"""Ctrl-C of a local run: the first lets the trainer write its checkpoint, the second ends everything at once."""

import os
import signal
import sys
import textwrap

import pytest

from finetune_cli.child import Interrupts, run_child, tail

CHILD = """
import os, signal, subprocess, sys, time
rank = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
def stop(*_):
    if {polite}:
        print("checkpoint written", flush=True)
        os._exit(75)
signal.signal(signal.SIGTERM, stop)
print("ready", rank.pid, flush=True)
while True:
    time.sleep(600)
"""


def script(polite):
    return [sys.executable, "-c", textwrap.dedent(CHILD).format(polite=polite)]


@pytest.mark.parametrize(("polite", "interrupts", "code"), [(True, 1, 75), (False, 2, 128 + signal.SIGKILL)])
def test_interrupts_reach_the_child_and_nothing_stays_behind(tmp_path, polite, interrupts, code, ends):
    log, first, sent = tmp_path / "child.log", [], []

    def on_tick():
        if "ready" in tail(log) and len(sent) < interrupts:
            sent.append(True)
            os.kill(os.getpid(), signal.SIGINT)

    with Interrupts(lambda: first.append(True)).installed() as handler:
        assert run_child(script(polite), os.environ, log, handler, on_tick) == code
    assert first == [True]
    assert ("checkpoint written" in log.read_text()) == polite
    assert ends(int(log.read_text().split()[1]))


def test_an_interrupt_between_two_children_reaches_the_second(tmp_path):
    ready_then_wait = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_DFL); time.sleep(600)"
    with Interrupts(lambda: None).installed() as handler:
        os.kill(os.getpid(), signal.SIGTERM)
        code = run_child([sys.executable, "-c", ready_then_wait], os.environ, tmp_path / "log", handler, lambda: None)
    assert code == 128 + signal.SIGTERM


def test_the_exit_code_is_the_childs_own(tmp_path):
    with Interrupts(lambda: None).installed() as handler:
        command = [sys.executable, "-c", "print('so it is'); raise SystemExit(65)"]
        assert run_child(command, os.environ, tmp_path / "log", handler, lambda: None) == 65
    assert tail(tmp_path / "log") == "so it is"
