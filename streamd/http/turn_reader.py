"""Parses what connections receive in turns, so that no peer keeps the event loop: aiohttp would parse it all at once.

Knows requests only as bytes; `connections.py` decides what a connection may hold and when it is closed.
"""

import time
from typing import Any

from aiohttp import web

from streamd.http.connection_errors import ErrorAnsweringHandler
from streamd.http.peer_turns import PeerTurns

PARSE_BYTES = 2**12
"""The bytes that are parsed before the time is checked. The worst, chunks of one byte, takes 1 ms until it is read."""

FAST_PARSE_SECONDS = 0.0002
"""After a piece that took less, twice as many bytes are parsed, up to `MAX_PARSE_BYTES`: a body costs little a byte."""

MAX_PARSE_BYTES = 2**16

SMALL_BYTES = 2**12
"""What a connection holds is counted from so many bytes on, so that a frame of usual size costs nothing. A piece of at
most so many bytes waits behind small ones only."""


class TurnReader(ErrorAnsweringHandler):
    """A connection of aiohttp that parses what it receives at once as long as the turn of the loop has time left.

    Else it parses it in a later turn, and meanwhile nothing more is read.
    """

    __slots__ = ("_deferred", "_is_malformed", "_is_parsed_later", "_turns", "is_dropped")

    def __init__(self, manager: web.Server, *, turns: PeerTurns, **options: Any) -> None:
        super().__init__(manager, **options)
        self._turns = turns
        self._deferred: list[bytes] = []
        """Received, not parsed yet."""
        self._is_malformed = False
        """Whether bytes came that are not HTTP; what follows them is not parsed."""
        self._is_parsed_later = False
        self.is_dropped = False
        """Whether the daemon has closed it; its messages are not handled then."""

    def data_received(self, data: bytes) -> None:
        """Parse what was received, now or in a later turn."""
        if self.is_dropped:
            return
        if self._is_malformed:
            if self._current_request is not None:  # the answer to what was malformed comes after it, perhaps never
                self._pause_transport_reading()
        elif not data:  # aiohttp continues with what it has buffered
            self._feed(data)
        elif self._deferred or self._turns.is_over():
            self._defer(data)
            self._account()
        else:
            self._parse(data)

    def _defer(self, data: bytes) -> None:
        """Parse it later, and read no more until then."""
        self._deferred.append(data)
        self._pause_transport_reading()
        self._parse_later()

    def _parse_later(self) -> None:
        if not (self._is_parsed_later or self._is_parse_held()):
            self._is_parsed_later = True
            is_small = len(self._deferred) == 1 and len(self._deferred[0]) <= SMALL_BYTES
            self._turns.call_in_turn(self._parse_deferred, is_small=is_small)

    def _is_read_held(self) -> bool:
        """Whether what was parsed must be handled before more is read."""
        return self._buffer_paused or self._reading_paused

    def _is_parse_held(self) -> bool:
        """Whether what was parsed must be handled before more is parsed; to be overridden."""
        return self._is_read_held()

    def _parse_deferred(self) -> None:
        self._is_parsed_later = False
        if self._is_parse_held():
            return  # it is called again when reading is resumed
        data = b"".join(self._deferred)
        self._deferred.clear()
        if self.is_dropped or self.transport is None:
            return
        self._parse(data)
        if not (self._deferred or self._is_read_held()):
            self._resume_transport_reading()

    def _resume_transport_reading(self) -> None:
        """Parse what is deferred before more is read, whoever wants to read on: aiohttp or this class."""
        if self._deferred:
            self._parse_later()
        else:
            super()._resume_transport_reading()

    def _parse(self, data: bytes, *, is_last: bool = False) -> None:
        if len(data) <= PARSE_BYTES:
            self._parse_piece(data)
        else:
            self._parse_pieces(data, is_last=is_last)
        self._account()

    def _parse_pieces(self, data: bytes, *, is_last: bool) -> None:
        place, size_bytes = 0, PARSE_BYTES
        while place < len(data) and not (self.is_dropped or self._is_malformed):
            if place and not is_last and (self._is_read_held() or self._turns.is_over()):
                self._defer(data[place:])
                break
            began = time.perf_counter()
            self._parse_piece(data[place : place + size_bytes])
            place += size_bytes
            if time.perf_counter() - began < FAST_PARSE_SECONDS:
                size_bytes = min(2 * size_bytes, MAX_PARSE_BYTES)

    def _feed(self, data: bytes) -> None:
        """Let aiohttp parse it as HTTP. After bytes that are not HTTP, no more is parsed on this connection."""
        count = self._request_count
        self._feed_unchecked(data)
        if self._request_count == count or not self._messages:
            return
        error = getattr(self._messages[-1][0], "exc", None)  # what aiohttp queues in place of a request
        if error is not None:
            # Its traceback is in a cycle with frames that hold what was received, up to 256 KiB for each bad request.
            error.__traceback__ = None
            self._is_malformed = True
            self._deferred.clear()

    def _feed_unchecked(self, data: bytes) -> None:
        """Let aiohttp parse it, as HTTP or as frames."""
        super().data_received(data)

    # ------------------------------------------------------------ for the class that knows what a connection may hold
    def _account(self) -> None:
        """Count what the connection holds, after this has changed; to be overridden."""

    def _parse_piece(self, data: bytes) -> None:
        """Parse what was received, of which a part may have to wait for more; to be overridden."""
        self._feed(data)
