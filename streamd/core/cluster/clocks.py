"""The clocks of a cluster's nodes, compared by their heartbeats: whose is wrong. Reads no clock itself.

Safety never depends on these clocks; but a sample's time is checked against that of the node that takes it.
"""

from collections import deque
from dataclasses import dataclass
from enum import Enum

HEARD_SECONDS = 10.0
"""A message that was delayed makes its sender's clock look late; the least delayed one of so many seconds counts."""


class ClockVerdict(Enum):
    """A node's clock among those of the others."""

    RIGHT = "right"
    WRONG = "wrong"
    """The middle of all clocks is further from it than permitted."""
    UNDECIDED = "undecided"
    """Clocks differ, and there is no majority: which of them is wrong cannot be known."""


@dataclass(frozen=True, slots=True)
class _Heard:
    now: float
    offset_seconds: float


class ClockBook:
    """The offsets of other clocks from this node's; `now` is in monotonic seconds, times are epoch seconds.

    The clock of the log may be heard too, under a name that no node has: with two nodes it is the third.
    """

    def __init__(self, max_offset_seconds: float) -> None:
        self._limit = max_offset_seconds
        self._heard: dict[str, deque[_Heard]] = {}
        self._was_wrong = False

    def hear(self, name: str, time: float, own_time: float, now: float) -> None:
        """Record what another clock showed when it was sent, and this node's when that came."""
        heard = self._heard.setdefault(name, deque())
        heard.append(_Heard(now, time - own_time))
        while heard[0].now < now - HEARD_SECONDS:
            heard.popleft()

    def forget(self, name: str) -> None:
        """Remove the clock of a node that is away."""
        self._heard.pop(name, None)

    def list_offsets(self, now: float) -> dict[str, float]:
        """Return how many seconds each clock that was heard lately is ahead of this node's."""
        return {
            name: max(each.offset_seconds for each in recent)
            for name, heard in self._heard.items()
            if (recent := [each for each in heard if each.now >= now - HEARD_SECONDS])
        }

    def find_deviating(self, now: float) -> dict[str, float]:
        """Return the clocks that differ from this node's by more than permitted, with their offsets in seconds."""
        return {name: offset for name, offset in self.list_offsets(now).items() if abs(offset) > self._limit}

    def judge(self, now: float) -> ClockVerdict:
        """Return what this node's clock is. A wrong one is right again once it is within half of what is permitted."""
        offsets = sorted([0.0, *self.list_offsets(now).values()])
        middles = (offsets[(len(offsets) - 1) // 2], offsets[len(offsets) // 2])
        limit = self._limit / 2 if self._was_wrong else self._limit
        beyond = [abs(middle) > limit for middle in middles]
        self._was_wrong = len(offsets) > 2 and all(beyond)
        if self._was_wrong:
            return ClockVerdict.WRONG
        return ClockVerdict.UNDECIDED if any(beyond) else ClockVerdict.RIGHT

    def measure_own_offset(self, now: float) -> float:
        """Return how many seconds this node's clock is ahead of the middle of all, of the nearer of two."""
        offsets = sorted([0.0, *self.list_offsets(now).values()])
        middles = (offsets[(len(offsets) - 1) // 2], offsets[len(offsets) // 2])
        return -min(middles, key=abs)
