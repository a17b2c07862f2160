"""Labels and annotations of children that are ours and may change: applied only where the live object differs.

Everything else of a child is fixed once it is created (a Job's template, an immutable ConfigMap), or somebody else's.
"""

from ..builders.volumes import checkpoints_claim
from . import endings
from .context import Context
from .labels import LABEL_TRAINING
from .storage import is_own
from .types import Apply, Object


def repair(context: Context) -> tuple[Apply, ...]:
    """One Apply per drifted object: the work volume, and Jobs that have not ended."""
    applies: list[Apply] = []
    claim = context.observed.checkpoints
    if claim and is_own(claim, context.request.uid) and "deletionTimestamp" not in claim["metadata"]:
        wanted = checkpoints_claim(context.request)["metadata"]
        wanted["labels"] = {**wanted["labels"], **_training(claim)}
        applies += _drifted(claim, "v1", "PersistentVolumeClaim", wanted)
    for job in (*context.download_jobs, *context.train_jobs):
        if endings.ended(job) or "deletionTimestamp" in job["metadata"]:
            continue
        spec = context.request.spec
        wanted = {"labels": dict(spec.labels or {}), "annotations": dict(spec.annotations or {})}
        applies += _drifted(job, "batch/v1", "Job", wanted)
    return tuple(applies)


def _training(claim: Object) -> Object:
    """Which training made the volume does not change afterwards."""
    labels = claim["metadata"].get("labels") or {}
    return {LABEL_TRAINING: labels[LABEL_TRAINING]} if LABEL_TRAINING in labels else {}


def _drifted(live: Object, version: str, kind: str, wanted: Object) -> list[Apply]:
    metadata: Object = {"name": live["metadata"]["name"], "namespace": live["metadata"]["namespace"]}
    for field in ("labels", "annotations"):
        have, want = live["metadata"].get(field) or {}, wanted.get(field) or {}
        if any(have.get(key) != value for key, value in want.items()):
            metadata[field] = want
    if len(metadata) == 2:
        return []
    return [Apply({"apiVersion": version, "kind": kind, "metadata": metadata})]
