"""Children whose FineTuneJob is gone and that the garbage collector has left: they hold GPUs and nobody sees them.

What is deleted must be ours by its label, have an owner of our kind, and that owner's uid must be missing in two sweeps
in a row and at a last look. Children that were orphaned on purpose (--cascade=orphan) have no owner left and stay.
"""

import logging

from finetune_api import constants

from .kube.client import KubeClient
from .kube.resources import BY_KIND, FINETUNEJOB
from .plan.types import Object

KINDS = ("Job", "ConfigMap", "Service")  # claims stay: their content is somebody's work

Suspect = tuple[str, str, str, str]  # kind, namespace, name, uid
logger = logging.getLogger(__name__)


class OrphanSweep:
    """sweep() after each list of the FineTuneJobs; it remembers the suspects of the one before."""

    def __init__(self, client: KubeClient, namespace: str) -> None:
        self._client = client
        self._namespace = namespace
        self._before: set[Suspect] = set()

    async def sweep(self, alive: set[str]) -> int:
        """`alive`: the uids of the FineTuneJobs. How many orphans were deleted."""
        now: dict[Suspect, str] = {}
        selector = f"{constants.LABEL_MANAGED_BY}={constants.MANAGED_BY}"
        for kind in KINDS:
            async for child in self._client.metadata(BY_KIND[kind], self._namespace, labelSelector=selector):
                metadata = child["metadata"]
                owner = _owner(metadata)
                if owner and owner["uid"] not in alive and "deletionTimestamp" not in metadata:
                    now[(kind, metadata["namespace"], metadata["name"], metadata["uid"])] = owner["name"]
        deleted = 0
        for suspect in sorted(self._before & set(now)):
            deleted += await self._delete(suspect, now[suspect])
        self._before = set(now)
        return deleted

    async def _delete(self, suspect: Suspect, owner: str) -> bool:
        kind, namespace, name, uid = suspect
        child = await self._client.get(BY_KIND[kind], namespace, name)
        job = await self._client.get(FINETUNEJOB, namespace, owner)
        current = _owner(child["metadata"]) if child and child["metadata"]["uid"] == uid else None
        if current is None or (job and job["metadata"]["uid"] == current["uid"]):
            return False
        logger.warning("%s/%s: %s %s has outlived its FineTuneJob; deleting it", namespace, owner, kind, name)
        await self._client.delete(BY_KIND[kind], namespace, name, uid, "Background")
        return True


def _owner(metadata: Object) -> Object | None:
    """The FineTuneJob that an owner reference names, whether or not there is one."""
    for reference in metadata.get("ownerReferences") or []:
        if reference.get("kind") == constants.KIND and str(reference.get("apiVersion")).startswith(constants.GROUP):
            owner: Object = reference
            return owner
    return None
