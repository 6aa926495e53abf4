"""HTTP connections: their begin and end, their memory and their deadlines.

aiohttp parses and answers; a connection here decides when to read, and when to close. `turn_reader.py` parses in turns,
and `connection_errors.py` answers what no route could.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import structlog
from aiohttp import WSCloseCode, web

from streamd.core.errors import TooBusyError
from streamd.http.byte_budget import ByteBudget
from streamd.http.connection_errors import ConnectionCounts
from streamd.http.connection_table import CloseReason, ConnectionTable
from streamd.http.direct.connection import DirectCalls, DirectConnection
from streamd.http.errors import RETRY_AFTER_SECONDS, make_error_message
from streamd.http.partial_messages import PartialMessage
from streamd.http.peer_turns import PeerTurns
from streamd.http.requests import TransportLimits
from streamd.http.turn_reader import SMALL_BYTES
from streamd.http.wire.codecs import Encoding, encode
from streamd.runtime.pauses import Pauses

log = structlog.get_logger(__name__)

PIPELINED_BYTES = 2**16
"""Received behind the request in progress, at most, before no more is read."""

UNREAD_BYTES = 2**16
"""Of messages that are not handled yet, with 128 more for each. Beyond it no more is read, so that a sender that is too
fast waits and is not evicted. aiohttp would read eight times as many."""

SLOW_REQUEST_SECONDS = 1.0
"""A plain request that is not complete for so long is left to aiohttp; with shorter deadlines it is less."""

WRITE_BUFFER_BYTES = 2**16
"""A transport with more unsent bytes lets the next send wait; without it, TLS would buffer 512 KiB for each reader."""


@dataclass(frozen=True, kw_only=True)
class ConnectionParts:
    """The parts that all connections share."""

    counts: ConnectionCounts
    table: ConnectionTable
    turns: PeerTurns
    budget: ByteBudget
    direct: DirectCalls | None = None
    """The calls that connections serve without aiohttp."""


class Connection(DirectConnection):
    """One connection. It has one request at a time, so one callback suffices: see `call_when_lost`.

    1. What it holds of unread frames, of an unfinished message and of requests behind the one in progress counts in the
       `ByteBudget`, which may evict it.
    2. The `ConnectionTable` checks its deadlines.
    """

    __slots__ = (
        "_generation",
        "_has_head_begun",
        "_holder",
        "_in_hand",
        "_is_made",
        "_partial",
        "_partial_since",
        "_pipelined_bytes",
        "_seen_requests",
        "_stalled_since",
        "_table",
        "is_holding",
        "waiting_since",
    )

    def __init__(self, manager: web.Server, *, parts: ConnectionParts, **options: Any) -> None:
        super().__init__(manager, counts=parts.counts, turns=parts.turns, direct=parts.direct, **options)
        self._table = parts.table
        self._holder = parts.budget.open_holder("")
        self._in_hand = parts.budget.open_holder("")
        self._pipelined_bytes = 0
        self._partial: PartialMessage | None = None
        """`None` until the connection is a WebSocket."""
        self._has_head_begun = False
        self._partial_since: float | None = None
        """The time at which the unfinished message of a WebSocket began."""
        self._stalled_since: float | None = None
        """The time from which on the peer has read too little of what was sent."""
        self._is_made = False
        self.is_holding = False
        """Whether what it holds is counted, or no more is read."""
        self._seen_requests = 0
        self.waiting_since = parts.table.pauses.clock()
        self._table.handshakes += 1
        self._generation = self._table.generation

    def __del__(self) -> None:
        """Count a TLS handshake that failed: no other method is called then."""
        if not self._is_made:
            self._table.handshakes -= 1
            self._table.note_closed(CloseReason.TLS_HANDSHAKE)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, or refuse the connection if there are too many."""
        self._is_made = True
        self._table.handshakes -= 1
        stream = cast("asyncio.Transport", transport)  # the transports of uvloop do not inherit it
        if self._generation != self._table.generation:  # the CAs were replaced during its handshake
            self.is_dropped = True
            self._table.note_closed(CloseReason.CLIENT_CA)
            stream.abort()
            return
        if not self._table.add(self):
            self._refuse(stream)
            return
        self._holder.evict = self._lose_memory  # a cycle with this connection, until it is lost
        stream.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        peer = transport.get_extra_info("peername")
        # A limit is fair between addresses. Behind a proxy there is one address, and all connections share its part.
        self._holder.owner = self._in_hand.owner = peer[0] if isinstance(peer, tuple) and peer else ""
        self.waiting_since = self._table.pauses.clock()
        super().connection_made(transport)

    def _refuse(self, transport: asyncio.Transport) -> None:
        self.is_dropped = True
        error = TooBusyError(f"{self._table.limits.max_connections} connections are open already")
        body = encode(make_error_message(error), Encoding.JSON)
        transport.write(
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
            b"Retry-After: %d\r\nConnection: close\r\n\r\n%b" % (len(body), RETRY_AFTER_SECONDS, body)
        )
        transport.close()
        self._table.note_closed(CloseReason.REFUSED)

    def connection_lost(self, exc: BaseException | None) -> None:
        """End the connection as aiohttp does, then call the callback of the request that is being handled."""
        self._table.remove(self)
        if self._partial is not None and not self.is_dropped:
            # Frames that came before the end are taken: some senders count a frame as delivered once it is sent.
            self._parse(b"".join(self._deferred), is_last=True)
        self._deferred.clear()
        self._holder.close()
        self._holder.evict = None  # else thousands of connections wait for the collector, which takes 0.4 s for them
        self._in_hand.close()
        idle = self._task_handler if self._current_request is None else None
        super().connection_lost(exc)
        self._messages.clear()  # up to 32 requests that nobody will handle, else kept until cycles are collected
        if idle is not None:
            idle.cancel()  # aiohttp would wait ten seconds for the rest of a refused body, which cannot come any more
        on_lost, self.on_lost = self.on_lost, None
        if on_lost is not None:
            on_lost()

    # ------------------------------------------------------------ reading
    def _parse_piece(self, data: bytes) -> None:
        if self._partial is not None:
            self._read_frames(self._partial, data)
        else:
            self._read_requests(data)

    def _read_requests(self, data: bytes) -> None:
        count = self._request_count
        self._feed(data)
        if self._current_request is not None and self._messages:
            # Requests that wait behind an event stream would wait for ever, and so would their bodies.
            self._pipelined_bytes += len(data)
            if self._pipelined_bytes > PIPELINED_BYTES and not self._buffer_paused:
                self._pause_reading_for_buffer()
            return
        self._pipelined_bytes = 0
        if self.is_waiting() and self._request_count == count and not self._has_head_begun:
            self._has_head_begun = True
            self.waiting_since = self._table.pauses.clock()

    def _read_frames(self, partial: PartialMessage, data: bytes) -> None:
        partial.begin_read()
        self._feed_unchecked(data)
        has_completed = partial.end_read(len(data))
        if partial.unread_bytes > UNREAD_BYTES and not self._buffer_paused:
            self._pause_reading_for_buffer()
        if not partial.held_bytes:
            self._partial_since = None
        elif self._partial_since is None or has_completed:
            self._partial_since = self._table.pauses.clock()

    def set_parser(self, parser: Any, data_received_cb: Callable[[], None] | None = None) -> None:
        """Become a WebSocket."""
        self._partial = PartialMessage()
        super().set_parser(parser, data_received_cb)

    # ------------------------------------------------------------ memory
    def watch_queue(self, queue: Any) -> None:
        """Count the messages in this queue of aiohttp, from now on."""
        assert self._partial is not None, "it is a WebSocket"
        self._partial.watch_queue(queue)

    def note_messages_read(self) -> None:
        """Count anew after messages were read, and read on if few are left."""
        assert self._partial is not None, "it is a WebSocket"
        if self._buffer_paused and self._partial.unread_bytes <= UNREAD_BYTES // 2:
            self._resume_reading_for_buffer()
        self._account()

    def release_message(self) -> None:
        """End `hold_message`."""
        self._in_hand.close()

    def hold_message(self, size_bytes: int) -> None:
        """Count a large message that was read until `release_message`; its bytes are in use and not evicted."""
        try:
            self._in_hand.resize(size_bytes)
        except TooBusyError:
            self._lose_memory()

    def _account(self) -> None:
        held = sum(map(len, self._deferred)) + self._pipelined_bytes + self.unframed_bytes
        if self._partial is not None:
            held += self._partial.held_bytes + self._partial.unread_bytes
        if held < SMALL_BYTES:
            self._holder.close()
        elif held != self._holder.held_bytes:
            try:
                self._holder.resize(held)
            except TooBusyError:
                self._lose_memory()
        self.is_holding = bool(self._holder.held_bytes or self._buffer_paused)

    def _lose_memory(self) -> None:
        if self.unframed_bytes:  # what was received of a body: its reader finds the same, and answers
            self._holder.reopen(self._lose_memory)
            self.leave_to_aiohttp()
            return
        self.drop(CloseReason.MEMORY, WSCloseCode.TRY_AGAIN_LATER)

    # ------------------------------------------------------------ deadlines
    def pause_writing(self) -> None:
        """Note that the peer does not read what is sent."""
        self._stalled_since = self._table.pauses.clock()
        super().pause_writing()

    def resume_writing(self) -> None:
        """Note that the peer reads again."""
        self._stalled_since = None
        super().resume_writing()

    async def wait_until_written(self) -> None:
        """Wait until the peer has read enough of what was sent; raises `ConnectionError` if it has left."""
        await self._drain_helper()

    @property
    def has_served(self) -> bool:
        """Whether it has had a request."""
        return self._request_count > 0

    def is_waiting(self) -> bool:
        """Whether it has no request in progress."""
        return self._waiter is not None and not self._waiter.done() and not (self._deferred or self.is_calling)

    def find_overdue(self, limits: TransportLimits, now: float, pauses: Pauses) -> CloseReason | None:
        """Return why it must be closed now, if it must. Call it regularly: it also notes when a request has ended."""
        if self._stalled_since is not None:
            is_over = pauses.count_running_seconds(self._stalled_since) >= limits.send_timeout_seconds
            return CloseReason.STALLED_READER if is_over else None
        if self._partial is not None:
            return self._find_slow_frame(limits, now, pauses)
        if self.unframed_bytes:
            self._find_slow_request(limits, now, pauses)
            return None
        if not self.is_waiting() or self._request_count != self._seen_requests:
            self._seen_requests, self._has_head_begun, self.waiting_since = self._request_count, False, now
            if self._pipelined_bytes and not self._messages:
                self._pipelined_bytes = 0
                self._account()
            return None
        is_idle = self.has_served and not self._has_head_begun
        limit = limits.idle_timeout_seconds if is_idle else limits.head_timeout_seconds
        if pauses.count_running_seconds(self.waiting_since) < limit:
            return None
        return CloseReason.IDLE if is_idle else CloseReason.SLOW_HEAD

    def _find_slow_request(self, limits: TransportLimits, now: float, pauses: Pauses) -> None:
        """Leave a plain request that is slow to aiohttp, in whose hands it has its deadlines, from here on."""
        if self._unframed_since is None:
            self._unframed_since = now
        shortest = min(limits.head_timeout_seconds, limits.body_timeout_seconds)
        if pauses.count_running_seconds(self._unframed_since) >= min(SLOW_REQUEST_SECONDS, shortest / 4):
            self.leave_to_aiohttp()

    def _find_slow_frame(self, limits: TransportLimits, now: float, pauses: Pauses) -> CloseReason | None:
        if self.is_holding:
            self._account()  # the last messages of a burst are not counted one by one
        if self._partial_since is None:
            return None
        if self._is_read_held() or self._deferred:  # the daemon does not read, so the peer cannot finish
            self._partial_since = now
            return None
        is_over = pauses.count_running_seconds(self._partial_since) >= limits.body_timeout_seconds
        return CloseReason.SLOW_FRAME if is_over else None

    def drop(self, reason: CloseReason, close_code: WSCloseCode = WSCloseCode.POLICY_VIOLATION) -> None:
        """Close it at once, and free what it holds; a WebSocket is sent the code if it reads."""
        if self.is_dropped:
            return
        self.is_dropped = True
        self._deferred.clear()
        if self._partial is not None:
            self._partial.forget_unread()
        self._holder.close()
        self._table.note_closed(reason)
        log.debug("connection_closed", reason=str(reason), peer=str(self._holder.owner))
        self._end_transport(close_code)

    def _end_transport(self, close_code: WSCloseCode) -> None:
        transport = self.transport
        if transport is None:
            return
        if self._partial is not None and not transport.get_write_buffer_size():
            transport.write(b"\x88\x02" + close_code.to_bytes(2, "big"))
        if transport.get_write_buffer_size():
            transport.abort()  # a peer that reads nothing would keep it open
        else:
            transport.close()
