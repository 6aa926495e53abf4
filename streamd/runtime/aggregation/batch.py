"""The points of one body on their way to the collector, and their counts by result. Stores nothing."""

from collections import Counter, defaultdict
from collections.abc import Hashable
from dataclasses import dataclass, field

from streamd.core.aggregation.points import ServerSeries
from streamd.core.errors import StreamdError
from streamd.core.mapping.mapping import NO_RULE
from streamd.core.mapping.series import SourceSeries
from streamd.runtime.aggregation.series_table import IgnoredEntry, SeriesTable, TableEntry
from streamd.runtime.aggregation.servers import CollectedServer

MAX_LISTED_REJECTIONS = 20
"""The largest number of rejections of one body that are kept with their reason; all are counted."""

Points = list[tuple[ServerSeries, float, float]]
"""Points of one server: series, epoch seconds, value."""


@dataclass(kw_only=True)
class CommitResult:
    """The numbers of points of one body, by result."""

    taken: int = 0
    ignored: int = 0
    """Points of series that are not used: no rule wants them, or one drops them."""
    without_server: int = 0
    """Points among them whose series has no label that names its server."""
    rejected: int = 0
    skipped: int = 0
    """Points that are no measurement."""
    errors: list[StreamdError] = field(default_factory=list)
    """The first `MAX_LISTED_REJECTIONS` reasons for rejections."""


@dataclass(kw_only=True)
class ProtocolCounts:
    """The bodies and points that came by one protocol since start."""

    bodies: int = 0
    taken: int = 0
    ignored: Counter[str] = field(default_factory=Counter)
    """Points of series that are not used, by reason."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Points, by error code."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Points that are no measurement, by reason."""
    refused: Counter[str] = field(default_factory=Counter)
    """Bodies that were rejected as a whole, by error code."""

    def describe(self) -> dict[str, object]:
        """Return the counts as they are shown in `/v1/status`."""
        return {
            "bodies": self.bodies,
            "taken": self.taken,
            "ignored": dict(self.ignored),
            "rejected": dict(self.rejected),
            "skipped": dict(self.skipped),
            "refused": dict(self.refused),
        }


class PointBatch:
    """The points of one body, by server; a `PointSink`."""

    def __init__(self, protocol: str, table: SeriesTable, counts: ProtocolCounts) -> None:
        self.protocol = protocol
        self.counts = counts
        self.result = CommitResult()
        self.points: defaultdict[CollectedServer, Points] = defaultdict(list)
        self.ignored: Counter[str] = Counter()
        """Points of series that are not used, by reason."""
        self._table = table
        self._entries = table.get_entries(protocol)

    def wants(self, name: str) -> bool:
        """Whether a rule may want series of this metric."""
        return self._table.mapping.names_metric(name)

    def ignore(self, count: int = 1) -> None:
        """Count points of series whose metric no rule wants."""
        self.ignored[NO_RULE] += count

    def find(self, key: Hashable) -> TableEntry | None:
        """Return the entry of a series that was bound before, or `None`."""
        return self._entries.get(key)

    def bind(self, key: Hashable, series: SourceSeries) -> TableEntry:
        """Map a new series and return its entry."""
        return self._table.bind(self.protocol, key, series)

    def add(self, entry: TableEntry, time: float, value: float) -> None:
        """Add a point at epoch seconds; NaN means that the series ends."""
        if isinstance(entry, IgnoredEntry):
            self.ignored[entry.reason] += 1
        else:
            self.points[entry.server].append((entry, time, value))  # type: ignore[index]

    def add_point(self, series: SourceSeries, time: float, value: float) -> None:
        """Add a point of a series whose key is its name, its kind and its labels."""
        key = (series.name, series.kind, *sorted(series.labels.items()))
        self.add(self.find(key) or self.bind(key, series), time, value)

    def reject(self, error: StreamdError, count: int = 1, entry: TableEntry | None = None) -> None:
        """Count points that cannot be taken; those of an `entry` that is not used are ignored."""
        if isinstance(entry, IgnoredEntry):
            self.ignored[entry.reason] += count
            return
        self.counts.rejected[error.code] += count
        self.result.rejected += count
        if len(self.result.errors) < MAX_LISTED_REJECTIONS:
            self.result.errors.append(error)

    def skip(self, reason: str, count: int = 1) -> None:
        """Count points that are no measurement."""
        self.counts.skipped[reason] += count
        self.result.skipped += count
