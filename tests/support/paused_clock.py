"""A clock for `streamd/runtime/pauses.py` that a test moves by hand."""

from collections.abc import Callable

from streamd.runtime.pauses import TICK_SECONDS, Pauses

HOUR = 3_600.0


class PausableClock:
    """Seconds that pass only when a test says so, on top of those of `base`."""

    def __init__(self, pauses: Pauses) -> None:
        self.base: Callable[[], float] = float
        self.ahead = 0.0
        self._pauses = pauses

    def __call__(self) -> float:
        return self.base() + self.ahead

    def pause(self, seconds: float) -> None:
        """Let time pass in which the process does not run."""
        self.ahead += seconds

    def run(self, seconds: float) -> None:
        """Let time pass in which the loop turns."""
        for _ in range(round(seconds / TICK_SECONDS)):
            self.ahead += TICK_SECONDS
            self._pauses.check()
