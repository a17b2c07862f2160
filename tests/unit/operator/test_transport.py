"""The watch against an API server that goes silent: what kopf cannot see, liveness does."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from finetune_api import constants
from finetune_operator import transport as module
from finetune_operator.health import HealthServer, at_most
from finetune_operator.kube.config import KubeConfig
from finetune_operator.metrics import Metrics
from finetune_operator.transport import CHILDREN, Transport

JOBS = (constants.GROUP, constants.VERSION, constants.PLURAL)
# kopf waits until it has found the first two, and watches neither.
OTHERS = (("", "v1", "namespaces"), ("apiextensions.k8s.io", "v1", "customresourcedefinitions"), ("", "v1", "events"))
SERVED = (JOBS, *CHILDREN, *OTHERS)
LIMIT = 0.6  # seconds; 180 in the operator


class Server:
    """An API server with no objects. `hangs`: watches are accepted and then nothing is sent, as behind a dead proxy."""

    def __init__(self) -> None:
        self.hangs = False
        self.watches = 0

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        return app

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path.strip("/").split("/")
        kinds = {plural: (group, version) for group, version, plural in SERVED}
        if path[-1] in kinds:
            return await self._resource(request, path[-1])
        if path == ["apis"]:
            groups = [
                {
                    "name": group,
                    "versions": [{"groupVersion": f"{group}/{version}", "version": version}],
                    "preferredVersion": {"groupVersion": f"{group}/{version}", "version": version},
                }
                for group, version, _ in SERVED
                if group
            ]
            return web.json_response({"groups": groups})
        if path == ["api"]:
            return web.json_response({"versions": ["v1"]})
        group = path[1] if path[0] == "apis" else ""
        found = [
            {
                "name": plural,
                "singularName": plural[:-1],
                "kind": plural[:-1].title(),
                "namespaced": True,
                "verbs": ["list", "watch", "get", "patch"],
            }
            for plural, (of, _) in kinds.items()
            if of == group
        ]
        return web.json_response({"resources": found})

    async def _resource(self, request: web.Request, plural: str) -> web.StreamResponse:
        if request.query.get("watch") != "true":
            await self._silence(plural)
            return web.json_response({"metadata": {"resourceVersion": "1"}, "items": []})
        self.watches += 1
        answer = web.StreamResponse()
        await answer.prepare(request)
        bookmark = {"type": "BOOKMARK", "object": {"kind": "X", "metadata": {"resourceVersion": "2"}}}
        while True:
            await self._silence(plural)
            try:
                await answer.write(json.dumps(bookmark).encode() + b"\n")
            except ConnectionResetError:  # the client has given the watch up
                return answer
            await asyncio.sleep(0.05)

    async def _silence(self, plural: str) -> None:
        while self.hangs and plural == "pods":
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def watching(api: Server) -> AsyncIterator[Transport]:
    """The operator's transport, connected to that server. No fixture: kopf, as it ends, cancels younger tasks."""
    runner = web.AppRunner(api.application(), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    transport = Transport(KubeConfig(server=f"http://127.0.0.1:{runner.addresses[0][1]}"), "", lambda key: None)
    stop = asyncio.Event()
    task = asyncio.create_task(transport.run(stop))
    try:
        yield transport
    finally:
        api.hangs = False
        stop.set()
        await asyncio.wait([task], timeout=10)
        await runner.cleanup()


async def until(check, seconds: float = 15) -> None:
    async with asyncio.timeout(seconds):
        while not check():
            await asyncio.sleep(0.02)


async def test_liveness_notices_a_watch_that_brings_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENT_SECONDS", 0.2)
    api = Server()
    async with watching(api) as transport:
        health = HealthServer(Metrics(), "127.0.0.1", 0)
        health.add(at_most("a watch has brought nothing", transport.age, LIMIT))
        await until(lambda: api.watches >= 4 and transport.age() < 0.15)

        # No object anywhere, no event: bookmarks alone keep it alive.
        await asyncio.sleep(2 * LIMIT)
        assert health.problems() == []

        api.hangs = True
        await until(health.problems)
        assert health.problems()[0].startswith("a watch has brought nothing")
        ages = transport.ages()
        assert max(ages, key=ages.__getitem__) == "pods"
        assert all(age < 0.3 for plural, age in ages.items() if plural != "pods")

        api.hangs = False
        await until(lambda: not health.problems())
