"""The routes of remote write behind a real socket, over a collector that only records, or over any other."""

import asyncio
import io
from collections.abc import AsyncIterator, Hashable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import aiohttp
import cramjam
from aiohttp import web

from streamd.core.access.caller import Caller
from streamd.core.errors import StreamdError
from streamd.http.app import make_connection_parts
from streamd.http.errors import errors_middleware
from streamd.http.protocols.intake import Intake
from streamd.http.protocols.prometheus import RemoteWriteRoutes
from streamd.http.requests import BodyReader, TransportLimits
from streamd.http.runner import HttpRunner
from streamd.runtime.aggregation.batch import CommitResult
from streamd.runtime.pauses import Pauses
from tests.support.http_harness import Reply, open_listener
from tests.support.open_access import admit_anybody
from tests.support.recording_sink import RecordingSink

PROMETHEUS_HEADERS = {"Content-Encoding": "snappy", "Content-Type": "application/x-protobuf"}


class RecordingCollector:
    """A collector whose batches record; it raises the errors that a test gives it."""

    def __init__(self) -> None:
        self.batches: list[RecordingSink] = []
        self.refused: list[StreamdError] = []
        self.open_error: StreamdError | None = None
        self.commit_error: StreamdError | None = None
        self.late_rejections: list[StreamdError] = []
        """Rejections of samples by the collector, after the decoder took them."""
        self.may_commit = asyncio.Event()
        self.may_commit.set()

    def check_open(self) -> None:
        if self.open_error is not None:
            raise self.open_error

    def start_batch(self, protocol: str, caller: Caller, sender: Hashable) -> RecordingSink:
        assert protocol == "remote_write"
        self.batches.append(RecordingSink())
        return self.batches[-1]

    def count_refused(self, protocol: str, error: StreamdError) -> None:
        self.refused.append(error)

    async def commit(self, batch: RecordingSink) -> CommitResult:
        await self.may_commit.wait()
        if self.commit_error is not None:
            raise self.commit_error
        errors = batch.rejected + self.late_rejections
        return CommitResult(
            taken=len(batch.points) - len(self.late_rejections),
            rejected=len(errors),
            skipped=batch.skipped.total(),
            errors=errors[:20],
        )


@dataclass
class RemoteWriteServer:
    """The routes on a port, and a sender."""

    session: aiohttp.ClientSession
    port: int
    bodies: BodyReader

    async def post(
        self,
        body: bytes,
        changed: Mapping[str, str] | None = None,
        *,
        path: str = "/api/v1/write",
        headers: Mapping[str, str] = PROMETHEUS_HEADERS,
    ) -> Reply:
        """Send a body as it is, with the headers of Prometheus; some may be changed, or all be given."""
        async with self.session.post(
            f"http://127.0.0.1:{self.port}{path}",
            data=io.BytesIO(body),
            headers={**headers, **(changed or {})},
            skip_auto_headers=["Content-Type", "User-Agent"],
        ) as response:
            return Reply(response.status, dict(response.headers), await response.read())

    async def write(self, message: bytes, proto: str = "") -> Reply:
        """Send a message, compressed."""
        content_type = "application/x-protobuf" + (proto and f";proto={proto}")
        return await self.post(bytes(cramjam.snappy.compress_raw(message)), {"Content-Type": content_type})


@asynccontextmanager
async def serve_remote_write(
    collector: Any, limits: TransportLimits | None = None, pauses: Pauses | None = None
) -> AsyncIterator[RemoteWriteServer]:
    limits, pauses = limits or TransportLimits(), pauses or Pauses()
    parts = make_connection_parts(limits, pauses)
    bodies = BodyReader(limits, pauses, parts.budget)
    app = web.Application(middlewares=[errors_middleware, admit_anybody])
    RemoteWriteRoutes(cast(Any, None), Intake(cast(Any, collector), bodies)).add_to(app)
    runner = HttpRunner(app, parts, shutdown_timeout_seconds=0.05)
    await runner.setup()
    await web.SockSite(runner, open_listener()).start()
    try:
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            yield RemoteWriteServer(session, runner.addresses[0][1], bodies)
    finally:
        await runner.cleanup()
