"""`finetune run` to the end on a tiny model: the result, Ctrl-C and resume, and a second run of the command."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

SPEC = {
    "finetuningGpus": 0,
    "data_conf": {"chat_template_name": "chat-ml", "validation_data": {"type": "NONE"}},
    "training_args": {"learning_rate": 5e-3, "max_steps": 400, "logging_steps": 1, "save_steps": 100, "seed": 1},
    "batchsize_conf": {"total_train_batch_size": 4, "max_per_device_train_batch_size": 4},
    "peft_conf": {"peft_type": "NO_PEFT"},
    "run_conf": {},
    "sft_args": {"max_seq_length": 64},
}


@pytest.fixture
def command(base_model, dialogues, tmp_path):
    """`command(*args)`: the argv of a run of the tiny model in `tmp_path`/work."""
    data = {"type": "CONCATENATION", "datasets": [{"path": str(dialogues)}]}
    spec = {**SPEC, "basemodel": str(base_model), "data_conf": {**SPEC["data_conf"], "training_data": data}}
    kind = {"apiVersion": "finetune-operator.io/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "tiny"}}
    (tmp_path / "job.json").write_text(json.dumps({**kind, "spec": spec}))

    def argv(*args):
        manifest, work = str(tmp_path / "job.json"), str(tmp_path / "work")
        return [sys.executable, "-m", "finetune_cli.main", "run", "-f", manifest, "--work-dir", work, *args]

    return argv


@pytest.fixture
def run(command):
    def run(*args):
        result = subprocess.run(command(*args, "-o", "json"), capture_output=True, text=True, timeout=300, check=False)
        assert result.stdout, result.stderr
        return result.returncode, json.loads(result.stdout)

    return run


def wait_for_step(status, step, process):
    """Until the status document on disk has reached `step`."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        if status.exists() and (json.loads(status.read_text()).get("progress") or {}).get("step", 0) >= step:
            return
        time.sleep(0.2)
    raise AssertionError(f"step {step} was not reached; the command's exit code is {process.poll()}")


def test_interrupted_and_run_again_it_ends_as_if_never_interrupted(command, run, tmp_path):
    status_file = tmp_path / "work/status.json"
    process = subprocess.Popen(command(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for_step(status_file, 2, process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 75, output
    assert "the same command goes on from the newest checkpoint" in output
    stopped = json.loads(status_file.read_text())
    assert stopped["phase"] == "Suspended"

    code, resumed = run()
    assert (code, resumed["phase"]) == (0, "Succeeded")
    attempts = resumed["status"]["attempts"]
    assert [attempt["exitCode"] for attempt in attempts] == [75, 0]
    assert attempts[1]["resumedFromStep"] == stopped["attempts"][0]["lastStep"] > 0

    code, whole = run("--fresh")
    assert code == 0
    assert len(whole["status"]["attempts"]) == 1
    assert resumed["loss"] == whole["loss"] < whole["firstLoss"]

    code, again = run()  # a finished run is told, not trained again
    assert (code, again["loss"], len(again["status"]["attempts"])) == (0, whole["loss"], 1)

    other = subprocess.run(
        command("--set", "training_args.seed=2"), capture_output=True, text=True, timeout=60, check=False
    )
    assert other.returncode == 2
    assert "training_args.seed (1 -> 2)" in other.stderr
    assert os.path.isfile(os.path.join(whole["model"]["path"], "config.json"))
