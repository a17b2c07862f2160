"""Volumes of a job on several nodes: every node mounts the model and the checkpoints, so both must be ReadWriteMany.

New claims ask for it; one that is there already, as checkpoints that are adopted, may not offer it, and its pods would
wait for ever where no event says why.
"""

from .context import Context
from .types import PENDING, Object, Step, Verdict

SHARED = ("ReadWriteMany",)


def check_shared(context: Context) -> Step:
    """Stuck while a claim that is there can be mounted on one node only."""
    if context.request.nodes == 1:
        return Step()
    for claim in context.claims:
        modes = (claim.get("spec") or {}).get("accessModes") or []
        if not set(SHARED) & set(modes):
            return Step(verdict=Verdict(PENDING, "VolumeNotShared", _message(context, claim, modes), stuck=True))
    return Step()


def _message(context: Context, claim: Object, modes: list[str]) -> str:
    name = claim["metadata"]["name"]
    return (
        f"PersistentVolumeClaim {name} is {', '.join(modes) or 'of no access mode'}, and {context.request.nodes} nodes "
        "must mount it: move its content to a claim of a storageClass that offers ReadWriteMany, delete it, or set "
        "nodes: 1"
    )
