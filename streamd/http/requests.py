"""Reading the bodies of requests, within limits of size, number and time.

Bodies are bytes here; `wire/` decodes them.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from streamd.core.errors import MalformedError, StreamdError, TooBusyError, TooLargeError
from streamd.http.access.context import get_caller, recheck_caller
from streamd.http.access.forwarded import get_remote
from streamd.http.body_turns import LARGE_BODY_BYTES, BodyTurns
from streamd.http.byte_budget import ByteBudget, ByteHolder
from streamd.http.compression import CONTENT_CODINGS, Decompressor, parse_content_encoding
from streamd.http.peer_turns import PeerTurns
from streamd.http.peers import call_when_lost, has_peer_left
from streamd.protocols.block_codings import BLOCK_CODINGS, decode_block
from streamd.runtime.pauses import Pauses

SHARED_BODY_BYTES = 2**14
"""Bodies from this size on are handled in the time that all peers share in a turn of the loop: many may be complete in
one turn, and to decode one takes up to 8 ms."""


@dataclass(frozen=True, kw_only=True)
class TransportLimits:
    """Limits on requests, WebSockets and event streams."""

    max_body_bytes: int = 8 * 2**20
    """Of one request body, as it is sent and as it is decompressed."""
    max_frame_bytes: int = 2 * 2**20
    """Of one WebSocket frame that is received."""
    max_pending_body_bytes: int = 64 * 2**20
    """Of all bodies and frames that are received and not handled yet; beyond it one of them is refused."""
    max_sockets: int = 4_096
    """WebSockets and event streams that are open at once."""
    max_connections: int = 8_192
    """Connections that are open at once, in all."""
    head_timeout_seconds: float = 10.0
    """The time in which the head of a request must arrive, from the connection or the first byte on."""
    idle_timeout_seconds: float = 900.0
    """A connection without a request for so long is closed."""
    body_timeout_seconds: float = 30.0
    """The time in which a body, or a message of a WebSocket, must arrive once it has begun."""
    send_timeout_seconds: float = 30.0
    """A peer that keeps a send waiting for so long is dropped."""
    heartbeat_seconds: float = 30.0
    """The interval of pings on a WebSocket."""


class BodyReader:
    """A reader of request bodies: they hold bytes of one `ByteBudget`, and the large ones are handled in turns.

    The others are decoded, and all of them decompressed, in `PeerTurns`: in a limited time of each turn of the loop.
    """

    def __init__(
        self,
        limits: TransportLimits,
        pauses: Pauses,
        budget: ByteBudget | None = None,
        peer_turns: PeerTurns | None = None,
    ) -> None:
        self._limits = limits
        self._pauses = pauses
        self._peer_turns = PeerTurns() if peer_turns is None else peer_turns
        if budget is None:
            budget = ByteBudget(limits.max_pending_body_bytes, lambda: pauses.clock())
        self.budget = budget
        self.turns = BodyTurns()
        """The turns of large bodies and frames to be decoded."""

    @property
    def pending_bytes(self) -> int:
        """The bytes of bodies and frames that are received and not handled yet."""
        return self.budget.held_bytes

    def read_body(
        self, request: web.Request, codings: Sequence[str] = CONTENT_CODINGS
    ) -> AbstractAsyncContextManager[bytes]:
        """Read a body in one of these codings and decompress it; its bytes count as pending until the block ends.

        Of large bodies, one block runs at a time. Raises `UnsupportedEncodingError`, `TooLargeError`, `TooBusyError` if
        too many bytes are pending or the body had no turn in time, `MalformedError` if the body is cut off, not in its
        coding or not complete in time, `ConnectionResetError` if the peer leaves before the block begins, and what
        `recheck_caller` raises.
        """
        encoding = parse_content_encoding(request.headers.getall("Content-Encoding", ()), codings)
        limit, announced = self._limits.max_body_bytes, request.content_length or 0
        if announced > limit:
            raise TooLargeError(f"the body has {announced} bytes, at most {limit} are accepted")
        owner = find_owner(request)
        holder = self.budget.open_holder(owner)
        holder.expected_bytes = announced
        if encoding == "identity" and _has_arrived(request, min(SHARED_BODY_BYTES, LARGE_BODY_BYTES, limit + 1)):
            return _ArrivedBody(request, holder)
        return self._receive_body(request, encoding, holder, owner)

    @asynccontextmanager
    async def _receive_body(
        self, request: web.Request, encoding: str, holder: ByteHolder, owner: Hashable
    ) -> AsyncIterator[bytes]:
        async with AsyncExitStack() as stack:
            stack.callback(holder.close)
            async with _evict_on_demand(request, holder) as interrupt:
                body = await self._receive_in_time(request, encoding, holder)
                if len(body) >= LARGE_BODY_BYTES:
                    with call_when_lost(request, interrupt):
                        await self._wait_for_turn(stack, owner)
                elif len(body) >= SHARED_BODY_BYTES and self._peer_turns.is_over():
                    await self._peer_turns.wait()
            recheck_caller(request)
            yield body

    async def _wait_for_turn(self, stack: AsyncExitStack, owner: Hashable) -> None:
        seconds = self._limits.body_timeout_seconds
        try:
            async with self._pauses.timeout(seconds):
                await stack.enter_async_context(self.turns.take_turn(owner))
        except TimeoutError as exc:
            raise TooBusyError(f"other large bodies were handled for {seconds:g} s, and this one had no turn") from exc

    async def _receive_in_time(self, request: web.Request, encoding: str, holder: ByteHolder) -> bytes:
        try:
            async with self._pauses.timeout(self._limits.body_timeout_seconds):
                body = await self._receive(request, encoding, holder)
        except StreamdError:
            raise
        except Exception as exc:  # the errors that aiohttp raises for a body have no common base class
            if has_peer_left(request):
                raise ConnectionResetError("the peer left before its body was complete") from exc
            if isinstance(exc, TimeoutError):
                seconds = self._limits.body_timeout_seconds
                raise MalformedError(f"the body did not arrive within {seconds:g} s") from exc
            raise MalformedError(f"the body cannot be read: {exc}") from exc
        if encoding in BLOCK_CODINGS:
            body = decode_block(encoding, body, self._limits.max_body_bytes)
            holder.release(holder.held_bytes)
            holder.reserve(len(body))
        return body

    async def _receive(self, request: web.Request, encoding: str, holder: ByteHolder) -> bytes:
        """Read a body to its end; the limit holds for the bytes received and for the bytes decoded.

        A block is returned as it was sent.
        """
        limit, received, body = self._limits.max_body_bytes, 0, bytearray()
        is_as_sent = encoding == "identity" or encoding in BLOCK_CODINGS
        decompressor = None if is_as_sent else Decompressor(encoding, limit)
        async for data in request.content.iter_any():
            received += len(data)
            if received > limit:
                raise TooLargeError(f"the body has over {limit} bytes")
            for piece in (data,) if decompressor is None else decompressor.decode(data):
                holder.reserve(len(piece))
                body += piece
                if decompressor is not None and self._peer_turns.is_over():
                    await self._peer_turns.wait()
        if decompressor is not None:
            decompressor.finish()
        return bytes(body)


class _ArrivedBody:
    """A small body that arrived with its head: nothing is waited for, so no deadline and no eviction is prepared."""

    def __init__(self, request: web.Request, holder: ByteHolder) -> None:
        self._request = request
        self._holder = holder

    async def __aenter__(self) -> bytes:
        recheck_caller(self._request)
        body = self._request.content.read_nowait()
        self._holder.reserve(len(body))
        return body

    async def __aexit__(self, *error: object) -> None:
        self._holder.close()


def _has_arrived(request: web.Request, end_bytes: int) -> bool:
    """Whether the whole body is received already, and has fewer bytes than `end_bytes`."""
    content = request.content
    return content.is_eof() and content.exception() is None and 0 < content.total_bytes < end_bytes


def find_owner(request: web.Request) -> Hashable:
    """Return what limits are fair between: the token of the caller, or else its address."""
    caller = get_caller(request)
    return get_remote(request) if caller.is_anonymous else ("token", caller.name)


@asynccontextmanager
async def _evict_on_demand(request: web.Request, holder: ByteHolder) -> AsyncIterator[Callable[[], None]]:
    """Run a block that ends early if its bytes are needed for others, or if the function that it gets is called.

    Raises `TooBusyError` then, and `ConnectionResetError` if the peer has left.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(None) as scope:

            def interrupt() -> None:
                if not scope.expired():
                    scope.reschedule(loop.time())

            holder.evict = interrupt
            try:
                yield interrupt
            finally:
                holder.evict = None
    except TimeoutError as exc:
        if has_peer_left(request):
            raise ConnectionResetError("the peer left before its body was handled") from exc
        raise TooBusyError("the body was slow or large, and its memory was needed for others") from exc
