"""Reads a body, decodes it in slices, and takes its points, for the routes of all foreign protocols.

An overload is answered with 503 before the body is read: a sender such as Prometheus drops its data on 429.
"""

from collections.abc import Callable, Iterator, Sequence

from aiohttp import web

from streamd.core.errors import StreamdError, TooBusyError
from streamd.http.compression import CONTENT_CODINGS
from streamd.http.errors import RETRY_AFTER_SECONDS, choose_status
from streamd.http.requests import BodyReader
from streamd.runtime.aggregation.batch import CommitResult, PointBatch
from streamd.runtime.aggregation.collector import Collector
from streamd.runtime.aggregation.turns import LoopTurns

_LARGE_BODY_BYTES = 2**16
"""A body of this size waits for its turn before it is decoded, since the first slice of some takes 50 ms."""

Decode = Callable[[bytes, PointBatch], Iterator[None]]
"""A decoder that writes the points of a body to a batch, and yields so that the event loop can do other work."""


class Intake:
    """Takes the bodies of foreign protocols into one collector."""

    def __init__(self, collector: Collector, bodies: BodyReader) -> None:
        self._collector = collector
        self._bodies = bodies
        self._turns = LoopTurns()

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
            if len(body) >= _LARGE_BODY_BYTES:
                await self._turns.wait()
            for _ in decode(body, batch):
                await self._turns.wait()
        except StreamdError as error:
            self._collector.count_refused(protocol, error)
            raise
        return await self._collector.commit(batch)


def choose_foreign_status(error: StreamdError) -> int:
    """Return the HTTP status of an error, with 503 instead of 429, on which some senders drop their data."""
    return 503 if isinstance(error, TooBusyError) else choose_status(error)


def make_retry_headers(error: StreamdError) -> dict[str, str]:
    """Return the header Retry-After for a body that was not taken, if sending it again may help."""
    return {"Retry-After": str(RETRY_AFTER_SECONDS)} if error.retry else {}
