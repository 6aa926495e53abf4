"""POSTs that the daemon sends out by itself: the interface, the answers, and the waits between attempts.

Opens no connection: `streamd/server/outbound.py` has the client, so that this layer needs no HTTP library.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

FIRST_WAIT_SECONDS = 1.0
"""The wait after the first failure; each further one doubles it."""

MAX_WAIT_SECONDS = 60.0
"""The longest wait between attempts that the daemon chooses itself."""

MAX_RETRY_AFTER_SECONDS = 600.0
"""A receiver that asks for a longer wait is asked again after this long."""

_PASSING_STATUSES = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True)
class PostAnswer:
    """The answer to a POST, or the reason why none came."""

    status: int
    """The HTTP status; 0 if no answer came."""

    reason: str = ""
    """In words: the beginning of the answer's body, or why none came; fit for a log."""

    retry_after_seconds: float | None = None
    """The value of Retry-After, if the receiver gave it in seconds."""

    @property
    def is_taken(self) -> bool:
        """Whether the receiver took the body."""
        return 200 <= self.status < 300

    @property
    def is_refused(self) -> bool:
        """Whether the receiver refused the body itself, so that a repetition is likely to be refused too."""
        return 300 <= self.status < 500 and self.status not in _PASSING_STATUSES


class Poster(Protocol):
    """Sends bodies by POST."""

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> PostAnswer:
        """Send a body and return the answer; a failure is an answer too, so this raises nothing."""
        ...


class RetryWaits:
    """The waits between the attempts of one sender: they double, with jitter, and end with a success."""

    def __init__(self, draw: Callable[[], float] = random.random) -> None:
        self._draw = draw
        self._wait_seconds = 0.0

    def end_failures(self) -> None:
        """Begin with the shortest wait again."""
        self._wait_seconds = 0.0

    def choose_wait(self, answer: PostAnswer) -> float:
        """Return the seconds to wait after an attempt that failed."""
        self._wait_seconds = min(max(self._wait_seconds * 2, FIRST_WAIT_SECONDS), MAX_WAIT_SECONDS)
        # Half of it is random, so that many daemons do not come back to a restarted receiver in the same second.
        wait = self._wait_seconds * (0.5 + 0.5 * self._draw())
        return max(wait, min(answer.retry_after_seconds or 0.0, MAX_RETRY_AFTER_SECONDS))
