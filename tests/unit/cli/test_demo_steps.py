"""The demo's machinery: what a pipe shows of its steps, what a failing command leaves, that nothing runs on."""

import os
import signal
import sys
import time

import pytest

from finetune_cli.commands import Commands
from finetune_cli.errors import CliError
from finetune_cli.steps import Steps


@pytest.fixture
def commands(tmp_path):
    return Commands(os.environ, tmp_path / "logs")


def python(code):
    return [sys.executable, "-c", code]


def test_a_pipe_shows_start_end_and_detail_of_each_step(capsys):
    with Steps() as steps, steps.step("Make it") as step:
        step.detail = "made"
    first, second = capsys.readouterr().out.splitlines()
    assert first == "... Make it"
    assert second.startswith("ok  Make it (made) [")


def test_a_failed_command_is_told_with_the_end_of_its_log(capsys, commands, tmp_path):
    code = "print('one\\ntwo'); import sys; sys.exit('three')"
    words = r"ended with 1.*\n  one\n  two\n  three"
    with pytest.raises(CliError, match=words), Steps() as steps, steps.step("Break it") as step:
        commands.stream(step, "break", python(code))
    assert "failed  Break it" in capsys.readouterr().out
    assert (tmp_path / "logs/break.log").read_text() == "one\ntwo\nthree\n"


def test_when_one_of_two_fails_the_other_is_ended(commands):
    def sleep():
        with steps.step("Sleep") as step:
            commands.stream(step, "sleep", python("import time; print('up', flush=True); time.sleep(600)"))

    def fail():
        with steps.step("Fail") as step:
            commands.stream(step, "fail", python("raise SystemExit('no')"))

    started = time.monotonic()
    with Steps() as steps, pytest.raises(CliError, match="Fail"):
        steps.side_by_side(sleep, fail, on_failure=commands.stop)
    assert time.monotonic() - started < 60


def test_output_takes_input_and_refuses_a_failure_with_its_words(commands):
    assert commands.output(python("print(input()[::-1])"), input="abc\n") == "cba\n"
    with pytest.raises(CliError, match="sad"):
        commands.output(python("raise SystemExit('sad')"))
    assert commands.output(python("print(1); raise SystemExit(3)"), check=False) == "1\n"


def test_a_missing_program_is_named(commands):
    with pytest.raises(CliError, match="no-such-program"):
        commands.output(["no-such-program"])


def test_demo_options_that_need_use_current(finetune):
    result = finetune("demo", "--kubeconfig", "x")
    assert result.returncode == 2
    assert "--use-current" in result.stderr


def test_stop_reaches_the_whole_group_of_a_command(commands, tmp_path, ends):
    pid_file = tmp_path / "pid"
    code = (
        "import subprocess, sys, pathlib\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(pid_file)!r}).write_text(str(child.pid))\n"
        "print('up', flush=True); child.wait()"
    )

    class Stop:
        """Stops the commands as soon as the child has said that it is up."""

        title = "Stop it"

        def __setattr__(self, name, value):
            if value == "up":
                commands.stop()

    with pytest.raises(CliError, match=f"ended with {-signal.SIGTERM}"):
        commands.stream(Stop(), "stop", python(code))
    assert ends(int(pid_file.read_text()))
