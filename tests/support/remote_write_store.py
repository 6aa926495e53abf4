"""A store of metrics that takes remote write on a real socket, decodes what comes, and answers as a test says."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import cramjam
from aiohttp import web

from tests.support.remote_write_bodies import RemoteSeries, read_request_1


@dataclass
class RemoteWriteStore:
    """The store, with the requests that it took; the next answers may be given as a status and headers."""

    url: str = ""
    answers: list[tuple[int, Mapping[str, str]]] = field(default_factory=list)
    requests: list[Sequence[RemoteSeries]] = field(default_factory=list)
    """The series of each request that was answered with 204."""
    headers: list[Mapping[str, str]] = field(default_factory=list)
    """The headers of all requests, also of those that were refused."""
    refused: int = 0
    on_request: Callable[[], None] = lambda: None
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    """Set at each request; a test clears it."""

    async def take(self, request: web.Request) -> web.Response:
        self.headers.append(dict(request.headers))
        body = await request.read()
        self.arrived.set()
        self.on_request()
        await self.may_answer.wait()
        status, headers = self.answers.pop(0) if self.answers else (204, {})
        if status == 204:
            self.requests.append(read_request_1(bytes(cramjam.snappy.decompress_raw(body))))
        else:
            self.refused += 1
        return web.Response(status=status, headers=headers, text=None if status == 204 else "no such thing\n")

    def list_samples(self, metric: str) -> list[tuple[dict[str, str], int, float]]:
        """Return the samples of a metric: labels without the name, milliseconds, value."""
        return [
            ({name: text for name, text in labels if name != "__name__"}, time, value)
            for series in self.requests
            for labels, samples in series
            if dict(labels)["__name__"] == metric
            for time, value in samples
        ]


@asynccontextmanager
async def run_remote_write_store() -> AsyncIterator[RemoteWriteStore]:
    """Run a store on a free port."""
    store = RemoteWriteStore()
    store.may_answer.set()
    app = web.Application()
    app.router.add_post("/api/v1/write", store.take)
    runner = web.AppRunner(app, shutdown_timeout=0.05)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    store.url = f"http://127.0.0.1:{runner.addresses[0][1]}/api/v1/write"
    try:
        yield store
    finally:
        await runner.cleanup()
