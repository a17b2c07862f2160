"""The kinds the operator touches, and their addresses: one table instead of a discovery client."""

from dataclasses import dataclass

from finetune_api import constants


@dataclass(frozen=True, slots=True)
class Resource:
    """Where a namespaced kind lives: `prefix` is /api/v1 or /apis/<group>/<version>."""

    prefix: str
    plural: str

    def path(self, namespace: str, name: str = "", subresource: str = "") -> str:
        """The address of a collection, an object or its subresource; an empty namespace means all of them."""
        parts = [self.prefix]
        if namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        parts += [part for part in (name, subresource) if part]
        return "/".join(parts)


FINETUNEJOB = Resource(f"/apis/{constants.API_VERSION}", constants.PLURAL)
JOB = Resource("/apis/batch/v1", "jobs")
POD = Resource("/api/v1", "pods")
PVC = Resource("/api/v1", "persistentvolumeclaims")
CONFIGMAP = Resource("/api/v1", "configmaps")
SERVICE = Resource("/api/v1", "services")
EVENT = Resource("/api/v1", "events")
NETWORK_POLICY = Resource("/apis/networking.k8s.io/v1", "networkpolicies")
LEASE = Resource("/apis/coordination.k8s.io/v1", "leases")

BY_KIND = {
    constants.KIND: FINETUNEJOB,
    "Job": JOB,
    "Pod": POD,
    "PersistentVolumeClaim": PVC,
    "ConfigMap": CONFIGMAP,
    "Service": SERVICE,
    "Event": EVENT,
    "NetworkPolicy": NETWORK_POLICY,
    "Lease": LEASE,
}
