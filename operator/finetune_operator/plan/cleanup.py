"""ttlSecondsAfterFinished: the children of a finished job are removed, never the FineTuneJob itself (GitOps would apply
it again and train again), and never a work volume that is meant to be kept.

Jobs go last: as long as one is there, the rest is looked at again.
"""

from datetime import datetime

from . import times
from .storage import is_own
from .types import Delete, Object, Observed


def due_in(job: Object, now: datetime) -> float | None:
    """Seconds until the children of a finished job are to go (0 or less: now); None for never."""
    ttl = (job.get("spec") or {}).get("ttlSecondsAfterFinished")
    completed = (job.get("status") or {}).get("completionTime")
    if ttl is None or not completed:
        return None
    return float(ttl) - times.age(completed, now)


def clean_up(observed: Observed) -> tuple[Delete, ...]:
    """What is to be deleted once the time has come."""
    uid = observed.metadata["uid"]
    children = [("ConfigMap", child) for child in observed.config_maps]
    children += [("Service", child) for child in observed.services]
    claim = observed.checkpoints
    if (
        claim
        and any(owner.get("uid") == uid for owner in claim["metadata"].get("ownerReferences") or [])
        and is_own(claim, uid)
    ):
        children.append(("PersistentVolumeClaim", claim))  # it has an owner only if its retention is Delete
    children += [("Job", child) for child in observed.jobs]
    return tuple(
        Delete(kind, child["metadata"]["name"], child["metadata"]["uid"], foreground=False)
        for kind, child in children
        if "deletionTimestamp" not in child["metadata"]
    )
