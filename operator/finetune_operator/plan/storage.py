"""The volumes: the shared model cache and the job's own, made once, never taken from anybody else."""

from finetune_api import constants

from ..builders.volumes import cache_claim, checkpoints_claim
from .context import Context
from .types import PENDING, Create, Object, Step, Verdict


def provide_storage(context: Context) -> Step:
    for claim in context.claims:
        if "deletionTimestamp" in claim["metadata"]:
            name = claim["metadata"]["name"]
            message = (
                f"PersistentVolumeClaim {name} is being deleted: waiting for it to be gone (pods that use it hold it)"
            )
            return Step(verdict=Verdict(PENDING, "VolumeTerminating", message, requeue=10))
    if refusal := _foreign(context):
        return Step(verdict=Verdict(PENDING, "VolumeNotOurs", refusal, stuck=True, requeue=30))
    actions: list[Create] = []
    if context.request.uses_cache and context.observed.cache is None:
        actions.append(Create(cache_claim(context.request), shared=True))
    if context.observed.checkpoints is None:
        actions.append(Create(checkpoints_claim(context.request)))
    return Step(tuple(actions))


def _foreign(context: Context) -> str | None:
    """A work volume that this job did not make is used only when the user says so."""
    claim = context.observed.checkpoints
    if claim is None or is_own(claim, context.request.uid) or context.request.spec.adopt_checkpoints:
        return None
    name = claim["metadata"]["name"]
    labels = claim["metadata"].get("labels") or {}
    whose = (
        "an earlier job of this name left" if labels.get(constants.LABEL_JOB) == context.request.name else "already has"
    )
    return (
        f"PersistentVolumeClaim {name} is one that {whose} this name: set adoptCheckpoints: true to go on with it, "
        f"delete it, or give the job another name"
    )


def is_own(claim: Object, uid: str) -> bool:
    """By owner reference, or by the label that says who made it when it is meant to outlive its job."""
    metadata = claim["metadata"]
    owners = [reference.get("uid") for reference in metadata.get("ownerReferences") or []]
    return uid in owners or (not owners and (metadata.get("labels") or {}).get(constants.LABEL_JOB_UID) == uid)
