"""A job on two nodes with two processes each: real pods on addresses of their own, which meet through their service."""

from datetime import datetime

import pytest

STEPS = {"learning_rate": 0.001, "max_steps": 24, "logging_steps": 1, "save_steps": 4}
SLOW = {"name": "FAULT_BATCH_SECONDS", "value": "0.2"}


def train_pods(jobs, name, job):
    pods = jobs.children("pods", name, "train")
    return {
        pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"]: pod
        for pod in pods
        if pod["metadata"]["labels"]["batch.kubernetes.io/job-name"] == job
    }


def seconds_between(earlier, later):
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


def test_two_nodes_lose_one_and_end_with_the_model_of_one_process(operator_process, jobs, spec, kubectl, namespace):
    """A pod is killed without a word: the other one ends in seconds, and the whole resumes."""
    slow = {**spec, "finetuningImage": "finetune-operator/faulty-trainer:test", "env": [*spec["env"], SLOW]}
    jobs.apply("pair", **{**slow, "training_args": STEPS, "nodes": 2, "cpuProcesses": 2, "maxAttempts": 1})
    jobs.apply("alone", **{**spec, "training_args": STEPS})
    jobs.until_progress("pair", 5, job="pair-1")
    pods = train_pods(jobs, "pair", "pair-1")
    addresses = {index: pod["status"]["podIP"] for index, pod in pods.items()}
    assert len(set(addresses.values())) == 2
    service = jobs.get("services", "pair-1")
    assert service["spec"]["clusterIP"] == "None"
    assert service["metadata"]["ownerReferences"][0]["name"] == "pair"
    claim = jobs.get("pvc", "pair-checkpoints")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    log = kubectl("logs", pods["1"]["metadata"]["name"], "-n", namespace).stdout
    assert f"2 nodes have met: 4 processes, at {addresses['0']}:" in log

    kubectl("delete", "pod", pods["1"]["metadata"]["name"], "-n", namespace, "--grace-period=0", "--force")
    resumed = jobs.until_resumed("pair", at_least=4)
    status = jobs.until_phase("pair", "Succeeded", "Failed", timeout=120)
    first, second = status["attempts"]
    assert (status["phase"], status["failures"], first["outcome"], second["outcome"]) == (
        "Succeeded",
        0,
        "resume",
        "success",
    )
    assert second["resumedFromStep"] == resumed
    assert seconds_between(first["endTime"], second["startTime"]) < 60
    assert status["effective"]["worldSize"] == 4
    assert status["progress"]["steps"] == "24/24"
    alone = jobs.until_phase("alone", "Succeeded", "Failed", timeout=60)
    assert status["progress"]["loss"] == pytest.approx(alone["progress"]["loss"], rel=1e-5)
