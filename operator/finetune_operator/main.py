"""The operator's process: settings, health server, lease, then watch, queue and workers, until a signal or a failure.

Whatever ends one part ends the process with exit code 1, so that its pod starts anew from live state; a signal releases
the lease and ends it with 0.
"""

import asyncio
import logging
import signal
import sys
import time
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any

import aiohttp

from finetune_api import constants

from . import logs
from . import settings as settings_module
from .census import Census
from .health import HealthServer, at_most
from .kube import config as kube_config
from .kube.client import KubeClient
from .kube.errors import ApiError, UnreachableError
from .leader import LeaderElection, LeadershipLostError
from .metrics import Metrics
from .progress import ProgressPoller
from .reconcile import Reconciler
from .settings import Settings, SettingsError
from .sweep import Sweeper
from .transport import Transport
from .workers import work
from .workloads import KUEUE_GROUP
from .workqueue import WorkQueue

Key = tuple[str, str]
KUEUE_CHECK_SECONDS = 30.0
CRD_CHECK_SECONDS = 3.0
MAX_OVERDUE_SECONDS = 120.0
MAX_RECONCILE_SECONDS = 300.0
MAX_WATCH_SECONDS = 180.0  # two silent streams in a row, and the time to open a third

logger = logging.getLogger("finetune_operator")


def main() -> int:
    """Entry point of the container."""
    try:
        settings = settings_module.load()
        config = kube_config.load()
    except (SettingsError, kube_config.ConfigError) as error:
        print(f"finetune-operator: {error}", file=sys.stderr)
        return 78
    logs.configure(settings.log_level, settings.log_format)
    return asyncio.run(Operator(settings, config).run())


class Operator:
    """The parts and how they are joined."""

    def __init__(self, settings: Settings, config: kube_config.KubeConfig) -> None:
        self._settings = settings
        self._config = config
        self._metrics = Metrics()
        self._stop = asyncio.Event()
        self._kueue: tuple[str | None, float] = (None, -KUEUE_CHECK_SECONDS)

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        health = HealthServer(self._metrics, self._settings.health_host, self._settings.health_port)
        port = await health.start()
        logger.info("health and metrics on port %d", port)
        try:
            async with (
                KubeClient(self._config, self._metrics, constants.FIELD_MANAGER) as client,
                aiohttp.ClientSession() as session,
            ):
                return await self._lead(client, session, health)
        finally:
            await health.stop()

    async def _lead(self, client: KubeClient, session: aiohttp.ClientSession, health: HealthServer) -> int:
        settings = self._settings
        election = LeaderElection(
            client, settings.lease_namespace, settings.identity, settings.lease_seconds, time.monotonic
        )
        self._metrics.gauge("leading", lambda: float(election.leading))
        health.ready = True
        if not await self._unless_stopped(self._crd_served(client)) or not await self._unless_stopped(
            election.acquire()
        ):
            return 0
        try:
            return await self._operate(client, session, health, election)
        finally:
            await election.release()

    async def _operate(
        self, client: KubeClient, session: aiohttp.ClientSession, health: HealthServer, election: LeaderElection
    ) -> int:
        settings, clock = self._settings, time.monotonic
        queue: WorkQueue[Key] = WorkQueue(clock)
        poller = ProgressPoller(session, settings.progress_seconds, queue.add, _now)
        reconciler = Reconciler(
            client, session, poller, settings=settings, now=_now, kueue_version=lambda: self._kueue_version(client)
        )
        census = Census(self._metrics)
        transport = Transport(self._config, settings.watch_namespace, queue.add, census.note, clock)
        sweeper = Sweeper(
            client,
            queue,
            namespace=settings.watch_namespace,
            interval=settings.sweep_seconds,
            versions=transport.versions,
            clock=clock,
        )
        self._watch_over(health, queue, sweeper, election, poller, transport)
        parts: dict[str, Coroutine[Any, Any, None]] = {
            "lease": election.hold(),
            "sweep": sweeper.run(),
            **{f"worker {i}": work(queue, reconciler, self._metrics) for i in range(settings.workers)},
        }
        tasks = [asyncio.create_task(part, name=name) for name, part in parts.items()]
        watch = asyncio.create_task(transport.run(self._stop), name="watch")
        try:
            done, _ = await asyncio.wait([watch, *tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            await poller.close()
            for task in tasks:
                task.cancel()
            self._stop.set()  # also ends kopf
            await asyncio.gather(watch, *tasks, return_exceptions=True)
        return _exit_code(done, watch)

    def _watch_over(
        self,
        health: HealthServer,
        queue: WorkQueue[Key],
        sweeper: Sweeper,
        election: LeaderElection,
        poller: ProgressPoller,
        transport: Transport,
    ) -> None:
        health.add(at_most("a key waits in the queue", queue.overdue, MAX_OVERDUE_SECONDS))
        health.add(at_most("a reconcile takes", queue.longest_work, MAX_RECONCILE_SECONDS))
        health.add(at_most("the last sweep is old", lambda: sweeper.age, 3 * self._settings.sweep_seconds))
        health.add(at_most("a watch has brought nothing", transport.age, MAX_WATCH_SECONDS))
        health.add(lambda: "the watch stream brings no events" if sweeper.stalled else None)
        health.add(lambda: None if election.leading else "the lease is not renewed")
        self._metrics.gauge("queue_depth", lambda: float(queue.depth()))
        self._metrics.gauge("queue_delayed", lambda: float(len(queue) - queue.depth()))
        self._metrics.gauge("reconciles_running", lambda: float(queue.working()))
        self._metrics.gauge("watch_age_seconds", transport.ages, "resource")
        self._metrics.gauge("queue_overdue_seconds", queue.overdue)
        self._metrics.gauge("polled_jobs", lambda: float(len(poller)))
        self._metrics.gauge("sweep_age_seconds", lambda: sweeper.age)

    async def _crd_served(self, client: KubeClient) -> None:
        """kopf looks for resources once, at its start, so it must not start before the CRD is there."""
        told = False
        while True:
            try:
                if await client.serves(constants.GROUP):
                    return
                problem = f"the CRD {constants.PLURAL}.{constants.GROUP} is not installed: apply crds/finetunejobs.yaml"
            except (ApiError, UnreachableError) as error:
                problem = str(error)
            if not told:
                logger.warning("waiting: %s", problem)
                told = True
            await asyncio.sleep(CRD_CHECK_SECONDS)

    async def _kueue_version(self, client: KubeClient) -> str | None:
        """Asked at most twice a minute: an old answer does no harm, since the Job is suspended either way."""
        version, asked_at = self._kueue
        if time.monotonic() - asked_at >= KUEUE_CHECK_SECONDS:
            version = await client.serves(KUEUE_GROUP)
            self._kueue = (version, time.monotonic())
        return version

    async def _unless_stopped(self, work_first: Coroutine[Any, Any, None]) -> bool:
        """Await something that may take for ever; False if a signal came first."""
        task = asyncio.create_task(work_first)
        stopped = asyncio.create_task(self._stop.wait())
        await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if task.done():
            task.result()
            return True
        task.cancel()
        return False


def _exit_code(done: "set[asyncio.Task[None]]", watch: "asyncio.Task[None]") -> int:
    for task in done:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, LeadershipLostError):
            logger.error("stopping: %s", error)
            return 1
        if error is not None:
            logger.error("stopping: %s has failed", task.get_name(), exc_info=error)
            return 1
    return 0 if watch in done else 1


def _now() -> datetime:
    return datetime.now(UTC)


if __name__ == "__main__":
    sys.exit(main())
