"""The one guarded write of a reconcile: a merge patch of what changed, refused if the object is not the one we read."""

from typing import Any

from .kube.client import KubeClient
from .kube.resources import FINETUNEJOB
from .plan.types import Object


def difference(before: Any, after: Any) -> Any:
    """The JSON merge patch from one object to another; {} if they are equal. Lists are replaced whole."""
    patch = {key: None for key in before if key not in after}
    for key, value in after.items():
        old = before.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            if inner := difference(old, value):
                patch[key] = inner
        elif old != value:
            patch[key] = value
    return patch


def without_nulls(value: Any) -> Any:
    """The API server does not store nulls, so they must not count as a difference."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


async def write_status(client: KubeClient, job: Object, status: Object) -> bool:
    """True if something was written. A 409 means that the object has changed or is another one: reconcile again."""
    patch = difference(job.get("status") or {}, without_nulls(status))
    if not patch:
        return False
    metadata = job["metadata"]
    guard = {"resourceVersion": metadata["resourceVersion"], "uid": metadata["uid"]}
    await client.patch_status(
        FINETUNEJOB, metadata["namespace"], metadata["name"], {"metadata": guard, "status": patch}
    )
    return True
