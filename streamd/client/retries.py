"""The pauses between attempts. Pure: the time is a parameter."""

import random
from collections.abc import Callable

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
"""The longest pause that is chosen at random; it doubles from the first one."""


class RetrySchedule:
    """Pauses that grow and are drawn at random, so that the clients of a daemon do not all come back at once."""

    def __init__(self, limit_seconds: float, choose: Callable[[float, float], float] = random.uniform) -> None:
        """Allow attempts for `limit_seconds` after the first failure, and no second one if that is 0."""
        self._limit_seconds = limit_seconds
        self._choose = choose
        self._failures = 0
        self._began: float | None = None

    def next_pause(self, now: float, at_least: float | None = None) -> float | None:
        """Return the seconds until the next attempt, at least those requested; `None` if it would come too late."""
        self._began = now if self._began is None else self._began
        longest = min(FIRST_PAUSE_SECONDS * 2.0 ** min(self._failures, 16), LONGEST_PAUSE_SECONDS)
        self._failures += 1
        pause = max(at_least or 0.0, 0.0) + self._choose(0.0, longest)
        return pause if now + pause < self._began + self._limit_seconds else None

    def reset(self) -> None:
        """Begin again, after a success."""
        self._failures, self._began = 0, None
