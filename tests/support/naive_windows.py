"""A naive, obviously right model of windows: one dict of rows for each server, no rings and no arrays.

Written from the design, not from the code: a row is closed, and its server is due, if it has every feature of the
server's previous row, if a sample of a later step arrives, or if its grace is over. Whether a row has every feature is
checked when a sample of that row arrives. If a sample is of a step before the open row, a sample of a later step is
already there, so its row is closed at once.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


@dataclass
class Row:
    """The values and the status of one server at one step."""

    values: dict[int, float] = field(default_factory=dict)
    status: int = 0

    def take(self, cells: dict[int, float], status: int | None) -> None:
        """Merge a sample: the last value of a feature wins, and so does the last given status."""
        self.values.update(cells)
        if status is not None:
            self.status = status


@dataclass
class NaiveServer:
    """All rows of one server by step; `newest` is the newest closed row, `filling` the open one, or None."""

    context_length: int
    features: int
    need: int
    late_steps: int
    grace_seconds: float
    rows: dict[int, Row] = field(default_factory=dict)
    newest: int | None = None
    filling: int | None = None
    opened: float = 0.0
    closed_rows: int = 0
    warming_rows: int = 0

    def write(self, step: int, cells: dict[int, float], status: int | None, now: float) -> int | None:
        """Take one sample; returns how many rows became due by it, or None if it is too old."""
        if self.is_too_old(step):
            return None
        due = 0
        # 1. A late or repeated sample of a closed row: no row becomes due.
        if self.newest is not None and step <= self.newest:
            self.rows.setdefault(step, Row()).take(cells, status)
        # 2. A row between the newest closed one and the open one.
        elif self.filling is not None and step < self.filling:
            self.rows.setdefault(step, Row()).take(cells, status)
            due += self._close(step)
        # 3. The open row, or a new one, which closes the open one.
        else:
            if self.filling is not None and step > self.filling:
                due += self._close(self.filling)
            if self.filling is None:
                self.filling, self.opened = step, now
            self.rows.setdefault(step, Row()).take(cells, status)
            if set(self.rows[step].values) >= self._features_before(step):
                due += self._close(step)
        return due

    def close_overdue(self, now: float) -> int:
        """Close the row whose grace is over; returns how many rows became due."""
        if self.filling is None or now - self.opened < self.grace_seconds:
            return 0
        return self._close(self.filling)

    def is_too_old(self, step: int) -> bool:
        """Whether a step is further behind this server's newest row than the tolerance, or outside its window."""
        latest = self.latest
        return latest is not None and latest - step > min(self.late_steps, self.context_length - 1)

    @property
    def latest(self) -> int | None:
        """The newest row, closed or open."""
        return self.newest if self.filling is None else self.filling

    @property
    def window_steps(self) -> range:
        """The steps of the window that ends at the newest closed row."""
        assert self.newest is not None
        return range(self.newest - self.context_length + 1, self.newest + 1)

    @property
    def have(self) -> int:
        """Rows of the window that have any value."""
        if self.newest is None:
            return 0
        return sum(1 for step in self.window_steps if step in self.rows and self.rows[step].values)

    def window(self) -> tuple[npt.NDArray[np.float32], list[int]]:
        """Return the values `(context_length, features)`, oldest first, NaN for a missing value, and the statuses."""
        values = np.full((self.context_length, self.features), np.nan, np.float32)
        statuses = [0] * self.context_length
        for place, step in enumerate(self.window_steps):
            row = self.rows.get(step, Row())
            statuses[place] = row.status
            for feature, value in row.values.items():
                values[place, feature] = value
        return values, statuses

    def _features_before(self, step: int) -> set[int]:
        """Return the features of the previous row that had any; before the first such row, every feature."""
        earlier = [other for other, row in self.rows.items() if other < step and row.values]
        return set(self.rows[max(earlier)].values) if earlier else set(range(self.features))

    def _close(self, step: int) -> int:
        self.newest = step
        if self.filling == step:
            self.filling = None
        self.closed_rows += 1
        if self.have >= self.need:
            return 1
        self.warming_rows += 1
        return 0
