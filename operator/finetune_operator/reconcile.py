"""reconcile(key): read live state, plan, carry it out, write status once. Level-based: it needs no event's content.

Writes per job that succeeds at its first try: 6 creates (2 claims, of which the cache is shared; 2 ConfigMaps; 2 Jobs),
about 6 status writes (download started, downloading, try started, loading, training, succeeded) plus one per progress
interval while it trains, and one Event per transition; with MLflow two or three calls to its server. An untouched job
costs no write at all, and a finished one a single read. After a crash at any point the same names lead to the same
objects: a second create is a 409, answered by looking at the owner's uid.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime

import aiohttp

from .actions import carry_out
from .builders.request import Request
from .events import post
from .kube.client import KubeClient
from .kube.resources import FINETUNEJOB
from .mlflow import MlflowClient, TrackingError
from .observe import observe
from .plan.identity import identified
from .plan.plan import plan
from .plan.types import Create, Decisions, Object, Observed
from .plan.validate import InvalidSpecError, request_for
from .progress import ProgressPoller
from .settings import Settings
from .status import write_status
from .workloads import queued_jobs, read_workloads

ROUNDS = 4  # storage and download, then the run, then the try: each may show what the next needs

Key = tuple[str, str]
logger = logging.getLogger(__name__)


class Reconciler:
    """Everything one reconcile needs; it remembers nothing between two of them."""

    def __init__(
        self,
        client: KubeClient,
        session: aiohttp.ClientSession,
        poller: ProgressPoller,
        *,
        settings: Settings,
        now: Callable[[], datetime],
        kueue_version: Callable[[], Awaitable[str | None]],
    ) -> None:
        self._client = client
        self._poller = poller
        self._settings = settings
        self._now = now
        self._kueue_version = kueue_version
        self._mlflow = MlflowClient(session, settings.mlflow_uri, settings.mlflow_public_url)

    async def reconcile(self, key: Key) -> tuple[bool, float | None]:
        """Whether the object still exists, and in how many seconds to look again (None: when an event comes)."""
        namespace, name = key
        job = await self._client.get(FINETUNEJOB, namespace, name)
        if job is None or "deletionTimestamp" in job["metadata"]:
            self._poller.forget(key)
            return job is not None, None
        decisions = await self._settle(key, await self._look(key, job))
        if await write_status(self._client, job, decisions.status):
            await post(self._client, job, decisions.status, decisions.notices, self._now())
        return True, decisions.requeue

    async def _look(self, key: Key, job: Object) -> Observed:
        try:
            request: Request | None = request_for(job, self._settings)
        except InvalidSpecError:
            request = None
        observed = await observe(self._client, job, request, self._now())
        if request and (request.spec.queue_name or queued_jobs(observed)):
            version = await self._kueue_version()
            workloads = await read_workloads(self._client, observed, version) if version else ()
            observed = replace(observed, kueue=version is not None, workloads=workloads)
        told = self._poller.report(key)
        if told and any(pod["metadata"]["name"] == told[0] for pod in observed.pods):
            observed = replace(observed, progress=told[1])
        return observed

    async def _settle(self, key: Key, observed: Observed) -> Decisions:
        """Plan and act until there is nothing left to create in this round; the last plan speaks for all."""
        decisions = plan(observed, self._now(), self._settings)
        for _ in range(ROUNDS):
            created, blocked = await carry_out(self._client, observed.job, decisions.actions)
            if decisions.needs_run:
                observed = await self._with_run(observed)
            elif blocked:
                observed = replace(observed, blocked=(blocked,))
                decisions = plan(observed, self._now(), self._settings)
                break
            elif not any(isinstance(action, Create) for action in decisions.actions):
                break
            observed = _with_created(observed, created)
            decisions = plan(observed, self._now(), self._settings)
        self._follow_progress(key, observed, decisions)
        return decisions

    async def _with_run(self, observed: Observed) -> Observed:
        request = identified(request_for(observed.job, self._settings), observed.checkpoints)
        tracking = request.spec.tracking
        assert tracking is not None, "the plan asks for a run only where there is tracking"
        name = tracking.run_name or request.name
        try:
            run = await self._mlflow.ensure_run(
                tracking.experiment_name,
                name,
                request.identity,
                {"finetune.namespace": request.namespace, "finetune.name": request.name},
            )
            return replace(observed, tracked_run=run)
        except TrackingError as error:
            logger.warning("%s/%s: %s", request.namespace, request.name, error)
            return replace(observed, tracking_error=str(error))

    def _follow_progress(self, key: Key, observed: Observed, decisions: Decisions) -> None:
        pod = next((pod for pod in observed.pods if pod["metadata"]["name"] == decisions.poll), None)
        if pod is None:
            self._poller.forget(key)
        else:
            self._poller.watch(key, pod["metadata"]["name"], pod["status"]["podIP"], decisions.status)


def _with_created(observed: Observed, created: list[Object]) -> Observed:
    """The observation as it would be if read again, so that one reconcile gets as far as it can."""
    jobs = {job["metadata"]["name"]: job for job in observed.jobs}
    jobs |= {one["metadata"]["name"]: one for one in created if one["kind"] == "Job"}
    claims = {one["metadata"]["name"]: one for one in created if one["kind"] == "PersistentVolumeClaim"}
    work = f"{observed.metadata['name']}-checkpoints"
    cache = next((claim for name, claim in claims.items() if name != work), observed.cache)
    return replace(observed, jobs=tuple(jobs.values()), checkpoints=claims.get(work, observed.checkpoints), cache=cache)
