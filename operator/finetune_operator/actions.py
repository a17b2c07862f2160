"""Carrying out what the plan decided, in order; what is refused comes back as Blocked for the next plan to explain."""

import logging

from finetune_api import constants

from .kube.client import KubeClient
from .kube.errors import ApiError
from .kube.resources import BY_KIND
from .plan.attempts import owned_by
from .plan.storage import is_own
from .plan.types import Action, Apply, Blocked, Create, Delete, Object

logger = logging.getLogger(__name__)


async def carry_out(
    client: KubeClient, job: Object, actions: tuple[Action, ...]
) -> tuple[list[Object], Blocked | None]:
    """The created objects as the API server returned them (or as they were there already), and the first refusal, if
    any: nothing after it is tried."""
    created: list[Object] = []
    namespace = job["metadata"]["namespace"]
    for action in actions:
        if isinstance(action, Create):
            made, blocked = await _create(client, job, action)
            if blocked:
                return created, blocked
            if made:
                created.append(made)
        elif isinstance(action, Delete):
            policy = "Foreground" if action.foreground else "Background"
            await client.delete(BY_KIND[action.kind], namespace, action.name, action.uid, policy)
            logger.info("%s/%s: deleted %s %s", namespace, job["metadata"]["name"], action.kind, action.name)
        elif isinstance(action, Apply):
            await client.apply(BY_KIND[action.body["kind"]], namespace, action.body)
    return created, None


async def _create(client: KubeClient, job: Object, action: Create) -> tuple[Object | None, Blocked | None]:
    body = action.body
    kind, name, namespace = body["kind"], body["metadata"]["name"], body["metadata"]["namespace"]
    try:
        made = await client.create(BY_KIND[kind], namespace, body)
        logger.info("%s/%s: created %s %s", namespace, job["metadata"]["name"], kind, name)
        return {**made, "apiVersion": body["apiVersion"], "kind": kind}, None
    except ApiError as error:
        if error.already_exists:
            return await _existing(client, job, action)
        if blocked := _refusal(kind, name, error):
            return None, blocked
        raise


async def _existing(client: KubeClient, job: Object, action: Create) -> tuple[Object | None, Blocked | None]:
    """409: ours from before a crash, or someone else's. Ours only if the owner's uid says so (decisions.md 12)."""
    body = action.body
    kind, name, namespace = body["kind"], body["metadata"]["name"], body["metadata"]["namespace"]
    live = await client.get(BY_KIND[kind], namespace, name)
    if live is None:
        return None, Blocked(kind, name, "Recreating", "it was deleted at this moment; it will be created again")
    if "deletionTimestamp" in live["metadata"]:
        return None, Blocked(
            kind, name, "ObjectTerminating", "one of that name is being deleted; waiting for it to be gone"
        )
    labels = live["metadata"].get("labels") or {}
    shared = action.shared and labels.get(constants.LABEL_MANAGED_BY) == constants.MANAGED_BY
    own_claim = kind == "PersistentVolumeClaim" and is_own(live, job["metadata"]["uid"])
    if shared or own_claim or owned_by(live, job):
        return {**live, "apiVersion": body["apiVersion"], "kind": kind}, None
    return None, Blocked(
        kind, name, "NameTaken", "an object of that name exists that is not this job's; delete it, or rename the job"
    )


def _refusal(kind: str, name: str, error: ApiError) -> Blocked | None:
    if error.over_quota:
        return Blocked(kind, name, "QuotaExceeded", f"{error.message}. Raise the namespace's quota, or ask for less")
    if error.status == 403 and "being terminated" in error.message:
        return Blocked(kind, name, "NamespaceTerminating", "the namespace is being deleted")
    if error.status == 403:
        return Blocked(
            kind, name, "Forbidden", f"{error.message}. A policy or missing rights of the operator forbid it"
        )
    if error.refused:
        return Blocked(kind, name, "Refused", f"the API server refused it: {error.message}")
    return None
