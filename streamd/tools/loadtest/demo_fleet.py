"""The rows of the recorded fleet that the demo sends, and when each of them is due.

Arithmetic only: no files, no sockets; time is a parameter.
"""

from dataclasses import dataclass

import numpy as np

from streamd.tools.fleets.fleet import RecordedFleet

STREAM_STEPS = 120
"""Ten hours of each server, row by row; the rows before them fill the windows."""

LIVE_STEPS = 660
"""A demo of the present ends its stream after so many steps of the recording, at 07:00 on the third day.

Then some servers are about to cross a threshold of the demo's rules, one disk crosses later (by the hour of the day in
minutes or hours), most never cross.
"""

MAX_OVERDUE_STEPS = 288
"""Rows that are older than so many steps are not sent any more; the daemon would reject them as too old."""


@dataclass(frozen=True, slots=True)
class DemoStretch:
    """The recording, and the step indices of it that the demo sends."""

    whole: RecordedFleet
    """Moved to the times at which it is sent."""
    begin: int
    end: int

    @property
    def sent(self) -> RecordedFleet:
        """The rows of the demo: first those that fill the windows, then the stream."""
        return self.whole.take_steps(self.begin, self.end)


def choose_stretch(recording: RecordedFleet, fill_steps: int, step_seconds: int, now: float | None) -> DemoStretch:
    """Choose the stretch of a demo that fills windows of `fill_steps` rows.

    `now` is epoch seconds: the row after the last one is then of the step that has just ended, and the first of
    `LiveRows`. `None` keeps the times of the recording, and begins with its first row.
    """
    sent = min(fill_steps + STREAM_STEPS, recording.steps)
    if now is None:
        return DemoStretch(recording, 0, sent)
    end = min(max(LIVE_STEPS, sent), recording.steps)
    return DemoStretch(recording.move_to_step(int(now // step_seconds) - 1 - end), end - sent, end)


class LiveRows:
    """The rows that follow a demo of the present, each due in the step after its own, evenly over the servers.

    A row has the means of its step, so it is not known before the step is over. After its last row the recording begins
    again; it is whole days long, so the time of day goes on as it was.
    """

    def __init__(self, fleet: RecordedFleet, next_step: int, step_seconds: int) -> None:
        """Begin with `next_step`, as the daemon numbers steps, for each server of the moved `fleet`."""
        self._fleet = fleet
        self.step_seconds = step_seconds
        self._next_steps = [next_step] * len(fleet.servers)

    def list_due(self, now: float) -> list[tuple[int, int]]:
        """Return the (server index, step) of each row that is due, oldest first."""
        rows = []
        for server in range(len(self._fleet.servers)):
            newest = self._find_newest(server, now)
            oldest = max(self._next_steps[server], newest - MAX_OVERDUE_STEPS + 1)
            rows += [(server, step) for step in range(oldest, newest + 1)]
        return sorted(rows, key=lambda row: self.find_time(*row))

    def find_next_time(self) -> float:
        """Return when the next row is due, in epoch seconds."""
        return min(self.find_time(server, step) for server, step in enumerate(self._next_steps))

    def find_time(self, server: int, step: int) -> float:
        """Return when a row is due, in epoch seconds."""
        return (step + 1 + self._find_offset(server)) * self.step_seconds

    def read_row(self, server: int, step: int) -> dict[str, float]:
        """Return the values that the row has, by feature."""
        values = self._fleet.series[server, (step - self._fleet.first_step) % self._fleet.steps]
        return {name: float(value) for name, value in zip(self._fleet.features, values, strict=True) if value == value}

    def mark_sent(self, rows: list[tuple[int, int]]) -> None:
        """Note that the daemon has acknowledged these rows."""
        for server, step in rows:
            self._next_steps[server] = max(self._next_steps[server], step + 1)

    def _find_newest(self, server: int, now: float) -> int:
        return int(np.floor(now / self.step_seconds - self._find_offset(server))) - 1

    def _find_offset(self, server: int) -> float:
        """Return the moment within the next step at which the rows of a server are due, 0 to 1."""
        return (server + 0.5) / len(self._fleet.servers)
