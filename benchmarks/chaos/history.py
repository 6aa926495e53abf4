"""What the daemon may answer: every value that was sent, when, and whether it was acknowledged.

A naive model, written from `docs/wire.md` and not from the code: dicts of cells, no rings and no arrays. A daemon may
have taken a sample from the moment when it was sent, and must have it once it was acknowledged. So a cell of a window
that was read between two times has one of a few values, and nearly always exactly one.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks.chaos.model import CONTRACT, MISSING

CELLS = range(len(CONTRACT.features))
KEPT_STEPS = 60 * CONTRACT.context_length
"""Rows behind the newest one that are kept: a stalled subscriber reads forecasts that are many rows old."""


@dataclass(slots=True)
class CellWrite:
    """One value that was sent for a cell."""

    value: float
    sent_at: float
    acked_at: float | None = None


@dataclass(slots=True)
class ServerHistory:
    """All that was sent for one server; times are monotonic seconds of this process."""

    name: str
    cells: dict[int, list[list[CellWrite]]] = field(default_factory=dict)
    """The writes of each feature, by step, in the order in which they were sent."""
    newest_sent: int = -1
    delivered: int = -1
    """The newest step whose forecast any subscriber got."""
    _oldest: int | None = None

    def begin_write(self, step: int, values: dict[int, float], now: float) -> list[CellWrite]:
        """Note a sample that is about to be sent; the writes are to be finished by its ack."""
        row = self.cells.setdefault(step, [[] for _ in CELLS])
        writes = []
        for feature, value in values.items():
            writes.append(CellWrite(value, now))
            row[feature].append(writes[-1])
        if step > self.newest_sent:
            self.newest_sent = step
            self._forget_before(step - KEPT_STEPS)
        return writes

    def can_check(self, newest: int) -> bool:
        """Whether all rows of the window that ends at a step are kept."""
        return self._oldest is None or newest - CONTRACT.context_length + 1 >= self._oldest

    @property
    def closed_step(self) -> int:
        """The newest step whose row must be closed; -1 if there is none.

        A row is closed when each of its features was acknowledged, or any value of a later row.
        """
        for step in sorted(self.cells, reverse=True):
            acked = [any(write.acked_at is not None for write in writes) for writes in self.cells[step]]
            if all(acked):
                return step
            if any(acked):
                earlier = [each for each in self.cells if each < step and self._has_row(each)]
                return max(earlier, default=-1)
        return -1

    def first_sent_at(self, step: int) -> float | None:
        """Return when the first value of a row was sent, `None` if none was."""
        times = [writes[0].sent_at for writes in self.cells.get(step, ()) if writes]
        return min(times, default=None)

    def find_wrong_cells(self, newest: int, rows: Sequence[Collection[float]], begin: float, end: float) -> list[str]:
        """Return what is wrong in a window whose newest row is `newest`, read at some time from `begin` to `end`.

        `rows` has the values of each row, oldest first, in the order of the features, `MISSING` for a missing value.
        """
        wrong = []
        for place, row in enumerate(rows):
            step = newest - len(rows) + 1 + place
            for feature, value in enumerate(row):
                allowed = set(self._list_allowed(step, feature, begin, end))
                if value not in allowed:
                    shown = sorted(allowed)
                    wrong.append(f"{self.name} step {step} feature {feature} is {value}, expected one of {shown}")
        return wrong

    def find_wrong_forecast(self, newest: int, rows: Sequence[Sequence[float]], begin: float, end: float) -> list[str]:
        """Return what is wrong in a forecast that repeats its window, each row sorted, read from `begin` to `end`."""
        wrong = []
        for place, row in enumerate(rows):
            step = newest - len(rows) + 1 + place
            choices = [set(self._list_allowed(step, feature, begin, end)) for feature in CELLS]
            if not _can_choose(list(row), choices):
                shown = [sorted(each) for each in choices]
                wrong.append(f"{self.name} origin {newest} step {step} is {list(row)}, expected of {shown}")
        return wrong

    def count_rows(self, newest: int, begin: float, end: float) -> tuple[int, int]:
        """Return the least and the greatest number of rows with any value in the window that ends at `newest`."""
        least = most = 0
        for step in range(newest - CONTRACT.context_length + 1, newest + 1):
            firsts = [writes[0] for writes in self.cells.get(step, ()) if writes]
            least += step == newest or any(first.acked_at is not None and first.acked_at < begin for first in firsts)
            most += any(first.sent_at <= end for first in firsts)
        return least, most

    def _forget_before(self, step: int) -> None:
        oldest = min(self.cells) if self._oldest is None else self._oldest
        while oldest < step:
            self.cells.pop(oldest, None)
            oldest += 1
            self._oldest = oldest

    def _has_row(self, step: int) -> bool:
        return any(write.acked_at is not None for writes in self.cells[step] for write in writes)

    def _list_allowed(self, step: int, feature: int, begin: float, end: float) -> Iterator[float]:
        """List the values that a cell may have had at some time from `begin` to `end`."""
        row = self.cells.get(step)
        writes = row[feature] if row is not None else []
        if not writes or _may_come_after(writes[0], begin):
            yield MISSING
        for place, write in enumerate(writes):
            is_replaced = place + 1 < len(writes) and not _may_come_after(writes[place + 1], begin)
            if write.sent_at <= end and not is_replaced:
                yield write.value


def _may_come_after(write: CellWrite, begin: float) -> bool:
    """Whether the daemon may have taken a sample later than `begin`, or not at all so far."""
    return write.acked_at is None or write.acked_at >= begin


def _can_choose(row: list[float], choices: list[set[float]]) -> bool:
    """Whether a sorted row is one value of each of these choices, in any order."""
    if not choices:
        return not row
    for value in choices[0] & set(row):
        rest = list(row)
        rest.remove(value)
        if _can_choose(rest, choices[1:]):
            return True
    return False
