"""A proxy between the operator and a real API server that does what a plan says to the requests about one job."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

from finetune_operator.kube.config import KubeConfig

from .plans import Plan

TIMEOUT_SECONDS = 1.5  # the operator's own limit is 30 s; to it, a hang and a late hang-up are the same error
HOP = {"host", "content-length", "transfer-encoding", "connection", "accept-encoding", "keep-alive", "content-encoding"}
REASONS = {409: "Conflict", 429: "TooManyRequests", 500: "InternalError"}


@dataclass
class Trial:
    """One plan as it is carried out on one job, and what has been seen of it."""

    name: str
    plan: Plan
    writes: list[str] = field(default_factory=list)
    events: dict[str, int] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)

    def write_fault(self, line: str) -> str:
        number = len(self.writes)
        self.writes.append(line)
        do = next((fault.do for fault in self.plan.writes if fault.write == number), "")
        if do:
            self.done.append(f"{do} at {line}")
        return do

    def watch_fault(self, resource: str) -> tuple[str, float]:
        number = self.events[resource] = self.events.get(resource, 0) + 1
        for fault in self.plan.watches:
            if (fault.resource, fault.event) == (resource, number):
                self.done.append(f"{fault.do} of event {number} of {resource}")
                return fault.do, fault.seconds
        return "", 0.0


class Proxy:
    """Serves plain HTTP; `kill` ends the operator at once and starts the next one."""

    def __init__(self, upstream: KubeConfig, kill: Callable[[], Awaitable[None]]) -> None:
        self._upstream = upstream
        self._kill = kill
        self._tasks: set[asyncio.Task[None]] = set()
        self.trial: Trial | None = None
        self.port = 0

    async def start(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._upstream.ssl_context(), limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
        )
        app = web.Application(client_max_size=1 << 24)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if request.query.get("watch") in ("true", "1"):
            return await self._watch(request)
        do = ""
        if request.method != "GET" and "/leases" not in request.path and self._about(request.path, body):
            assert self.trial is not None
            do = self.trial.write_fault(self._line(request, body))
        return await self._answer(request, body, do)

    async def _answer(self, request: web.Request, body: bytes, do: str) -> web.StreamResponse:
        if do in ("409", "429", "500"):
            return _refusal(int(do), request.method)
        if do == "timeout":
            await asyncio.sleep(TIMEOUT_SECONDS)
        if do in ("timeout", "drop-unapplied"):
            return _hang_up(request)
        if do == "kill-before":
            await self._kill()
            return _hang_up(request)
        # Shielded: the death of the client must not take a write back that is on its way.
        status, headers, answer = await asyncio.shield(asyncio.create_task(self._forward(request, body)))
        if do == "kill-applied":
            await self._kill()
        if do in ("kill-applied", "drop-applied"):
            return _hang_up(request)
        if do == "kill-after":
            task = asyncio.create_task(self._kill_soon())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return web.Response(status=status, headers=headers, body=answer)

    async def _kill_soon(self) -> None:
        await asyncio.sleep(0.02)
        await self._kill()

    async def _forward(self, request: web.Request, body: bytes) -> tuple[int, dict[str, str], bytes]:
        url = self._upstream.server.rstrip("/") + request.path_qs
        async with self._session.request(request.method, url, data=body or None, headers=_headers(request)) as found:
            headers = {key: value for key, value in found.headers.items() if key.lower() not in HOP}
            return found.status, headers, await found.read()

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        resource = request.path.rpartition("/")[2]
        url = self._upstream.server.rstrip("/") + request.path_qs
        async with self._session.get(url, headers=_headers(request), read_bufsize=1 << 22) as found:
            response = web.StreamResponse(status=found.status, headers={"Content-Type": "application/json"})
            await response.prepare(request)
            async for line in found.content:
                do, seconds = "", 0.0
                if self.trial and self._about("", line):
                    do, seconds = self.trial.watch_fault(resource)
                if do == "drop":
                    continue
                if do == "close":
                    break
                if do == "410":
                    gone = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410}
                    error = {"type": "ERROR", "object": {**gone, "metadata": {}, "message": "too old resource version"}}
                    await response.write(json.dumps(error).encode() + b"\n")
                    break
                if seconds:
                    await asyncio.sleep(seconds)
                await response.write(line)
            return response

    def _about(self, path: str, body: bytes) -> bool:
        if self.trial is None:
            return False
        name = self.trial.name
        return name in path or name.encode() in body

    def _line(self, request: web.Request, body: bytes) -> str:
        path = request.path.partition("/namespaces/")[2].partition("/")[2]
        try:
            name = json.loads(body)["metadata"]["name"] if request.method == "POST" else ""
        except (ValueError, KeyError):
            name = ""
        assert self.trial is not None
        if path.startswith("events"):
            name = ""
        return f"{request.method} {path}{' ' if name else ''}{name}".replace(self.trial.name, "NAME")


def _headers(request: web.Request) -> dict[str, str]:
    return {key: value for key, value in request.headers.items() if key.lower() not in HOP}


def _hang_up(request: web.Request) -> web.StreamResponse:
    """No answer at all: the connection ends."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


def _refusal(code: int, method: str) -> web.Response:
    reason = "AlreadyExists" if (code, method) == (409, "POST") else REASONS[code]
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason}
    headers = {"Retry-After": "1"} if code == 429 else {}
    return web.json_response({**status, "metadata": {}, "message": "by plan"}, status=code, headers=headers)
