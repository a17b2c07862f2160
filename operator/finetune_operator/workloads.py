"""Reading Kueue's Workloads of Jobs that it holds. They are listed when they matter and never watched: where Kueue is
not installed there is no such kind, and a watch for it would end the operator.
"""

import asyncio
import logging

from finetune_api import constants

from .kube.client import KubeClient
from .kube.errors import ApiError
from .kube.resources import Resource
from .plan import endings
from .plan.conditions import is_true
from .plan.types import Object, Observed

KUEUE_GROUP = "kueue.x-k8s.io"

logger = logging.getLogger(__name__)


def queued_jobs(observed: Observed) -> list[Object]:
    """Jobs about which Kueue has something to say that status does not have yet: those that are suspended, and one that
    has been started since. While pods run their Workload is not read."""
    live = [job for job in observed.jobs if not endings.ended(job)]
    held = [job for job in live if (job.get("spec") or {}).get("suspend")]
    if held or is_true(observed.status, "Admitted"):
        return held
    return [job for job in live if constants.LABEL_QUEUE in (job["metadata"].get("labels") or {})]


async def read_workloads(client: KubeClient, observed: Observed, version: str) -> tuple[Object, ...]:
    """The Workloads of these Jobs, by the label that Kueue gives them. They explain and decide nothing, so an API
    server that refuses them (rights of an older chart, Kueue's conversion webhook down) does not hold a job up."""
    namespace, resource = observed.metadata["namespace"], Resource(f"/apis/{KUEUE_GROUP}/{version}", "workloads")
    selectors = [f"{constants.LABEL_WORKLOAD_JOB_UID}={job['metadata']['uid']}" for job in queued_jobs(observed)]
    try:
        found = await asyncio.gather(*(client.list(resource, namespace, labelSelector=one) for one in selectors))
    except ApiError as error:
        if not error.not_found:  # else the group is there without this kind: Kueue is being installed or removed
            logger.warning("%s/%s: Workloads: %s", namespace, observed.metadata["name"], error)
        return ()
    return tuple(workload for one in found for workload in one)
