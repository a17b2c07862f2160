"""`finetune watch` against a real API server: changes as they come, the end's exit code, refusals in words.

No operator runs here: the tests write the status themselves, so that each change is known.
"""

import json
import os
import subprocess
import sys
import threading

import pytest

MANIFEST = {
    "apiVersion": "finetune-operator.io/v1alpha1",
    "kind": "FineTuneJob",
    "metadata": {"name": "watched"},
    "spec": {
        "basemodel": "s3://models/base",
        "data_conf": {
            "training_data": {"type": "CONCATENATION", "datasets": [{"path": "s3://data/train.jsonl"}]},
            "validation_data": {"type": "NONE"},
        },
        "training_args": {"max_steps": 2},
        "batchsize_conf": {"total_train_batch_size": 1, "max_per_device_train_batch_size": 1},
        "peft_conf": {"peft_type": "NO_PEFT"},
        "run_conf": {},
        "sft_args": {},
    },
}


def ended(kind, reason, message):
    return {
        "type": kind,
        "status": "True",
        "reason": reason,
        "message": message,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }


TRAINING = {"phase": "Training", "progress": {"step": 1, "totalSteps": 2, "loss": 3.25}}
SUCCEEDED = {
    "phase": "Succeeded",
    "progress": {"step": 2, "totalSteps": 2, "loss": 1.5},
    "model": {"remote": "s3://models/tuned"},
    "conditions": [ended("Complete", "Completed", "finished")],
}
FAILED = {"phase": "Failed", "conditions": [ended("Failed", "BadData", "line 3 of train.jsonl is no JSON")]}


@pytest.fixture
def watched(kubectl, namespace):
    """A job without an operator; `watched(status)` writes its status."""
    kubectl("apply", "-n", namespace, "-f", "-", input=json.dumps(MANIFEST))

    def patch(status):
        patch = json.dumps({"status": status})
        kubectl("patch", "ftj", "watched", "-n", namespace, "--subresource=status", "--type=merge", "-p", patch)

    return patch


class Watch:
    """A running `finetune watch`, whose lines can be awaited."""

    def __init__(self, kubeconfig, namespace, *args):
        command = [sys.executable, "-m", "finetune_cli.main", "watch", "watched", "-n", namespace, *args]
        environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.process = subprocess.Popen(command, env=environment, **streams)
        self.lines = []

    def read_until(self, text):
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            if text in line:
                return self.lines[-1]
        raise AssertionError(f"{text!r} did not come: {self.lines}")

    def end(self):
        self.lines += [line.rstrip() for line in self.process.stdout]
        return self.process.wait(timeout=30)


@pytest.fixture
def watch(kubeconfig, namespace):
    running = []
    timers = []

    def start(*args):
        running.append(Watch(kubeconfig, namespace, *args))
        timers.append(threading.Timer(60, running[-1].process.kill))  # a line that never comes must not hang the run
        timers[-1].start()
        return running[-1]

    yield start
    for timer in timers:
        timer.cancel()
    for one in running:
        one.process.kill()
        one.process.wait()


def test_shows_changes_and_ends_with_success(watched, watch):
    follower = watch()
    follower.read_until("Pending")
    watched(TRAINING)
    assert "step 1/2  loss 3.2500" in follower.read_until("Training")
    watched(SUCCEEDED)
    assert follower.end() == 0
    assert "model: s3://models/tuned" in follower.lines
    assert "\x1b" not in "".join(follower.lines)


def test_ends_with_code_1_and_the_reason_when_the_job_fails(watched, watch):
    watched(FAILED)
    follower = watch()
    assert follower.end() == 1
    assert any("error: watched failed: BadData: line 3 of train.jsonl is no JSON" in line for line in follower.lines)


def test_json_lines_for_programs(watched, watch):
    follower = watch("-o", "json")
    follower.read_until("{")
    watched(TRAINING)
    assert json.loads(follower.read_until('"Training"'))["status"]["progress"]["loss"] == 3.25
    watched(SUCCEEDED)
    assert follower.end() == 0
    assert json.loads(follower.lines[-1])["status"]["phase"] == "Succeeded"


def test_a_job_that_is_deleted_meanwhile(watched, watch, kubectl, namespace):
    follower = watch()
    follower.read_until("Pending")
    kubectl("delete", "ftj", "watched", "-n", namespace)
    assert follower.end() == 1
    assert "error: watched was deleted while it was watched" in follower.lines


def test_no_such_job(watch):
    follower = watch()
    assert follower.end() == 1
    assert any("there is no FineTuneJob 'watched'" in line for line in follower.lines)
