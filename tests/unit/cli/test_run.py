"""`finetune run` before any training: what a machine without a cluster cannot honour is said, never dropped."""

import fcntl
import json

import pytest

MISSING = "/no/such/model"


@pytest.fixture
def local(manifest):
    """A manifest whose base model is a folder that is not there, so that a run ends in the download."""

    def write(*changes):
        return manifest("s3://models/base", MISSING, *changes)

    return write


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("basemodel=pvc://models/llama", "--set basemodel=/absolute/path"),
        ("data_conf.training_data.datasets[0].path=configmap://data/x.jsonl", "which only a cluster has"),
        (
            "env=[{name: SOME_SECRET, valueFrom: {secretKeyRef: {name: a, key: b}}}]",
            "set SOME_SECRET in your environment",
        ),
    ],
)
def test_what_only_a_cluster_has_is_refused_with_the_way_out(finetune, local, assignment, words):
    result = finetune("run", "-f", local(), "--set", assignment)
    assert result.returncode == 1
    assert words in result.stderr


def test_code_of_a_model_runs_only_if_the_command_says_so_too(finetune, manifest):
    pinned = ("run_conf.model_args.trust_remote_code=true", f"run_conf.model_args.revision={'ab' * 20}")
    wanted = [text for one in ("basemodel=hf://org/own", *pinned) for text in ("--set", one)]
    result = finetune("run", "-f", manifest(), *wanted)
    assert result.returncode == 1
    assert "--allow-remote-code" in result.stderr


def test_keys_of_the_cluster_are_ignored_with_a_word(finetune, local):
    result = finetune("run", "-f", local(), "--set", "queueName=team", "--set", "storageClass=fast")
    assert "spec.queueName means nothing without a cluster" in result.stderr
    assert "spec.storageClass means nothing without a cluster" in result.stderr


def test_a_missing_model_ends_with_the_trainers_code_and_a_status_on_disk(finetune, local, tmp_path):
    result = finetune("run", "-f", local())
    assert result.returncode == 66
    assert f"error: example failed: InputMissing: {MISSING}" in result.stderr
    assert "\x1b" not in result.stdout + result.stderr
    status = json.loads((tmp_path / "finetune-runs/example/status.json").read_text())
    assert (status["phase"], status["attempts"][0]["exitCode"]) == ("Failed", 66)


def test_the_status_is_a_status_of_the_api(finetune, local, tmp_path):
    from finetune_api.status import FineTuneJobStatus

    finetune("run", "-f", local())
    text = (tmp_path / "finetune-runs/example/status.json").read_text()
    status = FineTuneJobStatus.model_validate_json(text)
    assert {condition.type: condition.status for condition in status.conditions}["Failed"] == "True"


def test_json_is_one_document_on_stdout(finetune, local):
    result = finetune("run", "-f", local(), "-o", "json")
    assert result.returncode == 66
    document = json.loads(result.stdout)
    assert (document["phase"], document["exitCode"], document["loss"]) == ("Failed", 66, None)


def test_one_run_at_a_time_in_a_folder(finetune, local, tmp_path):
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = finetune("run", "-f", local(), "--work-dir", tmp_path)
    assert result.returncode == 1
    assert "another `finetune run`, plan or validate" in result.stderr


def test_fresh_removes_what_a_run_made_and_nothing_else(finetune, local, tmp_path):
    finetune("run", "-f", local(), "--work-dir", "here")
    (tmp_path / "here/mine.txt").write_text("keep")
    (tmp_path / "here/checkpoints").mkdir()
    finetune("run", "-f", local(), "--work-dir", "here", "--fresh")
    assert (tmp_path / "here/mine.txt").read_text() == "keep"
    assert not (tmp_path / "here/checkpoints").exists()
    status = json.loads((tmp_path / "here/status.json").read_text())
    assert len(status["attempts"]) == 1
