"""The size of the unfinished message that a WebSocket holds, found from outside of aiohttp's parser.

The parser does not show what it holds, and reading every frame a second time would cost 1 us for each. But its queue
shows which messages became complete in a read, so what is left of the read is unfinished.
"""

from typing import Any

from aiohttp import WSMsgType

READ_OVERHEAD_BYTES = 64
"""Added for each read that completes nothing: the parser keeps it as an object until its frame is complete. A peer that
sends single bytes makes the daemon hold many times of what it sends."""

MESSAGE_OVERHEAD_BYTES = 128
"""Counted by the queue for each message, beside its content."""

INEXACT_BYTES = 2**12
"""The headers of frames can only be estimated, up to 8 bytes off for each. Less than this may be due to it: ignored."""

EXPLAINED_BYTES = 128
"""So much may be due to the headers of the fragments of one message."""

_SHOWN_MESSAGES = 8


class PartialMessage:
    """The bytes of one WebSocket that do not make up a message yet: its unfinished message, and what is not parsed."""

    __slots__ = ("_queue", "_reads", "_received_bytes", "_unread_bytes", "_unread_messages")

    def __init__(self) -> None:
        self._received_bytes = 0
        """Received since the last message was complete."""
        self._reads = 0
        self._queue: Any = None
        self._unread_bytes = 0
        self._unread_messages = 0

    def watch_queue(self, queue: Any) -> None:
        """Compare with this queue of aiohttp from now on."""
        self._queue = queue

    @property
    def held_bytes(self) -> int:
        """The bytes that are received and not part of a complete message, with the overhead of the parser."""
        return self._received_bytes + self._reads * READ_OVERHEAD_BYTES

    @property
    def unread_bytes(self) -> int:
        """The size of the messages that are complete and not read yet."""
        return 0 if self._queue is None else self._queue._size

    def forget_unread(self) -> None:
        """Free the messages that are not read."""
        if self._queue is not None:
            self._queue._buffer.clear()

    def begin_read(self) -> None:
        """Note the state of the queue before a read is parsed."""
        if self._queue is not None:
            self._unread_bytes, self._unread_messages = self._queue._size, len(self._queue._buffer)

    def end_read(self, size_bytes: int) -> bool:
        """Count a read that was parsed; returns whether a message became complete in it."""
        queue = self._queue
        count = len(queue._buffer) - self._unread_messages if queue is not None else 0
        if not count:
            self._received_bytes += size_bytes
            self._reads += 1
            return False
        content = queue._size - self._unread_bytes - MESSAGE_OVERHEAD_BYTES * count
        left = self._received_bytes + size_bytes - content - count * _estimate_header_bytes(content // count)
        if not self._has_data(min(count, _SHOWN_MESSAGES)):  # only pings, between the fragments of a message
            self._received_bytes = max(left, 0)
            return False
        is_explained = left <= min(8 * count + EXPLAINED_BYTES, INEXACT_BYTES)
        self._received_bytes = 0 if is_explained else min(left, size_bytes)
        self._reads = 0
        return True

    def _has_data(self, count: int) -> bool:
        newest = (self._queue._buffer[-1 - place][0] for place in range(count))
        return any(each.type in (WSMsgType.TEXT, WSMsgType.BINARY) for each in newest)


def _estimate_header_bytes(content_bytes: int) -> int:
    """Return the size of the header of a masked frame (RFC 6455, section 5.2)."""
    if content_bytes < 126:
        return 6
    return 8 if content_bytes < 2**16 else 14
