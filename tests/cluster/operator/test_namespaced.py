"""Namespaced mode: with Roles of one namespace alone the operator works there, and leaves every other one alone."""

import copy
import json
import uuid

import pytest


@pytest.fixture
def other_namespace(kubectl):
    name = f"test-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", name)
    yield name
    kubectl("delete", "namespace", name, "--wait=false", check=False)


def test_jobs_of_another_namespace_are_left_alone(operator_process, kubectl, namespace, other_namespace, standing_job):
    for where in (other_namespace, namespace):
        kubectl("create", "-n", where, "-f", "-", input=json.dumps(copy.deepcopy(standing_job)))
    kubectl("wait", "-n", namespace, "--for=condition=Suspended", "ftj/standing", "--timeout=60s")
    other = json.loads(kubectl("get", "-n", other_namespace, "ftj/standing", "-o", "json").stdout)
    assert other["status"].keys() <= {"observedGeneration"}  # the CRD's own default
    kubectl("delete", "-n", namespace, "ftj/standing", "--wait=false")


@pytest.fixture
def standing_job():
    """A job that is seen and not started."""
    return {
        "apiVersion": "finetune-operator.io/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "standing"},
        "spec": {
            "suspend": True,
            "basemodel": "s3://models/tiny",
            "finetuningGpus": 0,
            "data_conf": {
                "training_data": {"type": "CONCATENATION", "datasets": [{"path": "s3://data/train.jsonl"}]},
                "validation_data": {"type": "NONE"},
            },
            "training_args": {"learning_rate": 0.001},
            "batchsize_conf": {"total_train_batch_size": 8, "max_per_device_train_batch_size": 4},
            "peft_conf": {"peft_type": "NO_PEFT"},
            "run_conf": {},
            "sft_args": {},
        },
    }
