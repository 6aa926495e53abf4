"""The routes `/healthz`, `/readyz`, `/metrics` and `/v1/status`, for probes and operators.

Only reads the service; nothing here changes it.
"""

from aiohttp import web

from streamd.core.access.access_list import AccessList
from streamd.core.access.scopes import Scope
from streamd.http.access.context import get_caller
from streamd.http.access.token_metrics import TokenMetrics
from streamd.http.errors import reply
from streamd.http.other_nodes import OtherNodes
from streamd.runtime.service import Service
from streamd.runtime.service_report import describe_status
from streamd.runtime.workers.counts import merge_metrics, merge_status


class HealthRoutes:
    """Handlers for probes and operators."""

    def __init__(self, service: Service, access: AccessList, nodes: OtherNodes | None = None) -> None:
        self._service = service
        self._access = access
        self._nodes = nodes
        self._token_metrics = TokenMetrics(access)

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

        `degraded` has "storage" while the state folder cannot be written: the daemon answers for the servers that it
        knows, and `/v1/status` has the reason. It has "workers" while one of several workers is being started again.
        If better versions were passed over, the answer lists them for callers that may read, each with the reason. A
        node of a cluster adds its problems there, and has reasons of its own not to be ready.
        """
        refusal = None if self._nodes is None else self._nodes.find_refusal()
        if self._service.is_ready and refusal is None:
            passed_over = self._service.passed_over if get_caller(request).has(Scope.READ) else []
            problems = {
                "storage": self._service.storage.problem is not None,
                "workers": bool(self._service.others.list_away_workers()),
            }
            degraded = [name for name, is_there in problems.items() if is_there]
            degraded += [] if self._nodes is None else self._nodes.list_problems()
            more = {"degraded": degraded} if degraded else {}
            return reply(request, {"status": "ready", **more, **({"passed_over": passed_over} if passed_over else {})})
        if self._service.is_draining:
            return reply(request, {"status": "draining"}, 503)
        if self._service.is_ready:
            return reply(request, {"status": refusal}, 503)
        return reply(request, {"status": "no_lane" if self._service.pipeline.lanes.was_ever_ready else "starting"}, 503)

    async def get_metrics(self, request: web.Request) -> web.Response:
        """Return all metrics in the Prometheus text format; those of tokens if the caller may read every server."""
        tokens = self._token_metrics.render() if get_caller(request).covers_all(Scope.READ) else b""
        metrics, others = self._service.metrics.render(), await self._service.others.ask_counts()
        return web.Response(
            body=merge_metrics(metrics, [each.metrics for each in others]) + tokens if others else metrics + tokens,
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    async def get_status(self, request: web.Request) -> web.Response:
        """Return what is loaded and how it performs, with the names of only those servers that the caller may read."""
        caller = get_caller(request)
        status = describe_status(self._service, lambda server: caller.may(Scope.READ, server))
        merge_status(status, [each.status for each in await self._service.others.ask_counts()])
        cluster = {} if self._nodes is None else {"cluster": self._nodes.describe()}
        return reply(request, {**status, **cluster, "access": self._access.describe()})
