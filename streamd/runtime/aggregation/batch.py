"""The points of one body on their way to the collector, and their counts by result. Stores nothing."""

from collections import Counter, defaultdict
from collections.abc import Hashable
from dataclasses import dataclass, field

from streamd.core.access.caller import ANYBODY, Caller
from streamd.core.aggregation.points import ServerSeries
from streamd.core.errors import NoCapacityError, StreamdError
from streamd.core.mapping.mapping import NO_RULE, Ignored
from streamd.core.mapping.series import SourceSeries
from streamd.runtime.aggregation.series_table import IgnoredEntry, SeriesTable, TableEntry
from streamd.runtime.aggregation.servers import CollectedServer
from streamd.runtime.aggregation.slot_check import SlotCheck
from streamd.runtime.write_access import ServerWriter

POINTS_OF_A_ROW = 100
"""Points of a server in one step that count as one row against the limit of a token: about what an agent sends."""

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


class RefusedEntry(IgnoredEntry):
    """A series of a server that the sender of a body may not write, or that gets no slot."""

    __slots__ = ("error",)

    def __init__(self, error: StreamdError) -> None:
        super().__init__(error.code)
        self.error = error


class PointBatch:
    """The points of one body, by server; a `PointSink`.

    Without a `writer` its sender may write every server, and without `slots` every server may get a slot. Its points
    are taken in turn with those of other senders (`sender`).
    """

    def __init__(
        self,
        protocol: str,
        table: SeriesTable,
        counts: ProtocolCounts,
        caller: Caller = ANYBODY,
        writer: ServerWriter | None = None,
        slots: SlotCheck | None = None,
        sender: Hashable = None,
    ) -> None:
        self.protocol = protocol
        self.sender = sender
        self.caller = caller
        self.writer = writer
        self.counts = counts
        self.result = CommitResult()
        self.points: defaultdict[CollectedServer, Points] = defaultdict(list)
        self.ignored: Counter[str] = Counter()
        """Points of series that are not used, by reason."""
        self._table = table
        self._entries = table.get_entries(protocol)
        # Other senders may write these series, so the table, which all senders share, must not know them as ignored.
        self._refused_keys: dict[Hashable, RefusedEntry] = {}
        self._refused_servers: dict[str, RefusedEntry] = {}
        self.received_at: float | None = None
        """When another node of a cluster took the points, in epoch seconds; it has checked that they are not ahead."""
        self._slots = slots
        self._refused_points: Counter[RefusedEntry] = Counter()

    def wants(self, name: str) -> bool:
        """Whether a rule may want series of this metric."""
        return self._table.mapping.names_metric(name)

    def ignore(self, count: int = 1) -> None:
        """Count points of series whose metric no rule wants."""
        self.ignored[NO_RULE] += count

    def find(self, key: Hashable) -> TableEntry | None:
        """Return the entry of a series that was bound before, or `None`."""
        entry = self._entries.get(key)
        return self._find_refused_key(key) if entry is None else entry

    def bind(self, key: Hashable, series: SourceSeries) -> TableEntry:
        """Map a new series and return its entry; one that is refused changes nothing but the counts."""
        match = self._table.mapping.match(series)
        if isinstance(match, Ignored) or (refused := self._find_refused(match.server)) is None:
            return self._table.bind(self.protocol, key, series, match)
        if isinstance(refused.error, NoCapacityError):
            self._table.refused.add(self.protocol, key, match.server)
        else:
            self._refused_keys[key] = refused
        return refused

    def _find_refused_key(self, key: Hashable) -> RefusedEntry | None:
        """Return the entry of a series that is refused, `None` if it is new or its server may get a slot now."""
        refused = self._refused_keys.get(key)
        if refused is None and (server := self._table.refused.find_server(self.protocol, key)) is not None:
            return self._find_refused(server)
        return refused

    def _find_refused(self, server: str) -> RefusedEntry | None:
        """Return the entry of all series of a server that the sender may not write or that gets no slot, or `None`."""
        refused = self._refused_servers.get(server)
        if refused is None:
            # The sender's right comes first: no other error may reveal anything about a server of others.
            error = None if self.writer is None else self.writer.find_refusal(server)
            if error is None and self._slots is not None:
                error = self._slots.find_refusal(server)
            if error is not None:
                refused = self._refused_servers[server] = RefusedEntry(error)
        return refused

    def refuse_server(self, server: str, error: StreamdError, count: int) -> None:
        """Count points of a server that got no slot after all."""
        self._refused_servers.setdefault(server, RefusedEntry(error))
        self.reject(error, count)

    def get_refusal(self, server: str) -> StreamdError | None:
        """Return why all points of a server were refused, or `None`."""
        refused = self._refused_servers.get(server)
        return None if refused is None else refused.error

    def add(self, entry: TableEntry, time: float, value: float) -> None:
        """Add a point at epoch seconds; NaN means that the series ends."""
        if isinstance(entry, IgnoredEntry):
            self._ignore_entry(entry, 1)
        else:
            self.points[entry.server].append((entry, time, value))  # type: ignore[index]

    def add_point(self, series: SourceSeries, time: float, value: float) -> None:
        """Add a point of a series whose key is its name, its kind and its labels."""
        key = (series.name, series.kind, *sorted(series.labels.items()))
        self.add(self.find(key) or self.bind(key, series), time, value)

    def reject(self, error: StreamdError, count: int = 1, entry: TableEntry | None = None) -> None:
        """Count points that cannot be taken; those of an `entry` that is not used are ignored."""
        if isinstance(entry, IgnoredEntry):
            self._ignore_entry(entry, count)
            return
        self.counts.rejected[error.code] += count
        self.result.rejected += count
        if len(self.result.errors) < MAX_LISTED_REJECTIONS:
            self.result.errors.append(error)

    def reject_refused(self) -> None:
        """Reject the points of series that are refused, once all are known: one error a server."""
        for entry, count in self._refused_points.items():
            self.reject(entry.error, count)
        self._refused_points.clear()

    def count_rows(self, step_seconds: int) -> int:
        """Return the rows that the points count as against the limit of a token: one a server and step, at least."""
        return sum(
            max(len({time // step_seconds for _, time, _ in points}), len(points) // POINTS_OF_A_ROW)
            for points in self.points.values()
        )

    def _ignore_entry(self, entry: IgnoredEntry, count: int) -> None:
        if isinstance(entry, RefusedEntry):
            self._refused_points[entry] += count
        else:
            self.ignored[entry.reason] += count

    def skip(self, reason: str, count: int = 1) -> None:
        """Count points that are no measurement."""
        self.counts.skipped[reason] += count
        self.result.skipped += count
