"""kopf as the transport, and nothing more: its watch streams name a key, and the queue takes it from there.

Only on.event handlers: they add no finalizer and no annotation, keep no state, and a failing one loses nothing, since
reconcile reads live state. The settings avoid what was measured to hurt (reference in docs/adr): worker limits, idle
workers, event posting, dynamic scanning, peering. kopf stops when a watch cannot go on, such as when the CRD is
removed; the process then ends and its pod starts anew.

The API server sends a bookmark about once a minute, so a watch that brings nothing for longer is dead. kopf opens it
anew after SILENT_SECONDS; where that does not help either, age() grows, and the liveness probe fails.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import kopf
from kopf._cogs.clients import watching
from kopf._core.reactor import queueing

from finetune_api import constants

from .kube.config import KubeConfig
from .plan.types import Object

Key = tuple[str, str]
SILENT_SECONDS = 75.0
CHILDREN = (("batch", "v1", "jobs"), ("", "v1", "pods"), ("", "v1", "persistentvolumeclaims"))


class Transport:
    """Runs kopf until it is told to stop. `on_key` is called for every event, `seen` remembers how far events came."""

    def __init__(
        self,
        config: KubeConfig,
        namespace: str,
        on_key: Callable[[Key], None],
        on_job: Callable[[Key, Object | None], None] = lambda key, job: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_job` is told each version of a FineTuneJob, and None once it is gone."""
        self._config = config
        self._namespace = namespace
        self._on_key = on_key
        self._on_job = on_job
        self._clock = clock
        self._heard = {plural: clock() for plural in (constants.PLURAL, *(child[-1] for child in CHILDREN))}
        self.versions: dict[Key, str] = {}  # newest resourceVersion of each FineTuneJob that an event brought
        self.ready = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Returns after a signal or `stop`; raises what has broken a watch stream."""
        vars(queueing)["watching"] = _Listening(self._hear)
        scope: dict[str, Any] = {"namespaces": [self._namespace]} if self._namespace else {"clusterwide": True}
        await kopf.operator(
            registry=self._registry(),
            settings=settings(),
            standalone=True,
            stop_flag=stop,
            ready_flag=self.ready,
            **scope,
        )

    def ages(self) -> dict[str, float]:
        """Seconds since each watch last brought anything, by resource."""
        now = self._clock()
        return {plural: now - heard for plural, heard in self._heard.items()}

    def age(self) -> float:
        return max(self.ages().values())

    def _hear(self, plural: str) -> None:
        self._heard[plural] = self._clock()

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()

        @kopf.on.login(registry=registry)
        async def login(**_: Any) -> kopf.ConnectionInfo:
            return connection(self._config)

        @kopf.on.event(constants.GROUP, constants.VERSION, constants.PLURAL, registry=registry)
        async def job_event(event: Any, **_: Any) -> None:
            self._job(event)

        for child in CHILDREN:

            @kopf.on.event(*child, registry=registry, id=f"{child[-1]}_event")
            async def child_event(event: Any, **_: Any) -> None:
                self._child(event)

        return registry

    def _job(self, event: Any) -> None:
        metadata = event["object"]["metadata"]
        key = (metadata["namespace"], metadata["name"])
        if event["type"] == "DELETED":
            self.versions.pop(key, None)
            self._on_job(key, None)
        else:
            self.versions[key] = metadata["resourceVersion"]
            self._on_job(key, event["object"])
        self._on_key(key)

    def _child(self, event: Any) -> None:
        metadata = event["object"]["metadata"]
        if name := (metadata.get("labels") or {}).get(constants.LABEL_JOB):
            self._on_key((metadata["namespace"], name))


class _Listening:
    """kopf's watching module for its queueing module, with an ear at every stream: kopf keeps bookmarks from handlers,
    and they alone tell a quiet watch from a dead one."""

    def __init__(self, heard: Callable[[str], None]) -> None:
        self._heard = heard

    def __getattr__(self, name: str) -> Any:
        return getattr(watching, name)

    async def infinite_watch(self, *, resource: Any, **rest: Any) -> AsyncIterator[Any]:
        async for event in watching.infinite_watch(resource=resource, **rest):
            self._heard(resource.plural)
            yield event


def settings() -> kopf.OperatorSettings:
    """kopf's settings for a transport."""
    wanted = kopf.OperatorSettings()
    wanted.posting.enabled = False
    wanted.peering.standalone = True
    wanted.scanning.disabled = True
    wanted.queueing.worker_limit = None
    wanted.queueing.idle_timeout = 0.1
    wanted.watching.server_timeout = 300
    wanted.watching.client_timeout = 310
    wanted.watching.inactivity_timeout = SILENT_SECONDS
    wanted.networking.request_timeout = 30
    wanted.networking.error_backoffs = Backoffs()
    wanted.persistence.finalizer = f"{constants.GROUP}/unused"
    wanted.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=constants.GROUP)
    # Selected by the API server: kopf's own labels= would filter after every pod of the cluster had been sent.
    for child in CHILDREN:
        wanted.watching.label_selectors[child] = f"{constants.LABEL_MANAGED_BY}={constants.MANAGED_BY}"
    for name in ("kopf.objects", "kopf.activities", "kopf._core"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return wanted


class Backoffs:
    """Endless waits with jitter: a watch stream must outlive any outage of the API server."""

    def __iter__(self) -> Iterator[float]:
        delay = 0.5
        while True:
            yield delay * random.uniform(0.7, 1.3)
            delay = min(delay * 2, 30.0)


def connection(config: KubeConfig) -> kopf.ConnectionInfo:
    """Our credentials in kopf's terms; kopf asks again when the API server answers 401, so renewed tokens are read."""
    return kopf.ConnectionInfo(
        server=config.server,
        ca_data=_base64(config.ca),
        insecure=config.insecure,
        token=config.bearer_token(),
        certificate_data=_base64(config.certificate),
        private_key_data=_base64(config.key),
        default_namespace=config.namespace,
    )


def _base64(text: str | None) -> str | None:
    import base64

    return base64.b64encode(text.encode()).decode() if text else None
