"""Why pods do not start, from the pods themselves, their volumes and Events: a reason and what to do about it.

Kubernetes reports these in five different places and never in the Job. Ordered from the most certain cause to the
vaguest: a pod whose image cannot be pulled was scheduled, so its volume is not the problem.
"""

import re
from datetime import datetime

from . import times
from .types import Object, Verdict

IMAGE_REASONS = {"ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"}
NOT_HERE = re.compile("volume node affinity conflict|didn't match PersistentVolume's node affinity")
OVERDUE_SECONDS = 30.0  # beyond the grace period, at whose end a node kills what is left
CONFIG_REASONS = {"CreateContainerConfigError", "CreateContainerError"}


def why_waiting(
    phase: str,
    jobs: tuple[Object, ...],
    pods: tuple[Object, ...],
    claims: tuple[Object, ...],
    warnings: tuple[Object, ...],
) -> Verdict | None:
    """A verdict for the first cause found, None if pods are simply starting. `jobs`, `pods`: those that should run."""
    for pod in pods:
        if found := _from_containers(pod):
            return Verdict(phase, *found, stuck=True, requeue=10)
    for pod in pods:
        if found := _from_mounts(pod, warnings):
            return Verdict(phase, *found, stuck=True, requeue=10)
    unscheduled = [message for pod in pods if (message := _unscheduled(pod))]
    if unscheduled or not pods:
        for claim in claims:
            if unbound := _unbound(claim, warnings):
                message, stuck = unbound
                return Verdict(phase, "VolumePending", message, stuck=stuck, requeue=10)
    for job in jobs:
        if found := _from_job_events(job, pods, warnings):
            return Verdict(phase, *found, stuck=found[0] != "QuotaExceeded", requeue=10)
    for message in unscheduled:
        if found := _from_scheduler(message, pods):
            return Verdict(phase, *found, stuck=True, requeue=10)
        return Verdict(phase, "Unschedulable", _scheduling_advice(message), requeue=10)
    return None


def overdue(phase: str, pods: tuple[Object, ...], now: datetime) -> Verdict | None:
    """A pod that should have stopped long ago: its node does not answer, so nobody knows whether it still trains, and
    nothing may run beside it on its volume."""
    for pod in pods:
        until = pod["metadata"].get("deletionTimestamp")
        if until and times.age(until, now) > OVERDUE_SECONDS:
            name, node = pod["metadata"]["name"], (pod.get("spec") or {}).get("nodeName") or "its node"
            message = (
                f"pod {name} should have stopped by {until}, but {node} does not say that it has. Training resumes "
                f"when the node is back. If it is off for good: `kubectl delete node {node}`, or taint it with "
                f"node.kubernetes.io/out-of-service=nodeshutdown:NoExecute, or `kubectl delete pod {name} --force`"
            )
            return Verdict(phase, "NodeLost", message, stuck=True, requeue=30)
    return None


def _from_containers(pod: Object) -> tuple[str, str] | None:
    status = pod.get("status") or {}
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason, message = waiting.get("reason"), waiting.get("message") or ""
        if reason in IMAGE_REASONS:
            return "ImagePullFailed", (
                f"image {container.get('image')!r} cannot be pulled ({reason}: {_short(message)}). Check "
                "finetuningImage, the registry's name and tag, and imagePullSecrets"
            )
        if reason in CONFIG_REASONS:
            return _missing_reference(message)
    return None


def _missing_reference(message: str) -> tuple[str, str]:
    if found := re.search(r'secret "?([^" ]+)"? not found', message):
        return "SecretMissing", f"Secret {found[1]!r} does not exist in this namespace: create it, the pod then starts"
    if found := re.search(r'configmap "?([^" ]+)"? not found', message):
        return (
            "ConfigMapMissing",
            f"ConfigMap {found[1]!r} does not exist in this namespace: create it, the pod then starts",
        )
    if found := re.search(r"couldn't find key (\S+) in (Secret|ConfigMap) (\S+)", message):
        return f"{found[2]}KeyMissing", f"{found[2]} {found[3]} has no key {found[1]!r}: add it, the pod then starts"
    return "ContainerConfigError", f"the container cannot be created: {_short(message)}"


def _from_mounts(pod: Object, warnings: tuple[Object, ...]) -> tuple[str, str] | None:
    if (pod.get("status") or {}).get("phase") != "Pending":
        return None
    for event in _about(pod, warnings):
        message = event.get("message") or ""
        if event.get("reason") == "FailedMount" and re.search(r"(secret|configmap) \S+ not found", message):
            return _missing_reference(message)
        if event.get("reason") == "FailedAttachVolume":
            return "VolumeAttachFailed", (
                f"a volume cannot be attached to the pod's node: {_short(message)}. A ReadWriteOnce volume is on one "
                "node at a time: wait for the other pod to end, or use a ReadWriteMany storageClass"
            )
    return None


