"""Polling rank 0 of running train pods for GET /progress: what people see in `kubectl get` while it trains.

The poller keeps the newest report of each job in memory only; losing it loses nothing. It asks often until the first
step, then twice per progress interval, and wakes reconcile only when a report is worth a write. Answers are read up to
a size limit and without redirects, since a pod runs what a user's image holds.
"""

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

import aiohttp

from finetune_api import constants
from finetune_api.report import ProgressReport

from .plan.progress import is_due
from .plan.types import Object

EAGER_SECONDS = 2.0
TIMEOUT_SECONDS = 3.0
IN_FLIGHT = 64

Key = tuple[str, str]
logger = logging.getLogger(__name__)


@dataclass
class Target:
    """The pod that speaks for a job, and the status as it was last written."""

    pod: str
    address: str
    status: Object
    report: Object | None = None
    task: "asyncio.Task[None] | None" = field(default=None, repr=False)


class ProgressPoller:
    """watch() and forget() follow reconcile's verdicts; `wake` makes a key due."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        interval: float,
        wake: Callable[[Key], None],
        now: Callable[[], datetime],
    ) -> None:
        self._session = session
        self._interval = interval
        self._wake = wake
        self._now = now
        self._targets: dict[Key, Target] = {}
        self._slots = asyncio.Semaphore(IN_FLIGHT)

    def __len__(self) -> int:
        return len(self._targets)

    def watch(self, key: Key, pod: str, address: str, status: Object) -> None:
        target = self._targets.get(key)
        if target and target.pod == pod:
            target.status = status
            return
        self.forget(key)
        target = self._targets[key] = Target(pod, address, status)
        target.task = asyncio.create_task(self._follow(key, target), name=f"progress of {key[0]}/{key[1]}")

    def forget(self, key: Key) -> None:
        target = self._targets.pop(key, None)
        if target and target.task:
            target.task.cancel()

    def report(self, key: Key) -> tuple[str, Object] | None:
        """The newest report and the pod it came from."""
        target = self._targets.get(key)
        return (target.pod, target.report) if target and target.report else None

    async def close(self) -> None:
        for key in list(self._targets):
            self.forget(key)

    async def _follow(self, key: Key, target: Target) -> None:
        while True:
            async with self._slots:
                report = await fetch(self._session, target.address)
            if report is not None:
                target.report = report
                if is_due(target.status, report, self._now(), self._interval):
                    self._wake(key)
            training = bool(report and report.get("step"))
            await asyncio.sleep(self._interval / 2 if training else min(EAGER_SECONDS, self._interval))


async def fetch(session: aiohttp.ClientSession, address: str) -> Object | None:
    """One GET /progress; None if the pod does not answer, or not as it should."""
    host = f"[{address}]" if ":" in address else address
    url = f"http://{host}:{constants.PROGRESS_PORT}/progress"
    try:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        async with session.get(url, timeout=timeout, allow_redirects=False) as response:
            if response.status != 200:
                return None
            raw = await response.content.read(constants.PROGRESS_MAX_BYTES + 1)
            while len(raw) <= constants.PROGRESS_MAX_BYTES and (more := await response.content.read(65536)):
                raw += more
        if len(raw) > constants.PROGRESS_MAX_BYTES:
            logger.warning("%s answered with more than %d bytes", url, constants.PROGRESS_MAX_BYTES)
            return None
        return ProgressReport.model_validate(json.loads(raw)).to_dict()
    except (TimeoutError, aiohttp.ClientError, OSError, ValueError):
        return None
