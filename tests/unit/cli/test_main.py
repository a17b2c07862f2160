"""The command as a whole: help, version, unknown commands, pipes."""

import pytest

from finetune_cli.main import COMMANDS


def test_help_names_every_command_on_stdout(finetune):
    result = finetune("--help")
    assert result.returncode == 0
    for command in COMMANDS:
        assert f"  {command}" in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(finetune, command):
    result = finetune(command, "--help")
    assert result.returncode == 0
    assert result.stdout.startswith("usage: finetune " + command)


def test_without_a_command_the_help_goes_to_stderr(finetune):
    result = finetune()
    assert (result.returncode, result.stdout) == (2, "")
    assert "usage" in result.stderr


def test_version(finetune):
    assert finetune("--version").stdout.startswith("finetune 0.")


def test_watch_without_a_cluster_names_the_way_out(finetune):
    result = finetune("watch", "x", "--kubeconfig", "nowhere")
    assert result.returncode == 1
    assert "make cluster-up" in result.stderr
