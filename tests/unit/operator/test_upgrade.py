"""A new version of the operator, with other defaults and settings, meets jobs that an earlier one has started."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_api import resolve
from finetune_operator.plan.plan import finished
from finetune_operator.plan.spec_hash import spec_hash
from finetune_operator.plan.types import Create
from finetune_operator.plan.validate import _resolved

# As f90ff7f computed them. A job whose hash is another after an upgrade is trained anew, and its running pods are
# stopped: change no line of this table.
HASHES = [
    ({"basemodel": "s3://models/tiny"}, "92c13556be6d"),
    ({"basemodel": "s3://m", "training_args": {"learning_rate": 0.001, "max_steps": None}}, "fece95f91ef7"),
    (
        {"basemodel": "s3://m", "suspend": True, "labels": {"a": "b"}, "annotations": {}, "maxAttempts": 9},
        "eb332b949a77",
    ),
    ({"basemodel": "s3://m", "ttlSecondsAfterFinished": 5, "run_conf": {}, "nodes": 2}, "174a1e5c884c"),
]
NEW: dict[str, Any] = {
    "finetuningGpus": 4,
    "memoryPerGpu": 128,
    "cpusPerGpu": 2,
    "mergeAdapter": False,
    "downloadsReservedSize": "1Gi",
    "checkpointsReservedSize": "2Ti",
    "nodes": 2,
    "maxAttempts": 1,
    "stepTimeoutSeconds": 60,
    "terminationGracePeriodSeconds": 30,
    "checkpointsRetention": "Delete",
}


@pytest.fixture
def default(monkeypatch):
    """default(key, value): that of a newer version, in a process that has resolved nothing yet."""

    def change(key: str, value: Any) -> None:
        monkeypatch.setitem(resolve.DEFAULTS, key, value)
        _resolved.cache_clear()

    yield change
    _resolved.cache_clear()


@pytest.fixture
def running(world):
    """A job that trains, with as little said in its spec as may be, so that defaults decide."""
    for key in NEW:
        world.spec.pop(key, None)
    job = world.train_job()
    world.training_with(job, pods=(world.pod(job),)).step()
    assert world.status["attempts"][-1]["job"] == "demo-1"
    return world


def test_the_table_of_new_defaults_is_whole() -> None:
    fixed = {"suspend", "adoptCheckpoints", "cpuProcesses", "runTensorboard"}  # no other value makes a valid default
    assert set(resolve.DEFAULTS) - set(NEW) == fixed
    assert all(resolve.DEFAULTS[key] != value for key, value in NEW.items())


@pytest.mark.parametrize("key", NEW)
def test_a_new_default_touches_no_running_attempt(running, default, key) -> None:
    before = json.dumps(running.status)
    default(key, NEW[key])
    decisions = running.plan()
    assert decisions.actions == ()
    assert decisions.notices == ()
    after = decisions.status
    assert (after["phase"], after["attempts"], after["specHash"]) == tuple(
        json.loads(before)[field] for field in ("phase", "attempts", "specHash")
    )


def test_other_settings_touch_no_running_attempt(running) -> None:
    running.set(
        trainer_image="trainer:next",
        default_gpu_resource="amd.com/gpu",
        max_gpus_per_node=1,
        allowed_images=("elsewhere/",),
        allowed_sources=("hf://elsewhere",),
        mlflow_uri="http://another",
        progress_from=({"podSelector": {}},),
    )
    decisions = running.plan()
    assert decisions.actions == ()
    assert decisions.status["phase"] == running.status["phase"]


def test_the_next_attempt_takes_the_new_default_and_the_frozen_one_stays(running, default) -> None:
    default("mergeAdapter", False)
    job = running.train_job(end="Failed", message="exit code 70")
    download = running.observed["jobs"][0]
    running.observed["jobs"] = (download, job)
    running.observed["pods"] = (running.observed["pods"][0], running.pod(job, exit_code=70))
    running.step()
    running.wait(3600)
    decisions = running.plan()
    made = [a.body for a in decisions.actions if isinstance(a, Create)]
    assert [(one["kind"], one["metadata"]["name"]) for one in made] == [("ConfigMap", "demo-2"), ("Job", "demo-2")]
    assert json.loads(made[0]["data"]["job.json"])["spec"]["mergeAdapter"] is False
    assert made[0]["immutable"] is True


@pytest.mark.parametrize("key", NEW)
def test_a_new_default_starts_no_finished_job_anew(running, default, key) -> None:
    job = running.train_job(end="Complete")
    running.observed["jobs"] = (running.observed["jobs"][0], job)
    running.observed["pods"] = (running.observed["pods"][0], running.pod(job, exit_code=0))
    running.step()
    assert running.status["phase"] == "Succeeded"
    default(key, NEW[key])
    assert finished(running.job)
    decisions = running.plan()
    assert (decisions.actions, decisions.status) == ((), running.status)


@pytest.mark.parametrize(("spec", "known"), HASHES)
def test_the_hash_of_a_training_is_what_it_was(spec, known) -> None:
    assert spec_hash(spec) == known


def test_stricter_rules_end_no_running_attempt_and_start_no_other(running, condition) -> None:
    """Whether the rule is new, or the administrator has taken away an accelerator type."""
    running.spec["acceleratorType"] = "H100"
    running.set(accelerator_labels={"H100": {"gpu": "h100"}})
    running.status, running.observed = {}, {}
    job = running.train_job()
    running.training_with(job, pods=(running.pod(job),)).step()
    before = running.status
    running.set(accelerator_labels={})
    seen = {"cache": None, "checkpoints": None, "pods": ()}  # what observe() reads of an invalid spec

    decisions = running.plan(jobs=(job,), **seen)
    assert decisions.actions == ()
    assert (decisions.status["phase"], decisions.status["attempts"]) == (before["phase"], before["attempts"])
    assert condition(decisions, "Failed") == ("False", "NotFailed")
    assert condition(decisions, "Ready") == ("False", "SpecNoLongerValid")
    assert "acceleratorType 'H100' is unknown" in decisions.status["conditions"][0]["message"]

    # It ends well: told as soon as the setting is back. It fails: the next attempt is refused.
    done = running.plan(jobs=(running.train_job(end="Complete"),), **seen)
    assert condition(done, "Failed") == ("False", "NotFailed")
    failed = running.plan(jobs=(running.train_job(end="Failed"),), **seen)
    assert (failed.status["phase"], condition(failed, "Failed")) == ("Failed", ("True", "InvalidSpec"))
