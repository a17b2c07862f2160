"""An object stored under an earlier version's CRD, after the CRD has been upgraded: it reads, and its status is kept.

The two CRDs are given a group of this test's own, so that the shared control plane keeps its own. The earlier one is
crds/finetunejobs.yaml of f90ff7f (issue 3).
"""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path

import pytest
import yaml

from finetune_operator.plan.plan import finished
from finetune_operator.plan.spec_hash import spec_hash

ROOT = Path(__file__).resolve().parents[3]
GROUP = "upgrade-test.io"
KIND = f"finetunejobs.{GROUP}"


def moved(text: str) -> str:
    crd = yaml.safe_load(text)
    crd["spec"]["group"] = GROUP
    crd["metadata"] = {"name": KIND}
    crd["spec"]["names"].pop("shortNames", None)
    crd["spec"]["names"].pop("categories", None)
    return json.dumps(crd)


@pytest.fixture
def install(kubectl):
    """install(text of a CRD): creates or upgrades it, and waits until it is served as it is."""

    def run(text: str) -> None:
        kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=moved(text))
        kubectl("wait", "--for=condition=Established", f"crd/{KIND}", "--timeout=30s")

    yield run
    kubectl("delete", "crd", KIND, "--wait=false", check=False)


def test_stored_jobs_and_their_status_outlive_the_upgrade_of_the_crd(install, kubectl, namespace):
    install(gzip.decompress((Path(__file__).parent / "finetunejobs-f90ff7f.yaml.gz").read_bytes()).decode())
    spec = {
        "basemodel": "s3://models/tiny",
        "finetuningGpus": 0,
        "data_conf": {
            "training_data": {"type": "CONCATENATION", "datasets": [{"path": "s3://data/train.jsonl"}]},
            "validation_data": {"type": "NONE"},
            "chat_template_name": "chat-ml",
        },
        "training_args": {"learning_rate": 0.001, "num_train_epochs": 2},
        "batchsize_conf": {"total_train_batch_size": 8, "max_per_device_train_batch_size": 4},
        "peft_conf": {"peft_type": "LORA", "peft_kwargs": {"r": 8}},
        "run_conf": {},
        "sft_args": {"max_seq_length": 128},
        "maxAttempts": 2,
    }
    finished_status = {
        "observedGeneration": 1,
        "phase": "Succeeded",
        "specHash": spec_hash(spec),
        "startTime": "2026-11-22T10:00:00Z",
        "completionTime": "2026-11-22T10:05:00Z",
        "attempt": 1,
        "failures": 0,
        "gpus": 0,
        "progress": {"step": 40, "totalSteps": 40, "steps": "40/40", "updatedAt": "2026-11-22T10:04:59Z"},
        "attempts": [
            {
                "id": 1,
                "job": "done-1",
                "reason": "Completed",
                "message": "finished",
                "exitCode": 0,
                "startTime": "2026-11-22T10:01:00Z",
                "endTime": "2026-11-22T10:05:00Z",
                "outcome": "success",
            }
        ],
        "conditions": [
            {
                "type": kind,
                "status": status,
                "reason": "Completed",
                "message": "",
                "lastTransitionTime": "2026-11-22T10:05:00Z",
                "observedGeneration": 1,
            }
            for kind, status in (("Ready", "True"), ("Complete", "True"), ("Failed", "False"))
        ],
    }
    running_status = {**finished_status, "phase": "Training", "conditions": []}
    del running_status["completionTime"]
    for name, status in (("done", finished_status), ("runs", running_status)):
        body = {"apiVersion": f"{GROUP}/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": name}, "spec": spec}
        kubectl("create", "-n", namespace, "-f", "-", input=json.dumps(body))
        patch = json.dumps({"status": status})
        kubectl("patch", KIND, name, "-n", namespace, "--subresource=status", "--type=merge", "-p", patch)

    def get(name: str) -> dict:
        return json.loads(kubectl("get", KIND, name, "-n", namespace, "-o", "json").stdout)

    stored = {name: get(name) for name in ("done", "runs")}
    assert stored["done"]["status"] == finished_status

    install((ROOT / "crds" / "finetunejobs.yaml").read_text())
    end = time.monotonic() + 30
    newest = ["patch", KIND, "runs", "-n", namespace, "--type=merge", "--dry-run=server", "-o", "json", "-p"]
    # A key of the new version is pruned until the API server serves the new schema.
    while "stepTimeoutSeconds" not in kubectl(*newest, '{"spec":{"stepTimeoutSeconds":900}}', check=False).stdout:
        assert time.monotonic() < end, "the new schema is not served"
        time.sleep(0.3)

    assert {name: get(name) for name in ("done", "runs")} == stored
    assert finished(get("done"))

    # What may change in a running job still may, what may not still may not, and the new status keys are kept.
    kubectl("patch", KIND, "runs", "-n", namespace, "--type=merge", "-p", '{"spec":{"suspend":true}}')
    refused = kubectl(
        "patch", KIND, "runs", "-n", namespace, "--type=merge", "-p", '{"spec":{"basemodel":"s3://x/y"}}', check=False
    )
    assert refused.returncode != 0
    told = json.dumps({"status": {"maxAttemptsReached": 2}})
    kubectl("patch", KIND, "done", "-n", namespace, "--subresource=status", "--type=merge", "-p", told)
    after = get("done")
    assert after["status"] == {**finished_status, "maxAttemptsReached": 2}
    assert after["metadata"]["generation"] == stored["done"]["metadata"]["generation"]
