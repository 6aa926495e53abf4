"""One reader of the overview, on the event loop: it wants a frame, and the thread of the overview hands one over."""

import asyncio
from collections.abc import Callable
from typing import Protocol

import structlog

from streamd.core.errors import StreamdError
from streamd.runtime.fleet.entries import FleetEntries
from streamd.runtime.fleet.moment import FleetMoment

log = structlog.get_logger(__name__)

MakeFrame = Callable[[FleetMoment, FleetEntries], bytes | None]
"""Makes the next frame of a reader in the thread; `None` if nothing changed for it."""


FrameWait = asyncio.Future[bytes]
"""The frame that a reader waits for."""


class ReaderKeeper(Protocol):
    """The part of the overview that a reader needs."""

    def want(self, reader: "FleetReader", frame: FrameWait) -> None:
        """Let the thread make the next frame of a reader."""
        ...

    def leave(self, reader: "FleetReader") -> None:
        """Make no more frames for a reader."""
        ...


class FleetReader:
    """A reader; make it on its running loop, and `close` it in the end."""

    def __init__(self, overview: ReaderKeeper, make_frame: MakeFrame) -> None:
        self.make_frame = make_frame
        self.wanted: FrameWait | None = None
        """The frame that it waits for, `None` if it does not. The overview guards this by its lock, as `is_new`."""
        self.is_new = True
        """Whether it has got no frame yet, so that it gets one at once."""
        self._overview = overview
        self._loop = asyncio.get_running_loop()

    async def read(self) -> bytes:
        """Return the next frame, when something has changed; the first one at once.

        Raises `UnavailableError` if the first one cannot be made, or the daemon is stopping.
        """
        frame: FrameWait = self._loop.create_future()
        self._overview.want(self, frame)
        return await frame

    def close(self) -> None:
        """End the reader; a second call is a no-op."""
        self._overview.leave(self)

    def deliver(self, frame: bytes | StreamdError) -> None:
        """Hand over the frame that it waits for, or an error in its place; may be called in any thread."""
        wanted, self.wanted, self.is_new = self.wanted, None, False
        if wanted is None:
            return
        try:
            self._loop.call_soon_threadsafe(_resolve, wanted, frame)
        except RuntimeError:
            log.debug("fleet_not_sent", reason="the event loop is closed")


def _resolve(wanted: FrameWait, frame: bytes | StreamdError) -> None:
    if wanted.done():
        return  # its reader was cancelled
    if isinstance(frame, StreamdError):
        wanted.set_exception(frame)
    else:
        wanted.set_result(frame)
