"""The routes `/healthz`, `/readyz`, `/metrics` and `/v1/status`, for probes and operators.

Only reads the service; nothing here changes it.
"""

from aiohttp import web

from streamd.http.errors import reply
from streamd.runtime.service import Service
from streamd.runtime.service_report import describe_status


class HealthRoutes:
    """Handlers for probes and operators."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get("/healthz", self.get_health)
        app.router.add_get("/readyz", self.get_readiness)
        app.router.add_get("/metrics", self.get_metrics)
        app.router.add_get("/v1/status", self.get_status)

    async def get_health(self, request: web.Request) -> web.Response:
        """Answer 200 as long as the event loop runs."""
        return reply(request, {"status": "alive"})

    async def get_readiness(self, request: web.Request) -> web.Response:
        """Answer 200 if a lane is warm and the daemon is not stopping, else 503 with the reason.

        If better versions were passed over, the answer lists them, each with the reason.
        """
        if self._service.is_ready:
            passed_over = self._service.passed_over
            return reply(request, {"status": "ready", **({"passed_over": passed_over} if passed_over else {})})
        if self._service.is_draining:
            return reply(request, {"status": "draining"}, 503)
        return reply(request, {"status": "no_lane" if self._service.pipeline.lanes.was_ever_ready else "starting"}, 503)

    async def get_metrics(self, request: web.Request) -> web.Response:
        """Return all metrics in the Prometheus text format."""
        return web.Response(
            body=self._service.metrics.render(),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    async def get_status(self, request: web.Request) -> web.Response:
        """Return what is loaded and how it performs."""
        return reply(request, describe_status(self._service))
