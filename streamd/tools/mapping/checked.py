"""The series and points of a capture as the rules map them, and the rows that they make. No I/O.

The daemon's `PointBatch` and `Collector` do the same for points that arrive; here all data for a report are kept.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import isnan

import msgspec

from streamd.core.aggregation.points import ServerPoints
from streamd.core.errors import StreamdError
from streamd.core.mapping.mapping import Ignored, Match, RuleMapping
from streamd.core.mapping.series import SourceSeries

MAX_KEPT_REJECTIONS = 20
"""The largest number of rejections that are kept with their reason; all are counted."""

MappedPoint = tuple[float, int, float]
"""A point of a server: its time, the index of its series in the server, its value."""


@dataclass(eq=False, kw_only=True)
class CheckedSeries:
    """One series of a capture, what it is mapped to, and its points."""

    source: SourceSeries
    result: Match | Ignored
    index: int = -1
    """The index of the series in its server; -1 if it is ignored."""
    points: int = 0
    first_time: float = float("nan")
    last_time: float = float("nan")
    last_value: float = float("nan")

    def note_point(self, time: float, value: float) -> None:
        """Count a point."""
        self.points += 1
        if not self.first_time <= time:
            self.first_time = time
        if not self.last_time > time:
            self.last_time, self.last_value = time, value


@dataclass(frozen=True)
class FeatureValue:
    """A value of a feature, the rule that gave it, and the beginning of its step in epoch seconds."""

    value: float
    rule: str
    step_start: int


@dataclass(kw_only=True)
class CheckedServer:
    """One server of a capture."""

    name: str
    series: list[CheckedSeries] = field(default_factory=list)
    points: list[MappedPoint] = field(default_factory=list)


class MappingSink:
    """A `PointSink` that maps series, and keeps the points of those that are used."""

    def __init__(self, mapping: RuleMapping, features: Sequence[str], step_seconds: int) -> None:
        self.series: list[CheckedSeries] = []
        self.servers: dict[str, CheckedServer] = {}
        self.rejected: Counter[str] = Counter()
        """Points, by error code."""
        self.errors: list[StreamdError] = []
        self.skipped: Counter[str] = Counter()
        self._mapping = mapping
        self._features = features
        self._step_seconds = step_seconds
        self._entries: dict[Hashable, CheckedSeries] = {}

    # ------------------------------------------------------------ what decoders call
    def wants(self, name: str) -> bool:
        """Return True: every series is bound, because the report shows every series."""
        return True

    def ignore(self, count: int = 1) -> None:
        """Do nothing: every metric is wanted."""

    def find(self, key: Hashable) -> CheckedSeries | None:
        """Return the entry of a series that was bound before, or `None`."""
        return self._entries.get(key)

    def bind(self, key: Hashable, series: SourceSeries) -> CheckedSeries:
        """Map a new series and return its entry."""
        # Two protocols, or two resources of OTLP, may have different keys for the same series.
        identity = (series.name, series.kind, frozenset(series.labels.items()))
        entry = self._entries.get(identity)
        if entry is None:
            entry = self._entries[identity] = self._add_series(series)
        self._entries[key] = entry
        return entry

    def add(self, entry: CheckedSeries, time: float, value: float) -> None:
        """Add a point at epoch seconds; NaN says that the series ends."""
        if not isnan(value):
            entry.note_point(time, value)
        if isinstance(entry.result, Match):
            self.servers[entry.result.server].points.append((time, entry.index, value))

    def add_point(self, series: SourceSeries, time: float, value: float) -> None:
        """Add a point of a series whose key is its name, its kind and its labels."""
        key = (series.name, series.kind, frozenset(series.labels.items()))
        self.add(self.find(key) or self.bind(key, series), time, value)

    def reject(self, error: StreamdError, count: int = 1, entry: CheckedSeries | None = None) -> None:
        """Count points that cannot be taken; those of an `entry` that is not used do not matter."""
        if entry is not None and not isinstance(entry.result, Match):
            return
        self.rejected[error.code] += count
        if len(self.errors) < MAX_KEPT_REJECTIONS:
            self.errors.append(error)

    def skip(self, reason: str, count: int = 1) -> None:
        """Count points that are no measurement."""
        self.skipped[reason] += count

    def _add_series(self, source: SourceSeries) -> CheckedSeries:
        series = CheckedSeries(source=source, result=self._mapping.match(source))
        self.series.append(series)
        if isinstance(series.result, Match):
            server = self.servers.setdefault(series.result.server, CheckedServer(name=series.result.server))
            series.index = len(server.series)
            server.series.append(series)
        return series

    # ------------------------------------------------------------ rows
    def compute_rows(self, server: CheckedServer) -> dict[int, dict[str, FeatureValue]]:
        """Return the rows of a server, by the beginning of their step in epoch seconds, oldest first."""
        collected = ServerPoints(server.name, self._mapping.rules, self._step_seconds)
        for number, series in enumerate(server.series):
            assert isinstance(series.result, Match)
            collected.add_series(msgspec.json.encode(number), series.result)
        computed: dict[int, dict[int, tuple[float, int]]] = {}
        # A capture may be longer than the steps in which late points count, so its points are added step by step.
        ordered = sorted(server.points, key=lambda point: point[0] // self._step_seconds)
        for _, points in groupby(ordered, key=lambda point: point[0] // self._step_seconds):
            times, indices, values = zip(*points, strict=True)
            for step in collected.add_points(indices, times, values):
                computed[step] = collected.compute_row(step)
                collected.mark_closed(step)
        for step in collected.list_open_steps():
            computed[step] = collected.compute_row(step)
        return {step * self._step_seconds: self._name_values(step, row) for step, row in sorted(computed.items())}

    def find_newest_values(self, server: CheckedServer) -> dict[str, FeatureValue]:
        """Return the newest value of each feature that has one."""
        newest: dict[str, FeatureValue] = {}
        for row in self.compute_rows(server).values():
            newest.update(row)
        return newest

    def _name_values(self, step: int, row: dict[int, tuple[float, int]]) -> dict[str, FeatureValue]:
        return {
            self._features[column]: FeatureValue(value, self._mapping.rules[rule].name, step * self._step_seconds)
            for column, (value, rule) in row.items()
        }

    # ------------------------------------------------------------ what is ignored
    def list_ignored(self) -> Iterator[tuple[str, list[CheckedSeries]]]:
        """Yield each reason with the series that are ignored for it, the most frequent reason first."""
        by_reason: defaultdict[str, list[CheckedSeries]] = defaultdict(list)
        for series in self.series:
            if isinstance(series.result, Ignored):
                by_reason[series.result.reason].append(series)
        yield from sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0]))
