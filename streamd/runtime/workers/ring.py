"""A ring of messages in shared memory, from one process to one other; either may die at any moment.

Knows a buffer only: who wakes the reader is up to `doorbell.py`, and what a message says is up to `messages.py`.

    header   position of the writer | position of the reader | starts of writers | starts of readers
    data     length, checksum, bytes, padding | length, checksum, bytes, padding | ...

Positions count bytes and only rise; the place of a position is `position % size`. A message wraps around the end.

The writer stores a message, then its own position: a message that was being written when its writer died lies behind
the position, and the next writer overwrites it. On x86 the stores are seen in that order. Other processors may show
the position first: the checksum, which covers the position as well, is wrong until the whole message is seen.
"""

from zlib import crc32

RING_HEADER_BYTES = 64
_ENTRY_BYTES = 8
_WRITTEN, _READ, _WRITERS, _READERS = range(4)


class _Ring:
    """The parts that both ends use; `buffer` has a header of `RING_HEADER_BYTES`, then a multiple of 8 bytes."""

    def __init__(self, buffer: memoryview) -> None:
        self._counters = buffer[:RING_HEADER_BYTES].cast("Q")
        self._data = buffer[RING_HEADER_BYTES:].cast("B")
        self.size = len(self._data)
        """The number of bytes of messages and their heads that fit."""
        self._words = self._data.cast("I")


class RingWriter(_Ring):
    """The end that writes; a process that starts to write continues where the former one ended."""

    def __init__(self, buffer: memoryview) -> None:
        super().__init__(buffer)
        self._counters[_WRITERS] += 1
        self._position = self._counters[_WRITTEN]

    @property
    def readers(self) -> int:
        """The number of processes that have read this ring so far; it rises when a new one starts."""
        return self._counters[_READERS]

    @property
    def free(self) -> int:
        """The number of free bytes; a message needs 8 more than it has, rounded up to 8."""
        return self.size - (self._position - self._counters[_READ])

    def push(self, message: bytes) -> bool:
        """Append a message; returns `False`, and changes nothing, if there is no space for it now.

        Raises `ValueError` if it would never fit.
        """
        needed = _ENTRY_BYTES + -(-len(message) // 8) * 8
        if needed > self.free:
            if needed > self.size:
                raise ValueError(f"a message has {len(message)} bytes, and the ring has space for {self.size - 8}")
            return False
        word = self._position % self.size // 4
        self._words[word] = len(message)
        self._words[word + 1] = _checksum(message, self._position)
        self._copy_in(message, (self._position + _ENTRY_BYTES) % self.size)
        self._position += needed
        self._counters[_WRITTEN] = self._position
        return True

    def _copy_in(self, message: bytes, place: int) -> None:
        first = min(len(message), self.size - place)
        self._data[place : place + first] = message[:first]
        if first < len(message):
            self._data[: len(message) - first] = message[first:]


class RingReader(_Ring):
    """The end that reads; a process that starts to read continues where the former one ended."""

    def __init__(self, buffer: memoryview) -> None:
        super().__init__(buffer)
        self._counters[_READERS] += 1
        self._position = self._counters[_READ]

    @property
    def writers(self) -> int:
        """The number of processes that have written this ring so far; it rises when a new one starts."""
        return self._counters[_WRITERS]

    def pop(self) -> bytes | None:
        """Remove and return the oldest message, or `None` if the ring has none."""
        if self._position == self._counters[_WRITTEN]:
            return None
        word = self._position % self.size // 4
        length, check = self._words[word], self._words[word + 1]
        if length > self.size - _ENTRY_BYTES:
            return None
        message = self._copy_out((self._position + _ENTRY_BYTES) % self.size, length)
        if check != _checksum(message, self._position):
            return None
        self._position += _ENTRY_BYTES + -(-length // 8) * 8
        self._counters[_READ] = self._position
        return message

    def skip_all(self) -> None:
        """Drop every message that is in the ring now: they were for the former reader."""
        self._position = self._counters[_WRITTEN]
        self._counters[_READ] = self._position

    def _copy_out(self, place: int, length: int) -> bytes:
        first = min(length, self.size - place)
        head = bytes(self._data[place : place + first])
        return head if first == length else head + bytes(self._data[: length - first])


def _checksum(message: bytes, position: int) -> int:
    """Return a checksum that another message, or the same one a lap ago, does not have."""
    return crc32(message, position >> 3 & 0xFFFF_FFFF)
