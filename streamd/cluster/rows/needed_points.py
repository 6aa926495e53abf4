"""Finds the messages of a row log whose points may still change a row. Reads and removes nothing."""

from collections import deque

from streamd.core.aggregation.points import count_retained_steps


class NeededPoints:
    """The places of one row log by its time, noted a few times a step."""

    def __init__(self, step_seconds: int) -> None:
        self._step_seconds = step_seconds
        self._kept_seconds = (count_retained_steps(step_seconds) + 2) * step_seconds
        self._times: deque[tuple[float, int]] = deque()
        """Of applied messages the log's time and the sequence."""

    def note(self, time: float, sequence: int) -> None:
        """Note the newest message that is applied, with the log's time of it in epoch seconds."""
        if not self._times or time - self._times[-1][0] >= self._step_seconds / 4:
            self._times.append((time, sequence))

    def find_first(self, now: float) -> int:
        """Return the first message that came in the steps whose rows may still change; `now` is the log's time."""
        since = now - self._kept_seconds
        while len(self._times) > 1 and self._times[1][0] < since:
            self._times.popleft()
        # Everything up to the first one came before; what came between it and the next one may be needed.
        first_time, first = self._times[0] if self._times else (0.0, 0)
        return first + 1 if first_time < since else 0
