"""Leader election on a coordination.k8s.io/v1 Lease: one operator acts, the others stand by.

The holder renews every third of the lease's duration. A standby takes over when the lease has not changed for the whole
duration as measured on its own clock (clocks of other machines are never compared). Every write carries the
resourceVersion that was read, so two candidates cannot both win. Who fails to renew in time stops at once: the process
exits and its pod starts again as a standby.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from .kube.client import KubeClient
from .kube.errors import ApiError, UnreachableError
from .kube.resources import LEASE

LEASE_NAME = "finetune-operator"
SOON = 0.1

logger = logging.getLogger(__name__)


class LeadershipLostError(Exception):
    """The lease was not renewed in time: another operator may be acting already."""


class LeaderElection:
    """acquire() returns once this process leads, hold() renews until it fails, release() lets the next one in."""

    def __init__(
        self, client: KubeClient, namespace: str, identity: str, duration: float, clock: Callable[[], float]
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._identity = identity
        self._duration = duration
        self._clock = clock
        self._seen_duration = duration
        self._seen: tuple[str, float] | None = None  # resourceVersion last read, and when it was first seen
        self.renewed_at: float | None = None

    @property
    def leading(self) -> bool:
        return self.renewed_at is not None and self._clock() - self.renewed_at < self._duration

    async def acquire(self) -> None:
        while True:
            try:
                if await self._try():
                    logger.info("leading as %s (lease %s/%s)", self._identity, self._namespace, LEASE_NAME)
                    return
            except (ApiError, UnreachableError) as error:
                logger.warning("cannot take the lease %s/%s: %s", self._namespace, LEASE_NAME, error)
            await asyncio.sleep(self._until_next_look())

    async def hold(self) -> None:
        """Renew for as long as possible; raises LeadershipLostError when the lease may have gone to another."""
        while True:
            await asyncio.sleep(self._duration / 3)
            try:
                if not await asyncio.wait_for(self._try(), self._duration / 3):
                    logger.warning("the lease %s/%s was written by another process", self._namespace, LEASE_NAME)
            except (TimeoutError, ApiError, UnreachableError) as error:
                logger.warning("the lease was not renewed: %s", error or type(error).__name__)
            if not self.leading:
                raise LeadershipLostError(f"no renewal of {self._namespace}/{LEASE_NAME} for {self._duration:g} s")

    async def release(self) -> None:
        """Give the lease up, so that a standby need not wait for it to run out."""
        if not self.leading:
            return
        self.renewed_at = None
        try:
            lease = await self._client.get(LEASE, self._namespace, LEASE_NAME)
            if lease and lease["spec"].get("holderIdentity") == self._identity:
                lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                await self._client.replace(LEASE, self._namespace, LEASE_NAME, lease)
        except (ApiError, UnreachableError) as error:
            logger.warning("the lease was not released: %s", error)

    async def _try(self) -> bool:
        """One attempt to create, take or renew the lease; True if it is ours now."""
        asked_at = self._clock()
        lease = await self._client.get(LEASE, self._namespace, LEASE_NAME)
        if lease is not None and not self._may_take(lease):
            return False
        try:
            if lease is None:
                metadata = {"name": LEASE_NAME, "namespace": self._namespace}
                await self._client.create(LEASE, self._namespace, self._claimed(metadata, {}))
            else:
                body = self._claimed(lease["metadata"], lease.get("spec") or {})
                await self._client.replace(LEASE, self._namespace, LEASE_NAME, body)
        except ApiError as error:
            if error.status == 409:
                return False
            raise
        self.renewed_at = asked_at
        return True

    def _may_take(self, lease: dict[str, Any]) -> bool:
        spec = lease.get("spec") or {}
        if spec.get("holderIdentity") in (self._identity, "", None):
            return True
        version = lease["metadata"]["resourceVersion"]
        if self._seen is None or self._seen[0] != version:
            self._seen = (version, self._clock())
        self._seen_duration = float(spec.get("leaseDurationSeconds") or self._duration)
        return self._clock() - self._seen[1] > self._seen_duration

    def _until_next_look(self) -> float:
        """A fifth of the duration, or less where the lease that was seen runs out before: so a dead leader is replaced
        after 6/5 of the duration at most."""
        regular = self._duration / 5
        left = self._seen[1] + self._seen_duration - self._clock() if self._seen else 0.0
        return min(regular, left + SOON) if left > 0 else regular

    def _claimed(self, metadata: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        ours = spec.get("holderIdentity") == self._identity
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": max(1, round(self._duration)),
                "acquireTime": spec["acquireTime"] if ours and "acquireTime" in spec else now,
                "renewTime": now,
                "leaseTransitions": (spec.get("leaseTransitions") or 0) + (0 if ours else 1),
            },
        }
