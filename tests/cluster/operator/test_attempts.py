"""A job that is drained, killed, suspended, starved of memory or stuck ends like one that was left alone.

The jobs run at the same time under one operator, since most of each one's time is the start of its pods.
"""

import json

import pytest

FAULTY = {"finetuningImage": "finetune-operator/faulty-trainer:test"}
STEPS = {"learning_rate": 0.001, "max_steps": 160, "logging_steps": 1, "save_steps": 5}
SHORT = {**STEPS, "max_steps": 24}


def with_faults(spec, arguments, faults, **changes):
    env = [*spec["env"], *({"name": name, "value": value} for name, value in faults.items())]
    return {**spec, **FAULTY, "env": env, "training_args": arguments, "maxAttempts": 1, **changes}


@pytest.fixture
def evict(kubectl, namespace):
    """evict(pod): as `kubectl drain` does."""

    def run(pod):
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace}}
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction"
        kubectl("create", "--raw", path, "-f", "-", input=json.dumps(body))

    return run


def running_pod(jobs, name):
    pods = jobs.children("pods", name, "train")
    return next(pod["metadata"]["name"] for pod in pods if pod["status"]["phase"] == "Running")


def test_whatever_ends_an_attempt_the_model_is_the_same(operator_process, jobs, spec, evict, kubectl, namespace):
    slow = {"FAULT_BATCH_SECONDS": "0.1"}
    jobs.apply("disturbed", **with_faults(spec, STEPS, slow))
    jobs.apply("calm", **with_faults(spec, STEPS, {}))
    jobs.apply("tight", **with_faults(spec, SHORT, {"FAULT_ROWS_THAT_FIT": "2"}, retryWithSmallerBatch=True))
    jobs.apply("stuck", **with_faults(spec, SHORT, {"FAULT_HANG_ONCE_AT": "12"}, stepTimeoutSeconds=10))

    before = jobs.until_progress("disturbed", 6)
    evict(running_pod(jobs, "disturbed"))
    resumed = jobs.until_resumed("disturbed", at_least=before)
    before = jobs.until_progress("disturbed", resumed + 6)
    kubectl("delete", "pod", running_pod(jobs, "disturbed"), "-n", namespace, "--grace-period=0", "--force")
    resumed = jobs.until_resumed("disturbed", at_least=before - STEPS["save_steps"])
    before = jobs.until_progress("disturbed", resumed + 6, job="disturbed-2")
    jobs.patch("disturbed", suspend=True)
    status = jobs.until_phase("disturbed", "Suspended", timeout=60)
    assert jobs.condition("disturbed", "Suspended")[0] == "True"
    assert [pod for pod in jobs.children("pods", "disturbed", "train") if pod["status"]["phase"] == "Running"] == []
    jobs.patch("disturbed", suspend=False)

    status = jobs.until_phase("disturbed", "Succeeded", "Failed", timeout=120)
    calm = jobs.until_phase("calm", "Succeeded", "Failed", timeout=60)
    assert (status["phase"], status["failures"], calm["phase"]) == ("Succeeded", 0, "Succeeded")
    assert status["progress"]["steps"] == calm["progress"]["steps"] == "160/160"
    assert status["progress"]["loss"] == calm["progress"]["loss"]
    drained, killed, suspended, last = status["attempts"]
    assert [one["outcome"] for one in status["attempts"]] == ["resume", "resume", "resume", "success"]
    assert (drained["job"], drained["exitCode"], drained["node"]) == ("disturbed-1", 75, "local")
    assert drained["message"].startswith("stopped after step")
    assert killed["resumedFromStep"] == drained["lastStep"], "SIGTERM loses nothing"
    assert suspended["reason"] == "Suspended"
    assert last["resumedFromStep"] >= before
    for one in status["attempts"]:
        assert one["durationSeconds"] > 0
        assert one["perDeviceBatch"] == 4

    status = jobs.until_phase("tight", "Succeeded", "Failed", timeout=60)
    assert (status["phase"], status["failures"]) == ("Succeeded", 0)
    told = [(one["reason"], one["outcome"], one["perDeviceBatch"], one["exitCode"]) for one in status["attempts"]]
    assert told == [("OutOfMemory", "resume", 4, 79), ("Completed", "success", 2, 0)]
    effective = status["effective"]
    assert (effective["perDeviceBatch"], effective["accumulation"], effective["totalBatch"]) == (2, 2, 4)
    config = json.loads(jobs.get("configmap", "tight-2")["data"]["job.json"])
    assert config["spec"]["batchsize_conf"]["max_per_device_train_batch_size"] == 2
    assert jobs.condition("tight", "SettingsAdjusted")[0] == "True"

    status = jobs.until_phase("stuck", "Succeeded", "Failed", timeout=60)
    assert (status["phase"], status["failures"]) == ("Succeeded", 0), "it had left a checkpoint, so it does not count"
    hung = status["attempts"][0]
    assert (hung["reason"], hung["exitCode"], hung["outcome"]) == ("NoProgress", 75, "resume")
    assert status["attempts"][1]["resumedFromStep"] == 10
    log = kubectl("logs", hung["pod"], "-n", namespace).stdout
    assert "in faulty" in log, "the stack of what hangs"
