"""The part that the routes of all foreign protocols share: reading a body, decoding it in slices, and taking its points.

An overload is answered with 503 before the body is read: a sender such as Prometheus drops its data on 429.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence

from aiohttp import web

from streamd.core.errors import StreamdError, TooBusyError
from streamd.http.compression import CONTENT_CODINGS
from streamd.http.errors import RETRY_AFTER_SECONDS, choose_status
from streamd.http.requests import BodyReader
from streamd.runtime.aggregation.batch import CommitResult, PointBatch
from streamd.runtime.aggregation.collector import Collector

Decode = Callable[[bytes, PointBatch], Iterator[None]]
"""A decoder that writes the points of a body to a batch, and yields now and then so that the loop gets its turn."""


class Intake:
    """Takes the bodies of foreign protocols into one collector."""

    def __init__(self, collector: Collector, bodies: BodyReader) -> None:
        self._collector = collector
        self._bodies = bodies

    async def take_body(
        self, request: web.Request, protocol: str, decode: Decode, codings: Sequence[str] = CONTENT_CODINGS
    ) -> CommitResult:
        """Read the body of a request, decode it, and take its points.

        Raises `DrainingError` or `TooBusyError` before the body is read, what `BodyReader.read_body` raises,
        `MalformedError` if nothing of it can be decoded, and `StorageError` if its points cannot be stored.
        """
        self._collector.check_open()
        async with self._bodies.read_body(request, codings) as body:
            return await self.take_bytes(body, protocol, decode)

    async def take_bytes(self, body: bytes, protocol: str, decode: Decode) -> CommitResult:
        """Decode a body that was read, and take its points."""
        batch = self._collector.start_batch(protocol)
        try:
            for _ in decode(body, batch):
                await asyncio.sleep(0)
        except StreamdError as error:
            self._collector.count_refused(protocol, error)
            raise
        return await self._collector.commit(batch)


def choose_foreign_status(error: StreamdError) -> int:
    """Return the HTTP status of an error for a sender that loses its data on 429: then it is 503."""
    return 503 if isinstance(error, TooBusyError) else choose_status(error)


def make_retry_headers(error: StreamdError) -> dict[str, str]:
    """Return the headers of an answer to a body that was not taken: when to send it again, if that may help."""
    return {"Retry-After": str(RETRY_AFTER_SECONDS)} if error.retry else {}
