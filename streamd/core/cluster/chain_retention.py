"""Decides which part of a chain of forecasts may be removed: it is to stay a few times as long as what it must have.

A node that loads a chain needs the newest forecast of each server and the records of steps. What is longer is read in
vain, at each takeover: after a day of rows that come in a minute, a server would have hundreds of forecasts.
"""

import math
from collections import deque

MAX_SHARE = 3.0
"""The chain is shortened once it takes so many times the bytes of the newest forecasts."""

MIN_BYTES = 2 * 2**20
"""A chain is read at once up to this size; shortening it would gain nothing."""

MIN_AGE_SECONDS = 10.0
"""Entries stay so long at least: a reader that falls behind for a moment misses none."""

FULL_SHARE = 0.75
"""From this share of what the log takes on, the chain is too long, whatever its age: the rest is for what is moved."""

RECORDS_A_CHAIN = 32
"""Records of steps come at the latest after this part of what the log takes: all of them within a quarter of it."""


class ChainRetention:
    """The sizes and ages of a chain's entries, in their order; times are epoch seconds of the log.

    `max_bytes` is what the log takes of a chain; -1: no limit.
    """

    def __init__(self, max_bytes: int = -1) -> None:
        self.noted_bytes = 0
        """The size of all entries that ever were noted."""
        self._max_bytes = max_bytes
        self._entries: deque[tuple[int, float, int]] = deque()
        self._entry_bytes = 0
        self._other_bytes = 0
        """What the log stated beyond the entries: below the first one, or, if it is negative, replaced records."""

    @property
    def bytes(self) -> int:
        """The size of the chain."""
        return self._entry_bytes + self._other_bytes

    @property
    def is_full(self) -> bool:
        """Whether the log will soon take no more of the chain."""
        return 0 <= FULL_SHARE * self._max_bytes < self.bytes

    @property
    def record_bytes(self) -> float:
        """The growth of the chain after which its next record is due."""
        return self._max_bytes / RECORDS_A_CHAIN if self._max_bytes >= 0 else math.inf

    @property
    def free_bytes(self) -> float:
        """The bytes that the log still takes of the chain."""
        return max(self._max_bytes - self.bytes, 0) if self._max_bytes >= 0 else math.inf

    def note(self, sequence: int, time: float, size: int) -> None:
        """Note an entry that is in the chain."""
        self._entries.append((sequence, time, size))
        self._entry_bytes += size
        self.noted_bytes += size

    def note_size(self, size: int) -> None:
        """Note the size that the log states: who only read the chain does not know what its owner has not removed."""
        self._other_bytes = size - self._entry_bytes

    def note_removed(self, below: int) -> None:
        """Note that the entries below a sequence were removed."""
        if self._entries and self._entries[0][0] <= below:
            self._other_bytes = min(self._other_bytes, 0)
        while self._entries and self._entries[0][0] < below:
            self._entry_bytes -= self._entries.popleft()[2]

    def is_long(self, needed_bytes: int) -> bool:
        """Whether a part of the chain is to be removed soon, so that records must have its steps by then."""
        return self.bytes > self._find_limit(needed_bytes) / 2

    def find_removable(self, now: float, needed_bytes: int, covered: int) -> int:
        """Return the sequence below which the chain is to be removed, 0 if it need not be.

        `needed_bytes` is the size of the newest forecasts of all servers, some of which may lie below it; `covered` is
        the sequence below which records have all steps.
        """
        if self.bytes <= self._find_limit(needed_bytes):
            return 0
        below, left = 0, min(self._entry_bytes, self.bytes)
        if self._other_bytes > 0 and self._entries:
            below = min(self._entries[0][0], covered)
        for sequence, time, size in self._entries:
            if below:  # the entry before this one may go
                below = min(sequence, covered)
            is_young = time > now - MIN_AGE_SECONDS and not self.is_full
            if left - size < needed_bytes or sequence >= covered or is_young:
                break
            below, left = sequence, left - size
        return below

    def _find_limit(self, needed_bytes: int) -> float:
        """Return the bytes from which on the chain is too long."""
        limit = max(MAX_SHARE * needed_bytes, MIN_BYTES)
        return limit if self._max_bytes < 0 else min(limit, FULL_SHARE * self._max_bytes)
