"""/healthz, /readyz and /metrics. Liveness asks what kopf cannot: do events arrive, does the queue move, who leads.

A standby is alive and ready: it has nothing to do but to wait for the lease.
"""

from collections.abc import Callable

from aiohttp import web

from .metrics import Metrics

Check = Callable[[], str | None]
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class HealthServer:
    """`checks` say what is wrong, or None; they are added as the parts start."""

    def __init__(self, metrics: Metrics, host: str, port: int) -> None:
        self._metrics = metrics
        self._host, self._port = host, port
        self._checks: list[Check] = []
        self._runner: web.AppRunner | None = None
        self.ready = False

    def add(self, check: Check) -> None:
        self._checks.append(check)

    def problems(self) -> list[str]:
        return [problem for check in self._checks if (problem := check())]

    async def start(self) -> int:
        """Listens; returns the port, which is another than asked for only if that was 0."""
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics_page)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        await site.start()
        port: int = self._runner.addresses[0][1]
        return port

    async def stop(self) -> None:
        if self._runner:
            await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        problems = self.problems()
        return web.Response(status=500 if problems else 200, text="\n".join(problems) or "ok")

    async def _readyz(self, _: web.Request) -> web.Response:
        return web.Response(status=200 if self.ready else 503, text="ok" if self.ready else "starting")

    async def _metrics_page(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.text().encode(), headers={"Content-Type": METRICS_TYPE})


def at_most(what: str, read: Callable[[], float], limit: float) -> Check:
    """A check that a number of seconds stays within its limit."""

    def check() -> str | None:
        value = read()
        return f"{what}: {value:.0f} s, at most {limit:g} s are healthy" if value > limit else None

    return check
