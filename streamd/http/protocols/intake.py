"""Reads a body, decodes it in slices, and takes its points, for the routes of all foreign protocols.

An overload is answered with 503 before the body is read: a sender such as Prometheus drops its data on 429.
"""

import time
from collections.abc import Callable, Hashable, Iterator, Sequence

from aiohttp import web

from streamd.core.access.caller import Caller
from streamd.core.errors import StreamdError, TooBusyError
from streamd.http.access.context import get_caller
from streamd.http.compression import CONTENT_CODINGS
from streamd.http.errors import choose_status, count_retry_seconds
from streamd.http.requests import BodyReader, find_owner
from streamd.runtime.aggregation.batch import CommitResult, PointBatch
from streamd.runtime.aggregation.point_intake import PointIntake
from streamd.runtime.loop_turns import LoopTurns
from streamd.runtime.traces import NO_TRACES, UNTRACED, BodyTrace, Traces

_LARGE_BODY_BYTES = 2**16
"""A body of this size waits for its turn before it is decoded, since the first slice of some takes 50 ms."""

Decode = Callable[[bytes, PointBatch], Iterator[None]]
"""A decoder that writes the points of a body to a batch, and yields so that the event loop can do other work."""


class Intake:
    """Takes the bodies of foreign protocols into one taker of points."""

    def __init__(self, points: PointIntake, bodies: BodyReader, traces: Traces = NO_TRACES) -> None:
        self.points = points
        """What takes them: the collector of this host, or a relay to other nodes."""
        self._bodies = bodies
        self._traces = traces
        self._turns = LoopTurns()

    async def take_body(
        self, request: web.Request, protocol: str, decode: Decode, codings: Sequence[str] = CONTENT_CODINGS
    ) -> CommitResult:
        """Read the body of a request, decode it, and take its points.

        Raises `DrainingError` or `TooBusyError` before the body is read, what `BodyReader.read_body` raises,
        `MalformedError` if nothing of it can be decoded, and `StorageError` if its points cannot be stored.
        """
        self.points.check_open()
        parent = self._traces.read_parent(request.headers)
        with self._traces.begin_body(f"{request.method} {request.path}", parent) as trace:
            async with self._bodies.read_body(request, codings) as body:
                return await self.take_bytes(
                    body, protocol, decode, get_caller(request), sender=find_owner(request), trace=trace
                )

    async def take_bytes(
        self,
        body: bytes,
        protocol: str,
        decode: Decode,
        caller: Caller,
        *,
        sender: Hashable,
        trace: BodyTrace = UNTRACED,
    ) -> CommitResult:
        """Decode a body that was read, and take its points, without those of servers that the caller may not write.

        It is done in slices, in turn with the bodies of other senders.
        """
        batch = self.points.start_batch(protocol, caller, sender)
        try:
            if len(body) >= _LARGE_BODY_BYTES:
                await self._turns.wait(sender)
            with trace.run_step("decode"):
                for _ in decode(body, batch):
                    await self._turns.wait(sender)
        except StreamdError as error:
            self.points.count_refused(protocol, error)
            raise
        with trace.run_step("take"):
            trace.follow_servers(server.name for server in batch.points)
            result = await self.points.commit(batch)
        self._charge(caller, batch)
        trace.note_result(result.taken, result.rejected)
        return result

    def _charge(self, caller: Caller, batch: PointBatch) -> None:
        """Charge the rows of a body to its sender, if its token limits them."""
        if caller.has_row_limit:
            caller.usage.charge_rows(self.points.count_rows(batch), time.monotonic())


def choose_foreign_status(error: StreamdError) -> int:
    """Return the HTTP status of an error, with 503 instead of 429, on which some senders drop their data."""
    return 503 if isinstance(error, TooBusyError) else choose_status(error)


def make_retry_headers(error: StreamdError) -> dict[str, str]:
    """Return the header Retry-After for a body that was not taken, if sending it again may help."""
    return {"Retry-After": str(count_retry_seconds(error))} if error.retry else {}
