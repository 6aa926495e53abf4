"""The clock of the log, as a node knows it by the times of the messages that it reads. Pure.

All nodes give forecasts serial numbers by this clock, so that a reader of one node can continue at another one.
"""

import math

BUCKET_SECONDS = 30.0
"""A time that was seen counts for one to two of these: the clocks of two machines drift by microseconds meanwhile."""


class LogClock:
    """The offset of the log's clock from the monotonic clock of this process.

    A message arrives after it was stored, so the largest offset of the last moments is the nearest one.
    """

    def __init__(self, wall_offset: float) -> None:
        self._offset = wall_offset
        """The offset until the first message came: epoch seconds minus monotonic seconds, by the clock of this host."""
        self._current = self._previous = -math.inf
        self._bucket_began = -math.inf

    def note(self, log_time: float, now: float) -> None:
        """Note that a message of this time (epoch seconds) was read at `now` (monotonic seconds)."""
        if now - self._bucket_began >= BUCKET_SECONDS:
            is_next = now - self._bucket_began < 2 * BUCKET_SECONDS
            self._previous = self._current if is_next else -math.inf
            self._current, self._bucket_began = -math.inf, now
        self._current = max(self._current, log_time - now)
        self._offset = max(self._current, self._previous)

    def read(self, now: float) -> float:
        """Return the log's time at `now` (monotonic seconds), in epoch seconds."""
        return self._offset + now


def make_serial(log_time: float) -> int:
    """Return the serial number of a forecast that is posted at this time of the log: its microseconds."""
    return int(log_time * 1e6)
