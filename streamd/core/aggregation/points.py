"""The points of one server in its newest steps, and the rows that are made of them. Touches no clock and no file.

A row is computed from all points of its step and of the two steps beside it, again whenever one of them changes. So
points may come late, out of order and twice, as long as their step is one of the newest `count_retained_steps`.
"""

import math
from array import array
from collections.abc import Sequence

import msgspec
import numpy as np

from streamd.core.aggregation.formulas import ServerFormulas
from streamd.core.aggregation.reduction import KIND_CODES, reduce_step
from streamd.core.arrays import Float64
from streamd.core.mapping.mapping import CompiledRule, Match, Use
from streamd.core.mapping.series import Kind
from streamd.core.state.window_columns import NO_STEP

MIN_RETAINED_STEPS = 3
MIN_RETAINED_SECONDS = 120
"""A point counts if its step is one of the newest steps of its server: at least this many steps, and at least this many
seconds. One older step is kept too, because the increase of a counter begins there. vmagent 1.79 sends a block again
after up to 60 seconds."""

MAX_SERIES_OF_SERVER = 20_000
"""The number of series of one server; a sender that invents labels without end cannot use the space of the others."""


def count_retained_steps(step_seconds: int) -> int:
    """Return the number of the newest steps of a server in which a point still counts."""
    return max(MIN_RETAINED_STEPS, -(-MIN_RETAINED_SECONDS // step_seconds))


MAX_STEP_POINTS = 100_000
"""The number of points of one server in one step, since a row is computed from all of them at once: 300 series with a
point a second have 90,000 in five minutes."""

REMOVED = -1
"""The index of a series that was removed."""


class ServerSeries(msgspec.Struct, eq=False, gc=False, kw_only=True):
    """One series of a server.

    `index` is its place there, which changes when series that have ended are removed; `REMOVED` if it is one of them.
    The garbage collector does not track it, since there are millions. A server has no reference to a series that was
    removed, so there is no cycle then.
    """

    server: "ServerPoints"
    definition: bytes
    kind: Kind
    uses: tuple[Use, ...]
    index: int = REMOVED


class _StepPoints:
    """The points of one step, in the order in which they came."""

    __slots__ = ("firsts", "series", "times", "values")

    def __init__(self) -> None:
        self.series = array("I")
        self.times = array("d")
        self.values = array("d")
        self.firsts: dict[int, float] = {}
        """The time of the first point of each series, where its increase in the previous step ends."""

    def add(self, series: Sequence[int], times: Sequence[float], values: Sequence[float]) -> bool:
        """Add points; returns whether one of them is now the first of its series."""
        self.series.extend(series)
        self.times.extend(times)
        self.values.extend(values)
        firsts, is_first = self.firsts, False
        for index, time in zip(series, times, strict=True):
            if time < firsts.get(index, math.inf):
                firsts[index] = time
                is_first = True
        return is_first


class ServerPoints:
    """The series of one server, and their points in the newest steps.

    `step_seconds` is the length of a step; `retained_steps` is that of `count_retained_steps` by default. Steps up to
    `closed_step` are closed: their rows were written.
    """

    def __init__(
        self, name: str, rules: Sequence[CompiledRule], step_seconds: int, *, retained_steps: int | None = None
    ) -> None:
        self.name = name
        self.entries: list[ServerSeries] = []
        self.latest_step = NO_STEP
        self.closed_step = NO_STEP
        self._final_step = NO_STEP
        self._rules = rules
        self._step_seconds = step_seconds
        self._retained_steps = retained_steps or count_retained_steps(step_seconds)
        self._known: dict[bytes, ServerSeries] = {}
        self._kinds = bytearray()
        self._formulas = ServerFormulas(rules)
        self._steps: dict[int, _StepPoints] = {}
        self._kept = 0  # points of all steps

    # ------------------------------------------------------------ series
    def find_series(self, definition: bytes) -> ServerSeries | None:
        """Return the entry of a series that was added before, or `None`."""
        return self._known.get(definition)

    def add_series(self, definition: bytes, match: Match) -> ServerSeries:
        """Add a series; `definition` is unique in the server. The caller checks `MAX_SERIES_OF_SERVER`."""
        entry = ServerSeries(server=self, definition=definition, kind=match.kind, uses=match.uses)
        self._append(entry)
        return entry

    def restore_series(self, entry: ServerSeries) -> ServerSeries:
        """Put back a series that was removed, here or from a former server of this name.

        Returns the entry of this series here: another one if the series was added anew meanwhile.
        """
        known = self._known.get(entry.definition)
        if known is None:
            self._append(entry)
            return entry
        return known

    def _append(self, entry: ServerSeries) -> None:
        entry.server, entry.index = self, len(self.entries)
        self.entries.append(entry)
        self._known[entry.definition] = entry
        self._kinds.append(KIND_CODES[entry.kind])
        self._formulas.add_series(entry.index, entry.uses)

    def encode_kinds(self, first: int) -> bytes:
        """Return the codes of the kinds of the series from `first` on."""
        return bytes(self._kinds[first:])

    def set_kind(self, entry: ServerSeries, kind: Kind) -> None:
        """Change the kind of a series, because its sender now states another one."""
        entry.kind = kind
        self._kinds[entry.index] = KIND_CODES[kind]

    def prune(self) -> list[ServerSeries]:
        """Remove the series without any point in the steps that are kept; returns their entries. Indices change."""
        used = set().union(*(points.firsts for points in self._steps.values()))
        if len(used) == len(self.entries):
            return []
        kept = sorted(used)
        removed = [entry for entry in self.entries if entry.index not in used]
        places = np.zeros(len(self.entries), np.uint32)
        places[kept] = np.arange(len(kept), dtype=np.uint32)
        remaining = [self.entries[index] for index in kept]
        self._remove_series()
        for entry in remaining:
            self._append(entry)
        for points in self._steps.values():
            points.series = array("I", places[np.frombuffer(points.series, np.uint32)].tobytes())
            points.firsts = {int(places[index]): time for index, time in points.firsts.items()}
        return removed

    def _remove_series(self) -> None:
        for entry in self.entries:
            entry.index = REMOVED
        self.entries = []
        self._known.clear()
        self._kinds.clear()
        self._formulas = ServerFormulas(self._rules)

    def clear(self) -> list[ServerSeries]:
        """Remove all series and points, and forget the steps; returns the entries."""
        removed = self.entries
        self._remove_series()
        self._steps.clear()
        self._kept = 0
        self.latest_step = self.closed_step = self._final_step = NO_STEP
        return removed

    def release(self) -> list[ServerSeries]:
        """Remove all series and points of a server whose rows are closed; returns the entries.

        The rows are final from then on: no point of them is left, so they could not be computed again.
        """
        final = max(self.latest_step, self._final_step)
        removed = self.clear()
        self.latest_step = self.closed_step = self._final_step = final
        return removed

    def finalize(self, step: int) -> None:
        """Take no more points of the steps up to this one: their rows cannot be computed from all of their points."""
        self._final_step = max(self._final_step, step)
        self.mark_closed(step)

    # ------------------------------------------------------------ points in
    def find_oldest_step(self) -> int:
        """Return the oldest step in which a point counts."""
        return max(self.latest_step - self._retained_steps, self._final_step) + 1

    def find_oldest_second(self) -> float:
        """Return the epoch second from which on points count; 0 if all do."""
        return float(max(self.find_oldest_step(), 0) * self._step_seconds)

    def needs_second(self, time: float) -> bool:
        """Whether a row that may still change needs points of this time (epoch seconds)."""
        return int(time // self._step_seconds) >= self.find_oldest_step() - 1

    def add_points(self, series: Sequence[int], times: Sequence[float], values: Sequence[float]) -> list[int]:
        """Add points that are not older than `find_oldest_step`; returns the steps whose rows must be written.

        These are the steps that are over now, and the closed steps whose rows change. A late point changes its row, and
        the first point of a counter in a step completes the increase in the previous step. The caller writes the rows,
        then calls `mark_closed`.
        """
        length, oldest = self._step_seconds, self.find_oldest_step()
        first, last = int(min(times) // length), int(max(times) // length)
        changed: set[int] = set()
        if first == last:
            self._extend(first, series, times, values, changed)
        else:
            by_step: dict[int, list[tuple[int, float, float]]] = {}
            for point in zip(series, times, values, strict=True):
                by_step.setdefault(int(point[1] // length), []).append(point)
            for step, points in by_step.items():
                columns = zip(*points, strict=True)
                self._extend(step, next(columns), next(columns), next(columns), changed)
        self.latest_step = max(self.latest_step, last)
        changed.update(step for step in self._steps if step > self.closed_step)
        over = max(self.latest_step - 1, self.closed_step)
        return sorted(step for step in changed if oldest <= step <= over and step in self._steps)

    def _extend(
        self, step: int, series: Sequence[int], times: Sequence[float], values: Sequence[float], changed: set[int]
    ) -> None:
        points = self._steps.get(step)
        if points is None:
            points = self._steps[step] = _StepPoints()
        is_first = points.add(series, times, values)
        self._kept += len(series)
        if step <= self.closed_step:
            changed.update((step - 1, step, step + 1))
        elif is_first:
            changed.add(step - 1)

    def mark_closed(self, step: int) -> None:
        """Note that the rows up to this step were written, and forget the points that no row needs any more."""
        self.closed_step = max(self.closed_step, step)
        for old in [each for each in self._steps if each < self.find_oldest_step() - 1]:
            self._kept -= len(self._steps.pop(old).series)

    # ------------------------------------------------------------ rows out
    def list_open_steps(self) -> list[int]:
        """Return the steps that have points and are not closed yet, oldest first."""
        return sorted(step for step in self._steps if step > self.closed_step)

    def compute_row(self, step: int) -> dict[int, tuple[float, int]]:
        """Return the features of a step, by column: the value, and the index of the rule that gave it."""
        parts = [self._steps[each] for each in range(step - 1, step + 2) if each in self._steps]
        if not parts or step not in self._steps:
            return {}
        start = float(step * self._step_seconds)
        values = reduce_step(
            np.concatenate([np.frombuffer(part.series, np.uint32) for part in parts]),
            _join([part.times for part in parts]),
            _join([part.values for part in parts]),
            np.frombuffer(bytes(self._kinds), np.uint8),
            start=start,
            end=start + self._step_seconds,
            longest_gap=2.0 * self._step_seconds,
        )
        return self._formulas.compute_features(values.tolist())

    def count_points(self) -> int:
        """Return the number of points that are kept."""
        return self._kept

    def count_step_points(self, step: int) -> int:
        """Return the number of points that are kept of one step."""
        points = self._steps.get(step)
        return 0 if points is None else len(points.series)


def _join(parts: Sequence["array[float]"]) -> Float64:
    joined: Float64 = np.concatenate([np.frombuffer(part, np.float64) for part in parts])
    return joined