def _unscheduled(pod: Object) -> str | None:
    for condition in (pod.get("status") or {}).get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return condition.get("message") or "no node fits"
    return None


def _from_scheduler(message: str, pods: tuple[Object, ...]) -> tuple[str, str] | None:
    """What keeps pods from every node, however many there will be."""
    if found := re.search(r'persistentvolumeclaim "([^"]+)" not found', message):
        return "ClaimMissing", (
            f"PersistentVolumeClaim {found[1]!r} does not exist in this namespace: create it, the pod then starts"
        )
    if NOT_HERE.search(message) and "Insufficient" not in message:  # a node that has the volume is merely full
        return "VolumeNodeConflict", (
            f"no node has both the pod's volumes and what else it asks for ({_short(message)}). A volume stays on the "
            f"node or in the zone where it was made, claims: {_claims_of(pods)}. Ask for nodes there (nodeSelector, "
            "affinity), or delete the claim that lies wrong, or use a storageClass whose volumes reach every node"
        )
    if "unbound immediate PersistentVolumeClaims" in message or "available persistent volumes to bind" in message:
        return "VolumePending", (
            f"a claim of the pod has no volume yet ({_short(message)}): check {_claims_of(pods)} with "
            "`kubectl describe pvc`"
        )
    if "ReadWriteOncePod" in message:
        return "VolumeInUse", (
            f"a ReadWriteOncePod volume is used by another pod ({_short(message)}): wait for that to end"
        )
    return None


def _claims_of(pods: tuple[Object, ...]) -> str:
    volumes = [volume for pod in pods for volume in (pod.get("spec") or {}).get("volumes") or []]
    names = [volume["persistentVolumeClaim"]["claimName"] for volume in volumes if "persistentVolumeClaim" in volume]
    return ", ".join(dict.fromkeys(names)) or "its claims"


def _scheduling_advice(message: str) -> str:
    advice = "it starts as soon as a node fits"
    if "Insufficient" in message:
        advice = "it starts as soon as a node has room; or ask for less (finetuningGpus, memoryPerGpu, cpusPerGpu)"
    elif "affinity" in message or "selector" in message:
        advice = "no node has the labels asked for: check nodeSelector, affinity and the volume's node"
    elif "taint" in message:
        advice = "the nodes are tainted: add tolerations, or wait"
    return f"no node can take the pod yet ({_short(message)}): {advice}"


def _unbound(claim: Object, warnings: tuple[Object, ...]) -> tuple[str, bool] | None:
    """What to do about a claim without a volume, and whether it needs somebody: slow provisioning does not."""
    if (claim.get("status") or {}).get("phase") not in ("Pending", None):
        return None
    name, wanted = claim["metadata"]["name"], (claim.get("spec") or {}).get("storageClassName")
    said = [event for event in _about(claim, warnings) if event.get("reason") != "WaitForFirstConsumer"]
    where = (
        f"storageClass {wanted!r}" if wanted else "the cluster has no default StorageClass, and storageClass is not set"
    )
    why = _short(said[-1].get("message") or "") if said else "nothing has provisioned it yet"
    advice = "Check storageClass; `kubectl get storageclass` lists what there is"
    if "ReadWriteMany" in ((claim.get("spec") or {}).get("accessModes") or ()):
        advice = f"Several nodes need a storageClass that offers ReadWriteMany. {advice}"
    return f"PersistentVolumeClaim {name} is not bound ({where}; {why}). {advice}", bool(said) or not wanted


def _from_job_events(job: Object, pods: tuple[Object, ...], warnings: tuple[Object, ...]) -> tuple[str, str] | None:
    if pods:
        return None
    for event in _about(job, warnings):
        message = event.get("message") or ""
        if event.get("reason") != "FailedCreate":
            continue
        if "exceeded quota" in message:
            return (
                "QuotaExceeded",
                f"the namespace's quota does not allow the pod: {_short(message)}. Raise it or ask for less",
            )
        if "violates PodSecurity" in message:
            return "PodSecurityRefused", f"the namespace's pod security level refuses the pod: {_short(message)}"
        if "serviceaccount" in message:
            return "ServiceAccountMissing", f"the pod's ServiceAccount does not exist: {_short(message)}. Create it"
        return "PodRefused", f"the pod cannot be created: {_short(message)}"
    return None


def _about(child: Object, warnings: tuple[Object, ...]) -> list[Object]:
    uid = child["metadata"].get("uid")
    return [event for event in warnings if (event.get("involvedObject") or {}).get("uid") == uid]


def _short(message: str) -> str:
    return message if len(message) <= 300 else message[:297] + "..."
