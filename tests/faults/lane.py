"""A lane carries plans out one after another: a namespace, a proxy, and an operator that may be killed at any time."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from finetune_api import constants
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.config import KubeConfig
from finetune_operator.kube.resources import CONFIGMAP, FINETUNEJOB, JOB, PVC, SERVICE, Resource
from finetune_operator.permissions import LEASE_RULES, RULES

from .kubelet import Kubelet
from .oracles import Result, snapshot, stable
from .plans import Plan
from .proxy import Proxy, Trial

ROOT = Path(__file__).resolve().parents[2]
END_SECONDS = 90.0  # a start of the operator takes two seconds, and many on a machine that is busy
QUIET_SECONDS = 1.0
ROLES = "/apis/rbac.authorization.k8s.io/v1"
CHILDREN = {"Job": JOB, "PersistentVolumeClaim": PVC, "ConfigMap": CONFIGMAP, "Service": SERVICE}
Object = dict[str, Any]


class Lane:
    def __init__(self, number: int, client: KubeClient, config: KubeConfig, kubelet: Kubelet, folder: Path) -> None:
        self.namespace = f"faults-{os.getpid()}-{number}"
        self._client = client
        self._config = config
        self._kubelet = kubelet
        self._folder = folder / self.namespace
        self._proxy = Proxy(config, self._restart)
        self._process: asyncio.subprocess.Process | None = None
        self._log = self._folder / "operator.log"
        self._closing = False
        self._lock = asyncio.Lock()
        # Of the Jobs as the watch shows them: which are active now, and which were so beside another.
        self._active: dict[str, set[str]] = {}
        self.doubles: dict[str, set[str]] = {}

    async def start(self) -> None:
        self._folder.mkdir(parents=True)
        await self._proxy.start()
        await self._client.create(Resource("/api/v1", "namespaces"), "", _named("Namespace", "v1", self.namespace))
        accounts = Resource("/api/v1", "serviceaccounts")
        await self._client.create(accounts, self.namespace, _named("ServiceAccount", "v1", "operator"))
        rules = [
            {"apiGroups": [rule.group], "resources": [rule.resource], "verbs": list(rule.verbs)}
            for rule in (*RULES, *LEASE_RULES)
        ]
        group = "rbac.authorization.k8s.io"
        role = {**_named("Role", f"{group}/v1", "operator"), "rules": rules}
        await self._client.create(Resource(ROLES, "roles"), self.namespace, role)
        binding = {
            **_named("RoleBinding", f"{group}/v1", "operator"),
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "operator"},
            "subjects": [{"kind": "ServiceAccount", "name": "operator", "namespace": self.namespace}],
        }
        await self._client.create(Resource(ROLES, "rolebindings"), self.namespace, binding)
        asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 36000}}
        path = accounts.path(self.namespace, "operator", "token")
        token = (await self._client.request("POST", path, "serviceaccounts", body=asked))["status"]["token"]
        kubeconfig = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "it",
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
            "clusters": [{"name": "it", "cluster": {"server": f"http://127.0.0.1:{self._proxy.port}"}}],
            "users": [{"name": "it", "user": {"token": token}}],
        }
        (self._folder / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
        await self._launch()

    async def stop(self) -> None:
        self._closing = True
        await self._end()
        await self._proxy.stop()

    async def _launch(self) -> None:
        environment = {
            **os.environ,
            "KUBECONFIG": str(self._folder / "kubeconfig"),
            "FINETUNE_WATCH_NAMESPACE": self.namespace,
            "FINETUNE_LEASE_NAMESPACE": self.namespace,
            "FINETUNE_TRAINER_IMAGE": "finetune-operator/trainer:faults",
            "FINETUNE_HEALTH_HOST": "127.0.0.1",
            "FINETUNE_HEALTH_PORT": "0",
            "FINETUNE_RETRY_SECONDS": "0",
            "FINETUNE_SWEEP_SECONDS": "5",
            "POD_NAME": "operator",  # of the same name, so that the next one need not wait for the lease to run out
        }
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "finetune_operator.main", env=environment, stdout=log, stderr=log, cwd=ROOT
            )

    async def _end(self) -> None:
        if self._process is not None:
            if self._process.returncode is None:
                self._process.kill()
            await self._process.wait()

    async def _restart(self) -> None:
        async with self._lock:
            if not self._closing:
                await self._end()
                await self._launch()

    async def _alive(self) -> None:
        """What a Deployment does: an operator that has ended by itself is started again."""
        if self._process is not None and self._process.returncode is not None and not self._lock.locked():
            await self._restart()

    def job_event(self, kind: str, job: Object) -> None:
        """Two active Jobs of one FineTuneJob at the same time are seen here, at the API server's own watch."""
        metadata = job["metadata"]
        owner = (metadata.get("labels") or {}).get(constants.LABEL_JOB, "")
        over = any(
            one["type"] in ("Complete", "Failed") and one["status"] == "True"
            for one in (job.get("status") or {}).get("conditions") or []
        )
        active = self._active.setdefault(owner, set())
        if kind == "DELETED" or over or (job.get("spec") or {}).get("suspend"):
            active.discard(metadata["name"])
        else:
            active.add(metadata["name"])
        if len(active) > 1:
            self.doubles.setdefault(owner, set()).update(active)

    async def run(self, plan: Plan, name: str, reference: Result | None) -> Result:
        """Carry a plan out on a job of that name; what was seen, and what of it should not have been."""
        trial = Trial(name, plan)
        self._kubelet.lives[name] = plan.life
        at = self._log.stat().st_size
        self._proxy.trial = trial
        body = {**_named(constants.KIND, constants.API_VERSION, name), "spec": spec(name)}
        made = await self._client.create(FINETUNEJOB, self.namespace, body)
        live, wrong = made, []
        loop = asyncio.get_running_loop()
        began, changed, seen = loop.time(), loop.time(), 0
        while True:
            await asyncio.sleep(0.2)
            await self._alive()
            live = await self._client.get(FINETUNEJOB, self.namespace, name) or made
            now = loop.time()
            if len(trial.writes) != seen:
                seen, changed = len(trial.writes), now
            ended = (live.get("status") or {}).get("phase") in ("Succeeded", "Failed")
            if ended and now - changed >= QUIET_SECONDS:
                break
            if now - began > END_SECONDS:
                wrong.append("it is not over and quiet" if not ended else "it does not become quiet")
                break
        self._proxy.trial = None
        children = await self._children(name)
        log = self._log.read_bytes()[at:].decode(errors="replace")
        result = Result(plan, trial.writes, trial.done, await snapshot(live, children, name), loop.time() - began)
        result.wrong = wrong + self._judge(result, reference, made, children, log)
        if result.wrong:
            (self._folder / f"{name}.log").write_text(
                f"{plan.to_yaml()}\n{result.explained()}\n{json.dumps(live, indent=1)}\n{log}"
            )
        return result

    async def _children(self, name: str) -> dict[str, list[Object]]:
        selector = f"{constants.LABEL_JOB}={name}"
        return {
            kind: await self._client.list(where, self.namespace, labelSelector=selector)
            for kind, where in CHILDREN.items()
        }

    def _judge(
        self, result: Result, reference: Result | None, made: Object, children: dict[str, list[Object]], log: str
    ) -> list[str]:
        name, wrong = made["metadata"]["name"], []
        if two := self.doubles.get(name):
            wrong.append(f"two Jobs were active at a time: {sorted(two)}")
        for kind, found in children.items():
            for child in found:
                owners = {owner["uid"] for owner in child["metadata"].get("ownerReferences") or []}
                if kind != "PersistentVolumeClaim" and made["metadata"]["uid"] not in owners:
                    wrong.append(f"{kind} {child['metadata']['name']} is an orphan")
        if "Traceback" in log:
            said = re.findall(r"^\w[\w.]*(?:Error|Exception)\b.*$", log, re.MULTILINE)
            wrong.append(f"a traceback in the operator's log: {said[-1] if said else '?'}")
        if "403 Forbidden" in log:
            wrong.append("the operator lacked a right")
        if reference is None:
            return wrong
        most = 2 * len(reference.writes) + result.plan.faults
        if len(result.writes) > most:
            wrong.append(f"{len(result.writes)} writes, more than {most}: {dict(Counter(result.writes))}")
        wrong += [f"end state: {line}" for line in stable(reference.end, result.end)]
        return wrong

    async def remove_all(self) -> list[str]:
        """Delete every FineTuneJob; what is left of them when the garbage collector has had its time."""
        await self._client.request("DELETE", FINETUNEJOB.path(self.namespace), constants.PLURAL)
        left: list[str] = []
        for _ in range(60):
            left = [
                f"{kind} {one['metadata']['name']}"
                for kind, where in CHILDREN.items()
                if kind != "PersistentVolumeClaim"
                for one in await self._client.list(
                    where, self.namespace, labelSelector=f"{constants.LABEL_MANAGED_BY}={constants.MANAGED_BY}"
                )
            ]
            if not left:
                break
            await asyncio.sleep(0.5)
        await self._client.request("DELETE", f"/api/v1/namespaces/{self.namespace}", "namespaces")
        return left


def _named(kind: str, version: str, name: str) -> Object:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}}


def spec(name: str) -> Object:
    """A job with a model of its own, so that each makes the same writes."""
    return {
        "basemodel": f"s3://models/{name}",
        "bucketStorageHost": "http://bucket.invalid",
        "finetuningGpus": 0,
        "cpusPerGpu": 0.1,
        "memoryPerGpu": 0.5,
        "downloadsReservedSize": "1Gi",
        "checkpointsReservedSize": "1Gi",
        "maxAttempts": 3,
        "data_conf": {
            "training_data": {"type": "CONCATENATION", "datasets": [{"path": "configmap://data/train.jsonl"}]},
            "validation_data": {"type": "NONE"},
            "chat_template_name": "chat-ml",
        },
        "training_args": {"learning_rate": 0.001, "max_steps": 6, "save_steps": 2},
        "batchsize_conf": {"total_train_batch_size": 4, "max_per_device_train_batch_size": 4},
        "peft_conf": {"peft_type": "NO_PEFT"},
        "run_conf": {},
        "sft_args": {"max_seq_length": 128},
    }
