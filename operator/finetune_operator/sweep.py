"""The list sweep: every ten minutes, with jitter, each FineTuneJob is made due, whatever the watch has or has not said.

It repairs missed events, clears away what outlived its FineTuneJob (orphans.py), and notices when events have stopped:
an object whose newest version the watch has not brought half a minute after the sweep saw it means a dead stream, and
the liveness probe then fails.
"""

import asyncio
import logging
import random
from collections.abc import Callable

from .kube.client import KubeClient
from .kube.errors import ApiError, UnreachableError
from .kube.resources import FINETUNEJOB
from .orphans import OrphanSweep
from .workqueue import WorkQueue

Key = tuple[str, str]
DELIVERY_SECONDS = 30.0
SPREAD = 0.1

logger = logging.getLogger(__name__)


class Sweeper:
    """`versions` are those that the watch has brought, by key."""

    def __init__(
        self,
        client: KubeClient,
        queue: WorkQueue[Key],
        *,
        namespace: str,
        interval: float,
        versions: dict[Key, str],
        clock: Callable[[], float],
    ) -> None:
        self._client = client
        self._queue = queue
        self._namespace = namespace
        self._interval = interval
        self._versions = versions
        self._clock = clock
        self._orphans = OrphanSweep(client, namespace)
        self.swept_at = clock()
        self.stalled = False

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._interval * random.uniform(1 - SPREAD, 1 + SPREAD))
            try:
                behind = await self.sweep()
            except (ApiError, UnreachableError) as error:
                logger.warning("the sweep failed: %s", error)
                continue
            await asyncio.sleep(min(DELIVERY_SECONDS, self._interval / 2))
            late = [key for key, version in behind.items() if self._versions.get(key) == version]
            self.stalled = bool(late)
            if late:
                logger.error("the watch stream brings no events: %d objects are newer than it says", len(late))

    async def sweep(self) -> dict[Key, str | None]:
        """Make everything due, spread over a tenth of the interval; the keys whose events are behind, with the version
        that the watch knows."""
        behind: dict[Key, str | None] = {}
        alive: set[str] = set()
        async for job in self._client.pages(FINETUNEJOB, self._namespace):
            metadata = job["metadata"]
            key = (metadata["namespace"], metadata["name"])
            alive.add(metadata["uid"])
            self._queue.add(key, after=random.uniform(0, self._interval * SPREAD))
            known = self._versions.get(key)
            if known != metadata["resourceVersion"]:
                behind[key] = known
        self.swept_at = self._clock()
        try:
            await self._orphans.sweep(alive)
        except (ApiError, UnreachableError) as error:
            logger.warning("orphans were not looked for: %s", error)
        return behind

    @property
    def age(self) -> float:
        return self._clock() - self.swept_at
