"""Reading live state for one reconcile: the children by label and owner, and Events only about what does not get on.

Reads per reconcile: none beyond the FineTuneJob once it has finished; else four (Jobs and two claims, then
pods), and a few more while something waits.
"""

import asyncio
from datetime import datetime

from finetune_api import constants

from .builders.request import Request
from .kube.client import KubeClient
from .kube.resources import CONFIGMAP, EVENT, JOB, POD, PVC, SERVICE
from .plan import endings, times
from .plan.attempts import owned_by
from .plan.cleanup import due_in
from .plan.plan import finished
from .plan.types import Object, Observed

SETTLE_SECONDS = 2.0  # what is younger is not waiting yet, it is just new


async def observe(client: KubeClient, job: Object, request: Request | None, now: datetime) -> Observed:
    """`request` is None when the spec is invalid; what of it runs all the same was started by another version."""
    if finished(job):
        wait = due_in(job, now)
        return Observed(job) if wait is None or wait > 0 else await _leftovers(client, job)
    if request is None:
        return await _unfinished(client, job)
    namespace, uid = job["metadata"]["namespace"], job["metadata"]["uid"]
    selector = f"{constants.LABEL_JOB_UID}={uid}"
    jobs, checkpoints, cache = await asyncio.gather(
        client.list(JOB, namespace, labelSelector=selector),
        client.get(PVC, namespace, request.checkpoints_name),
        client.get(PVC, namespace, request.cache_name) if request.uses_cache else _nothing(),
    )
    jobs = [child for child in jobs if owned_by(child, job)]
    # After the Jobs: a Job that is over must not be seen beside a pod that seems to run, or its last words are missed.
    pods = [pod for pod in await client.list(POD, namespace, labelSelector=selector) if _of_a_job(pod)]
    suspects = _waiting(jobs, pods, [claim for claim in (checkpoints, cache) if claim], now)
    return Observed(
        job,
        jobs=tuple(jobs),
        pods=tuple(pods),
        checkpoints=checkpoints,
        cache=cache,
        warnings=await _events(client, namespace, suspects),
    )


async def _unfinished(client: KubeClient, job: Object) -> Observed:
    """What another version of the operator, or other settings, may have started of a spec that is invalid now."""
    if not (job.get("status") or {}).get("attempts"):
        return Observed(job)
    selector = f"{constants.LABEL_JOB_UID}={job['metadata']['uid']},{constants.LABEL_ROLE}={constants.ROLE_TRAIN}"
    found = await client.list(JOB, job["metadata"]["namespace"], labelSelector=selector)
    return Observed(job, jobs=tuple(child for child in found if owned_by(child, job)))


async def _leftovers(client: KubeClient, job: Object) -> Observed:
    """What ttl has to clear away; the Jobs go last, so without one there is nothing."""
    namespace, uid = job["metadata"]["namespace"], job["metadata"]["uid"]
    selector = f"{constants.LABEL_JOB_UID}={uid}"
    jobs = [child for child in await client.list(JOB, namespace, labelSelector=selector) if owned_by(child, job)]
    if not jobs:
        return Observed(job)
    maps, services, checkpoints = await asyncio.gather(
        client.list(CONFIGMAP, namespace, labelSelector=selector),
        client.list(SERVICE, namespace, labelSelector=selector),
        client.get(PVC, namespace, f"{job['metadata']['name']}-checkpoints"),
    )
    return Observed(
        job,
        jobs=tuple(jobs),
        checkpoints=checkpoints,
        config_maps=tuple(child for child in maps if owned_by(child, job)),
        services=tuple(child for child in services if owned_by(child, job)),
    )


def _of_a_job(pod: Object) -> bool:
    """Also of a Job that is gone already: its pod may still be alive, and holds the next try back."""
    return any(owner.get("kind") == "Job" for owner in pod["metadata"].get("ownerReferences") or [])


async def _nothing() -> None:
    return None


def _waiting(jobs: list[Object], pods: list[Object], claims: list[Object], now: datetime) -> list[Object]:
    """Objects whose Events may say why nothing moves."""
    pending = [pod for pod in pods if (pod.get("status") or {}).get("phase") == "Pending" and _settled(pod, now)]
    idle = [
        job
        for job in jobs
        if not endings.ended(job)
        and not (job.get("spec") or {}).get("suspend")
        and not any(owned_by(pod, job) for pod in pods)
        and _settled(job, now)
    ]
    unbound = [claim for claim in claims if (claim.get("status") or {}).get("phase") == "Pending" and (pending or idle)]
    return [*pending, *idle, *unbound]


def _settled(child: Object, now: datetime) -> bool:
    return times.age(child["metadata"].get("creationTimestamp"), now) >= SETTLE_SECONDS


async def _events(client: KubeClient, namespace: str, about: list[Object]) -> tuple[Object, ...]:
    """Warnings about these objects, oldest first. Listed by field selector; Events are never watched."""
    lists = await asyncio.gather(
        *(client.list(EVENT, namespace, fieldSelector=f"involvedObject.uid={one['metadata']['uid']}") for one in about)
    )
    events = [event for found in lists for event in found if event.get("type") == "Warning"]
    return tuple(sorted(events, key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or ""))
