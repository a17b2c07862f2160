"""A node without containers: it moves the pods of Jobs through their phases and ends them as the plan's life says.

Scheduler, Job controller, volume binding and garbage collector are the real ones; only what a kubelet would do is ours.
Exit codes and termination messages are those that the real pods write (finetune_api.report).
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from finetune_api import constants
from finetune_api.report import TerminationReport
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.resources import POD, Resource

from .plans import LIVES

NODE = "faults"
NODES = Resource("/api/v1", "nodes")
RUNNING_SECONDS = 0.25
STEPS = 6
Object = dict[str, Any]

WORDS = {
    0: ("Completed", ""),
    65: ("BadData", "train.jsonl line 3: not JSON"),
    69: ("Unavailable", "the bucket does not answer"),
    70: ("InternalError", "RuntimeError: by plan"),
    75: ("Interrupted", "stopped by a signal at step 2; the checkpoint is written"),
    78: ("BadConfiguration", "by plan"),
}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Kubelet:
    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._seen: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.lives: dict[str, str] = {}  # by the FineTuneJob's name

    async def register(self) -> None:
        body = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": NODE, "labels": {"kubernetes.io/hostname": NODE, "kubernetes.io/os": "linux"}},
        }
        if await self._client.get(NODES, "", NODE) is None:
            await self._client.create(NODES, "", body)
        await self.beat()

    async def beat(self) -> None:
        room = {"cpu": "1000", "memory": "1000Gi", "pods": "10000", "ephemeral-storage": "1000Gi"}
        ready = {"type": "Ready", "status": "True", "reason": "Faults", "message": "", "lastHeartbeatTime": _now()}
        status = {"capacity": room, "allocatable": room, "conditions": [ready]}
        await self._client.patch_status(NODES, "", NODE, {"status": status})

    def pod(self, pod: Object) -> None:
        """An event about a pod."""
        uid = pod["metadata"]["uid"]
        if "deletionTimestamp" in pod["metadata"]:
            self._spawn(self._remove(pod))
        elif uid not in self._seen and (pod.get("spec") or {}).get("nodeName") == NODE:
            self._seen.add(uid)
            self._spawn(self._run(pod))

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _remove(self, pod: Object) -> None:
        metadata = pod["metadata"]
        path = POD.path(metadata["namespace"], metadata["name"])
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": metadata["uid"]}}
        try:
            await self._client.request("DELETE", path, "pods", body=options)
        except Exception:  # gone already
            pass

    async def _run(self, pod: Object) -> None:
        labels = pod["metadata"]["labels"]
        role, number = labels[constants.LABEL_ROLE], int(labels.get(constants.LABEL_TRY) or 1)
        codes = LIVES[self.lives.get(labels[constants.LABEL_JOB], "success")][role]
        code = codes[min(number, len(codes)) - 1]
        began = _now()
        await self._status(pod, role, "Running", {"running": {"startedAt": began}})
        await asyncio.sleep(RUNNING_SECONDS)
        reason, message = WORDS[code]
        report = TerminationReport(reason=reason, message=message, exit_code=code, attempt=number)
        if role == "train" and code in (0, 75):
            step = STEPS if code == 0 else 2
            report = report.model_copy(update={"step": step, "total_steps": STEPS, "loss": 1.5})
        ended = {
            "exitCode": code,
            "reason": "Completed" if code == 0 else "Error",
            "message": report.to_message(),
            "startedAt": began,
            "finishedAt": _now(),
        }
        await self._status(pod, role, "Succeeded" if code == 0 else "Failed", {"terminated": ended})

    async def _status(self, pod: Object, role: str, phase: str, state: Object) -> None:
        running = "True" if phase == "Running" else "False"
        image = pod["spec"]["containers"][0]["image"]
        container = {
            "name": role,
            "image": image,
            "imageID": image,
            "ready": phase == "Running",
            "restartCount": 0,
            "state": state,
        }
        address = "127.254.254.254"
        status = {
            "phase": phase,
            "podIP": address,
            "podIPs": [{"ip": address}],
            "startTime": _now(),
            "conditions": [
                {"type": "PodScheduled", "status": "True"},
                {"type": "Initialized", "status": "True"},
                {"type": "ContainersReady", "status": running},
                {"type": "Ready", "status": running},
            ],
            "containerStatuses": [container],
        }
        metadata = pod["metadata"]
        try:
            await self._client.patch_status(POD, metadata["namespace"], metadata["name"], {"status": status})
        except Exception:  # the pod was deleted meanwhile, as a real one may be
            pass
