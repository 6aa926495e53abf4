"""A connection that serves plain calls itself, one at a time, and gives everything else to aiohttp.

From the first byte on that is not of a plain request, all is aiohttp's until the connection ends: where its parser
stands within a message is not known. Only a whole plain request can be given to it without that.
"""

from collections.abc import Callable
from typing import Any, Protocol

import structlog
from aiohttp import web

from streamd.http.direct.framing import Framer, PlainRequest
from streamd.http.direct.heads import PlainHeads
from streamd.http.turn_reader import TurnReader

log = structlog.get_logger(__name__)

Cancel = Callable[[], None]


class DirectCaller(Protocol):
    """The receiver of the end of a call: the connection that began it. One of its methods is called, once."""

    def answer(self, data: bytes) -> None:
        """Send the answer."""
        ...

    def decline(self) -> bool:
        """Let aiohttp serve the call after all; returns `False` and does nothing if it serves no more."""
        ...


class DirectCalls(Protocol):
    """The calls that connections may serve themselves."""

    heads: PlainHeads

    def begin(self, request: PlainRequest, certificate: Any, caller: DirectCaller) -> Cancel | None:
        """Begin a call; returns how to cancel it, or `None` if nothing was begun and aiohttp must serve it.

        `certificate` is that of the client, if it has one. `caller` gets the end of the call later, unless it is
        cancelled.
        """
        ...


class DirectConnection(TurnReader):
    """A connection with at most one call in progress; what comes meanwhile waits, unread as far as possible."""

    __slots__ = (
        "_call",
        "_cancel",
        "_direct",
        "_framer",
        "_is_closing",
        "_is_given",
        "_unframed_since",
        "is_calling",
        "on_lost",
    )

    def __init__(self, manager: web.Server, *, direct: DirectCalls | None, **options: Any) -> None:
        super().__init__(manager, **options)
        self.on_lost: Callable[[], None] | None = None
        """Called when the connection is lost; a connection has one request at a time."""
        self._direct = direct
        self._framer = None if direct is None else Framer(direct.heads)
        """`None` once aiohttp has got a part of a message."""
        self._is_given = False
        """Whether aiohttp has got a whole request, and has not been seen waiting for the next one since."""
        self._unframed_since: float | None = None
        """Since when a request is known not to be complete."""
        self.is_calling = False
        """Whether a call that it serves itself is in progress."""
        self._call: PlainRequest | None = None
        self._cancel: Cancel | None = None
        self._is_closing = False
        """Whether `close` was called during a call."""

    @property
    def unframed_bytes(self) -> int:
        """The bytes of a plain request that is not complete yet."""
        return 0 if self._framer is None else self._framer.held_bytes

    # ------------------------------------------------------------ reading
    def data_received(self, data: bytes) -> None:
        """Read requests, or keep them for later while a call is in progress or its answer is not read."""
        if data and self._is_answer_owed() and not self.is_dropped:
            self._defer(data)
            self._account()
        else:
            super().data_received(data)

    def _is_answer_owed(self) -> bool:
        return self.is_calling or (self._paused and self._framer is not None)

    def _is_parse_held(self) -> bool:
        return self._is_answer_owed() or super()._is_parse_held()

    def _parse(self, data: bytes, *, is_last: bool = False) -> None:
        if self._framer is None:
            super()._parse(data, is_last=is_last)
            return
        framer = self._framer
        is_begun = framer.held_bytes > 0
        if not is_begun:
            self._unframed_since = None
        framer.add(data)
        request = None if self._is_busy() else framer.take_request()
        if request is not None:
            self._serve(request, framer)
        elif self._is_busy() or not framer.is_plain:
            self.leave_to_aiohttp()
        if is_begun or request is None:
            self._account()

    def _is_busy(self) -> bool:
        """Whether aiohttp has a request, or the connection ends."""
        if self._is_given and self._waiter is not None and not self._waiter.done():
            self._is_given = False  # it waits for the next one
        return self._is_given or self._close or self._force_close

    def leave_to_aiohttp(self) -> None:
        """Give all that was received and is not served to aiohttp, and all that will come."""
        if self._framer is None:
            return
        data, self._framer = self._framer.take_all(), None
        if data and self._deferred:
            self._deferred.insert(0, data)  # what is deferred came later
            self._parse_later()
        elif data:
            super()._parse(data)

    def _give_to_aiohttp(self, request: PlainRequest, framer: Framer) -> None:
        """Give a request as a whole to aiohttp. If its parser takes it as a whole, too, the next one may be plain."""
        self._is_given = True
        behind = b"".join((framer.take_all(), *self._deferred))
        self._deferred.clear()
        super()._parse(request.message)
        if behind or self._deferred or self._is_read_held():
            self._framer = None
        if behind:
            self._defer(behind)  # behind what is left of the request
            self._account()

    def _serve(self, request: PlainRequest, framer: Framer) -> None:
        assert self._direct is not None, "it has a framer"
        certificate = self.transport.get_extra_info("peercert") if self.transport is not None else None
        cancel = self._direct.begin(request, certificate, self)
        if cancel is None:
            self._give_to_aiohttp(request, framer)
            return
        self._call, self._cancel, self.on_lost = request, cancel, self._lose_call
        self._request_count += 1
        self.is_calling = self._request_in_progress = True
        if framer.held_bytes:
            self._defer(framer.take_all())
            self._account()

    # ------------------------------------------------------------ the call in progress
    def answer(self, data: bytes) -> None:
        """Send the answer to the call in progress, and go on as aiohttp does behind a request."""
        self._end_call()
        if self.transport is None or self.transport.is_closing():
            return
        self.transport.write(data)
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._is_closing:
            super().close()
        elif self._deferred:
            self._parse_later()

    def decline(self) -> bool:
        """Give the call in progress to aiohttp; returns `False` if it takes no more, because the daemon stops."""
        request, framer = self._call, self._framer
        if self._close or self._force_close or self.transport is None or self.transport.is_closing():
            return False
        assert request is not None, "a call is in progress"
        assert framer is not None, "nothing is given to aiohttp during a call"
        self._forget_call()  # a daemon that stops still waits: aiohttp ends the request
        self._request_count -= 1  # aiohttp counts it again
        self._give_to_aiohttp(request, framer)
        if self._is_closing:
            super().close()
        return True

    def _lose_call(self) -> None:
        """Cancel the call in progress, because the caller left."""
        cancel = self._cancel
        self._end_call()
        self._counts.peers_left += 1
        log.debug("peer_left", reason="the caller left before the answer")
        if cancel is not None:
            cancel()

    def _forget_call(self) -> None:
        self.on_lost = self._call = self._cancel = None
        self.is_calling = False

    def _end_call(self) -> None:
        self._forget_call()
        self._request_in_progress = False
        if self._handler_waiter is not None and not self._handler_waiter.done():
            self._handler_waiter.set_result(None)  # the daemon stops, and waits for this

    def _process_keepalive(self) -> None:
        """Close the connection if it is idle; for aiohttp, which knows of no call here, it always is."""
        if self.is_calling:
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        super()._process_keepalive()

    def resume_writing(self) -> None:
        """Read on, if only the unread answer was in the way."""
        super().resume_writing()
        if self._deferred:
            self._parse_later()

    def close(self) -> None:
        """Close the connection behind the request in progress."""
        if self.is_calling:
            self._is_closing = True
        else:
            super().close()
