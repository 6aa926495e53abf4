"""Routes of foreign protocols behind a real socket, and a collector that records the points."""

from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import aiohttp
from aiohttp import web

from streamd.core.access.caller import Caller
from streamd.core.errors import StreamdError
from streamd.http.errors import errors_middleware
from streamd.http.protocols.intake import Intake
from streamd.http.requests import BodyReader, TransportLimits
from streamd.runtime.aggregation.batch import CommitResult
from streamd.runtime.pauses import Pauses
from streamd.runtime.service import Service
from tests.support.open_access import admit_anybody
from tests.support.recording_sink import RecordingSink


class RecordingCollector:
    """Takes every point; raises the errors that a test sets."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, RecordingSink]] = []
        self.refused: list[tuple[str, StreamdError]] = []
        self.closed: StreamdError | None = None
        """Raised before a body is read."""
        self.broken: StreamdError | None = None
        """Raised when points are stored."""
        self.late_errors: list[StreamdError] = []
        """Rejections that only the collector finds."""

    def check_open(self) -> None:
        if self.closed is not None:
            raise self.closed

    def start_batch(self, protocol: str, caller: Caller, sender: Hashable) -> RecordingSink:
        sink = RecordingSink()
        self.batches.append((protocol, sink))
        return sink

    def count_refused(self, protocol: str, error: StreamdError) -> None:
        self.refused.append((protocol, error))

    async def commit(self, sink: RecordingSink) -> CommitResult:
        if self.broken is not None:
            raise self.broken
        errors = sink.rejected + self.late_errors
        return CommitResult(
            taken=len(sink.points) - len(self.late_errors),
            rejected=len(errors),
            skipped=sum(sink.skipped.values()),
            errors=errors[:20],
        )

    @property
    def points(self) -> int:
        return sum(len(sink.points) for _, sink in self.batches)


class ForeignRoutes(Protocol):
    """The routes of one protocol."""

    def add_to(self, app: web.Application) -> None: ...


@dataclass
class RecordingDaemon:
    """The routes of one protocol, and a client of them."""

    url: str
    session: aiohttp.ClientSession
    collector: RecordingCollector = field(default_factory=RecordingCollector)

    async def post(self, path: str, body: bytes, **headers: str) -> tuple[int, dict[str, str], Any]:
        """Return status, headers and body of an answer; the body is JSON, or `None` if it is empty."""
        async with self.session.post(self.url + path, data=body, headers=headers) as answer:
            shown = await answer.json() if await answer.read() else None
            return answer.status, dict(answer.headers), shown


@asynccontextmanager
async def run_recording_daemon(
    make_routes: Callable[[Service, Intake], ForeignRoutes], limits: TransportLimits | None = None
) -> AsyncIterator[RecordingDaemon]:
    """Serve the routes of one protocol over a recording collector."""
    collector = RecordingCollector()
    intake = Intake(cast(Any, collector), BodyReader(limits or TransportLimits(), Pauses()))
    app = web.Application(middlewares=[errors_middleware, admit_anybody])
    make_routes(cast(Service, None), intake).add_to(app)
    runner = web.AppRunner(app, auto_decompress=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with aiohttp.ClientSession() as session:
            yield RecordingDaemon(f"http://127.0.0.1:{runner.addresses[0][1]}", session, collector)
    finally:
        await runner.cleanup()
