"""Routes of foreign protocols behind a real socket, over a whole service, without the routes of `make_http_app`."""

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import aiohttp
from aiohttp import web

from streamd.http.app import make_connection_parts
from streamd.http.errors import errors_middleware
from streamd.http.protocols.intake import Intake
from streamd.http.requests import BodyReader, TransportLimits
from streamd.http.runner import HttpRunner
from streamd.http.sockets import Sockets
from streamd.runtime.aggregation.batch import ProtocolCounts
from streamd.runtime.service import Service
from tests.support.http_harness import HttpDaemonSettings, Reply, run_http_daemon
from tests.support.open_access import admit_anybody


class Routes(Protocol):
    """A group of routes that can be added to an application."""

    def add_to(self, app: web.Application) -> None: ...


MakeRoutes = Callable[[Service, Intake, Sockets], Routes]


@dataclass
class AgentServer:
    """A served group of routes, and a client of it."""

    service: Service
    session: aiohttp.ClientSession
    url: str

    async def post(self, path: str, data: bytes = b"", headers: Mapping[str, str] | None = None) -> Reply:
        """Post a body with these headers and, as some agents do, without a Content-Type."""
        return await self.call("POST", path, data, headers)

    async def call(
        self, method: str, path: str, data: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        skipped = () if headers and "Content-Type" in headers else ("Content-Type",)
        async with self.session.request(
            method, self.url + path, data=data, headers=headers, skip_auto_headers=skipped
        ) as response:
            return Reply(response.status, dict(response.headers), await response.read())

    def get_counts(self, protocol: str) -> ProtocolCounts:
        return self.service.collector.counts.setdefault(protocol, ProtocolCounts())


@asynccontextmanager
async def serve_agents(
    folder: Path,
    make_routes: MakeRoutes,
    limits: TransportLimits | None = None,
    settings: HttpDaemonSettings | None = None,
) -> AsyncIterator[AgentServer]:
    """Serve one group of routes over a service of its own."""
    limits = limits or TransportLimits()
    async with run_http_daemon(folder, settings or HttpDaemonSettings()) as daemon:
        service = daemon.service
        parts = make_connection_parts(limits, service.pauses)
        sockets = Sockets(limits, service.pauses, parts.turns)
        app = web.Application(middlewares=[errors_middleware, admit_anybody], client_max_size=limits.max_body_bytes)
        make_routes(
            service, Intake(service.collector, BodyReader(limits, service.pauses, parts.budget)), sockets
        ).add_to(app)
        runner = HttpRunner(app, parts, shutdown_timeout_seconds=0.05)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield AgentServer(service, daemon.session, f"http://127.0.0.1:{runner.addresses[0][1]}")
        finally:
            with contextlib.suppress(ConnectionError):
                await sockets.close_all()
            await runner.cleanup()
