"""Factories for the operator's table tests: Kubernetes objects as the API server would send them, and small."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from finetune_api import constants
from finetune_operator.plan import times
from finetune_operator.plan.labels import LABEL_TRAINING
from finetune_operator.plan.plan import plan
from finetune_operator.plan.spec_hash import spec_hash
from finetune_operator.plan.types import Create, Decisions, Observed
from finetune_operator.settings import Settings

Object = dict[str, Any]
NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
SPEC: Object = {
    "basemodel": "s3://models/tiny",
    "finetuningGpus": 0,
    "cpusPerGpu": 0.5,
    "memoryPerGpu": 1,
    "data_conf": {
        "training_data": {"type": "CONCATENATION", "datasets": [{"path": "s3://data/train.jsonl"}]},
        "validation_data": {"type": "NONE"},
        "chat_template_name": "chat-ml",
    },
    "training_args": {"learning_rate": 0.001},
    "batchsize_conf": {"total_train_batch_size": 8, "max_per_device_train_batch_size": 4},
    "peft_conf": {"peft_type": "NO_PEFT"},
    "run_conf": {},
    "sft_args": {"max_seq_length": 128},
}


@dataclass
class World:
    """A FineTuneJob and what exists of it, changed step by step as a cluster would, and planned at any moment."""

    spec: Object = field(default_factory=lambda: copy.deepcopy(SPEC))
    now: datetime = NOW
    settings: Settings = field(default_factory=lambda: Settings(retry_seconds=10))
    status: Object = field(default_factory=dict)
    observed: dict[str, Any] = field(default_factory=dict)

    @property
    def job(self) -> Object:
        return {
            "metadata": {
                "name": "demo",
                "namespace": "team",
                "uid": "uid-1",
                "generation": 3,
                "resourceVersion": "7",
                "creationTimestamp": self.at(-600),
            },
            "spec": self.spec,
            **({"status": self.status} if self.status else {}),
        }

    @property
    def training(self) -> str:
        return spec_hash(self.spec)

    def at(self, seconds: float = 0) -> str:
        """A timestamp so many seconds from now."""
        return times.render(self.now + timedelta(seconds=seconds))

    def look(self, **changes: Any) -> Observed:
        return Observed(self.job, **{**self.observed, **changes})

    def plan(self, **changes: Any) -> Decisions:
        return plan(self.look(**changes), self.now, self.settings)

    def step(self, **changes: Any) -> Decisions:
        """Plan, and write the status as the operator would."""
        decisions = self.plan(**changes)
        self.status = decisions.status
        return decisions

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def child(self, kind: str, name: str, role: str, number: int = 1, **metadata: Any) -> Object:
        return {
            "kind": kind,
            "metadata": {
                "name": name,
                "namespace": "team",
                "uid": f"uid-{name}",
                "creationTimestamp": self.at(-60),
                "labels": {
                    constants.LABEL_MANAGED_BY: constants.MANAGED_BY,
                    constants.LABEL_JOB: "demo",
                    constants.LABEL_JOB_UID: "uid-1",
                    constants.LABEL_ROLE: role,
                    constants.LABEL_TRY: str(number),
                    LABEL_TRAINING: self.training,
                },
                "ownerReferences": [{"uid": "uid-1", "controller": True}],
                **metadata,
            },
        }

    def train_job(self, number: int = 1, end: str | None = None, suspend: bool = False, message: str = "") -> Object:
        """end: Complete or Failed, at this moment."""
        return self._job(f"demo-{number}", constants.ROLE_TRAIN, number, end=end, suspend=suspend, message=message)

    def download_job(self, end: str | None = None, number: int = 1) -> Object:
        name = f"demo-download-{self.training[:6]}"
        return self._job(name if number == 1 else f"{name}-{number}", constants.ROLE_DOWNLOAD, number, end=end)

    def _job(
        self, name: str, role: str, number: int, *, end: str | None, suspend: bool = False, message: str = ""
    ) -> Object:
        job = self.child("Job", name, role, number)
        job["spec"] = {"suspend": suspend}
        job["status"] = {"startTime": self.at(-60)}
        if end:
            job["status"]["conditions"] = [
                {"type": end, "status": "True", "lastTransitionTime": self.at(), "message": message}
            ]
        return job

    def pod(
        self,
        job: Object,
        phase: str = "Running",
        *,
        exit_code: int | None = None,
        report: Object | None = None,
        index: int = 0,
        created: float = -60,
        disrupted: bool = False,
        **terminated: Any,
    ) -> Object:
        """A pod of a Job; with an exit code its container has ended."""
        role = job["metadata"]["labels"][constants.LABEL_ROLE]
        name = f"{job['metadata']['name']}-{index}-{abs(created):.0f}"
        pod = self.child("Pod", name, role, creationTimestamp=self.at(created))
        pod["metadata"]["ownerReferences"] = [{"uid": job["metadata"]["uid"]}]
        pod["metadata"]["annotations"] = {"batch.kubernetes.io/job-completion-index": str(index)}
        pod["status"] = {"phase": phase, "podIP": "10.0.0.9"}
        if exit_code is not None:
            pod["status"]["phase"] = "Failed" if exit_code else "Succeeded"
            words = {"message": json.dumps(report)} if report else {}
            ended = {"exitCode": exit_code, "finishedAt": self.at(), **words, **terminated}
            pod["status"]["containerStatuses"] = [{"name": role, "state": {"terminated": ended}}]
        if disrupted:
            pod["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True"}]
        return pod

    def waiting_pod(self, job: Object, reason: str = "", message: str = "", unscheduled: str = "") -> Object:
        pod = self.pod(job, phase="Pending")
        if reason:
            state = {"waiting": {"reason": reason, "message": message}}
            pod["status"]["containerStatuses"] = [{"name": "train", "image": "registry/x:1", "state": state}]
        if unscheduled:
            pod["status"]["conditions"] = [{"type": "PodScheduled", "status": "False", "message": unscheduled}]
        return pod

    def claim(self, name: str = "demo-checkpoints", phase: str = "Bound", uid: str = "uid-1", **spec: Any) -> Object:
        claim = self.child("PersistentVolumeClaim", name, constants.ROLE_CHECKPOINTS)
        del claim["metadata"]["ownerReferences"]
        claim["metadata"]["labels"][constants.LABEL_JOB_UID] = uid
        claim["spec"], claim["status"] = spec, {"phase": phase}
        return claim

    def with_storage(self) -> World:
        """Both volumes exist and are bound."""
        self.observed |= {"checkpoints": self.claim(), "cache": self.claim("model-cache-1")}
        return self

    def downloaded(self) -> World:
        """The download has succeeded."""
        job = self.download_job("Complete")
        pod = self.pod(job, exit_code=0, report={"dataset": {"examples": 5, "tokens": 70}})
        self.with_storage().observed |= {"jobs": (job,), "pods": (pod,)}
        return self

    def training_with(self, *jobs: Object, pods: tuple[Object, ...] = ()) -> World:
        """Downloaded, and these train Jobs and pods exist."""
        self.downloaded()
        self.observed["jobs"] += jobs
        self.observed["pods"] += pods
        return self

    def set(self, **settings: Any) -> World:
        self.settings = replace(self.settings, **settings)
        return self


@pytest.fixture
def world() -> World:
    return World()


def _created(decisions: Decisions) -> list[str]:
    return [f"{a.body['kind']}/{a.body['metadata']['name']}" for a in decisions.actions if isinstance(a, Create)]


@pytest.fixture
def created() -> Any:
    """created(decisions): 'Kind/name' of what is to be created, in order."""
    return _created


def _condition(decisions: Decisions, kind: str) -> tuple[str, str]:
    found = next((c for c in decisions.status["conditions"] if c["type"] == kind), None)
    return (found["status"], found["reason"]) if found else ("absent", "")


@pytest.fixture
def condition() -> Any:
    """condition(decisions, type): its status and reason."""
    return _condition
