"""`/healthz`, `/readyz`, `/metrics`, `/v1/status`."""

from aiohttp import web

from streamd.http.errors import reply
from streamd.runtime.service import Service


class HealthRoutes:
    """What probes and operators ask."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get("/healthz", self.alive)
        app.router.add_get("/readyz", self.ready)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get("/v1/status", self.status)

    async def alive(self, request: web.Request) -> web.Response:
        """200 as long as the event loop turns."""
        return reply(request, {"status": "alive"})

    async def ready(self, request: web.Request) -> web.Response:
        """200 when a lane is warm and the daemon is not stopping, else 503 with the reason.

        A daemon that serves the next best version says what it passed over, each with the reason.
        """
        if self._service.ready:
            passed_over = self._service.passed_over
            return reply(request, {"status": "ready", **({"passed_over": passed_over} if passed_over else {})})
        if self._service.draining:
            return reply(request, {"status": "draining"}, 503)
        return reply(request, {"status": "no_lane" if self._service.pipeline.lanes.was_ready else "starting"}, 503)

    async def metrics(self, request: web.Request) -> web.Response:
        """The Prometheus exposition format."""
        return web.Response(
            body=self._service.metrics.text(),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    async def status(self, request: web.Request) -> web.Response:
        """What is loaded and how it does."""
        return reply(request, self._service.status())
