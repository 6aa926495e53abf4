"""Keeps the series of all servers within limits, and finds the entry of a series by its protocol and key. No I/O."""

from collections import OrderedDict, defaultdict, deque
from collections.abc import Hashable, Sequence

from streamd.core.aggregation.points import MAX_SERIES_OF_SERVER, REMOVED, ServerSeries
from streamd.core.mapping.mapping import CompiledRule, Ignored, Match, RuleMapping
from streamd.core.mapping.series import SourceSeries
from streamd.runtime.aggregation.refused_keys import RefusedKeys, measure_key
from streamd.runtime.aggregation.servers import NO_SLOT, CollectedServer, encode_definition

MAX_IGNORED_KEYS = 200_000
"""The number of remembered keys of unused series; beyond it the oldest are forgotten and matched again."""

MAX_IGNORED_BYTES = 2**26
"""The size of the remembered keys of unused series; the same happens beyond it."""

MAX_SERIES_KEYS = 16
"""The number of remembered keys of one series, because its labels may come in any order; beyond it the oldest is
forgotten."""

MEAN_SERIES_BYTES = 512
"""The names and labels of all series may take this many bytes for each of `max_series`."""

TOO_MANY_SERIES = "too_many_series"
"""The reason for ignoring a series beyond the limits on their number and size."""


NOT_UTF8 = "not_utf8"
"""The reason for ignoring a series whose labels are no valid UTF-8."""


class IgnoredEntry:
    """A series that is not used, with the reason."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason


TableEntry = ServerSeries | IgnoredEntry
"""The entry of a series that is used, or of one that is not."""


class SeriesTable:
    """The servers by name, and the series by protocol and key."""

    def __init__(self, mapping: RuleMapping, step_seconds: int, max_series: int) -> None:
        self.mapping = mapping
        self.servers: dict[str, CollectedServer] = {}
        self.series = 0
        """The series of all servers."""
        self.created = 0
        """The series since start, with those that were removed."""
        self.max_series = max_series
        self._definition_bytes = 0
        self._step_seconds = step_seconds
        self._entries: defaultdict[str, dict[Hashable, TableEntry]] = defaultdict(dict)
        self._ignored: dict[str, IgnoredEntry] = {}
        self.is_short = False
        """Whether a series was ignored since this was last set to false because there are too many."""
        self._ignored_keys: deque[tuple[str, Hashable]] = deque()  # oldest first
        self._ignored_bytes = 0
        self._key_bytes = 0
        self.refused = RefusedKeys()
        """The series of servers that got no slot."""
        self._new_servers: OrderedDict[CollectedServer, int] = OrderedDict()  # and the sweep before, oldest first
        self._sweeps = 0

    @property
    def rules(self) -> Sequence[CompiledRule]:
        """The compiled rules, by index."""
        return self.mapping.rules

    def get_entries(self, protocol: str) -> dict[Hashable, TableEntry]:
        """Return the known series of a protocol by key; it is the table's own dict, which changes."""
        return self._entries[protocol]

    def bind(
        self, protocol: str, key: Hashable, series: SourceSeries, match: Match | Ignored | None = None
    ) -> TableEntry:
        """Map a series that is new under this key, unless its `match` is given, and remember its entry."""
        if match is None:
            match = self.mapping.match(series)
        if isinstance(match, Ignored):
            return self._ignore(protocol, key, match.reason)
        try:
            definition = encode_definition(series)
        except UnicodeEncodeError:  # a lone surrogate
            return self._ignore(protocol, key, NOT_UTF8)
        entry = self.add_series(match, definition)
        if entry is None:
            return self._ignored.setdefault(TOO_MANY_SERIES, IgnoredEntry(TOO_MANY_SERIES))  # there may be space later
        server = entry.server
        assert isinstance(server, CollectedServer)
        server.set_kind(entry, match.kind)
        self.refused.remove(protocol, key)
        self._remember(server, entry, protocol, key)
        return entry

    def add_series(self, match: Match, definition: bytes) -> ServerSeries | None:
        """Return the entry of a series, new or not; `None` if there are too many."""
        server = self.servers.get(match.server)
        if server is not None and (entry := server.find_series(definition)) is not None:
            return entry
        if server is not None and len(server.entries) >= MAX_SERIES_OF_SERVER:
            return None
        if self._is_full(len(definition)):
            self.is_short = True
            return None
        if server is None:
            server = self.servers[match.server] = CollectedServer(match.server, self.rules, self._step_seconds)
            while self._new_servers and self._is_settled(oldest := next(iter(self._new_servers))):
                del self._new_servers[oldest]
            self._new_servers[server] = self._sweeps
        self._count(1, len(definition))
        return server.add_series(definition, match)

    def prune(self, server: CollectedServer) -> None:
        """Remove the series of a server that have ended."""
        self._forget_series(server, server.prune())

    def release(self, server: CollectedServer) -> None:
        """Remove all series and points of a server whose rows are closed, and keep the server."""
        self._forget_series(server, server.release())

    def remove_server(self, server: CollectedServer) -> None:
        """Forget a server and all its series."""
        self._forget_series(server, server.clear())
        server.slot = NO_SLOT
        self._new_servers.pop(server, None)
        if self.servers.get(server.name) is server:
            del self.servers[server.name]

    def refuse_server(self, server: CollectedServer) -> None:
        """Forget a server that got no slot, but remember the keys of its series as refused."""
        for keys in server.keys.values():
            for protocol, key in keys:
                self.refused.add(protocol, key, server.name)
        self.remove_server(server)

    def restore_series(self, server: CollectedServer, entries: Sequence[ServerSeries]) -> list[ServerSeries]:
        """Return the present entries of series that were decoded before some of them, or their server, were removed."""
        server = self.servers.setdefault(server.name, server)
        restored = []
        for entry in entries:
            if entry.index == REMOVED:
                size = len(server.entries)
                entry = server.restore_series(entry)
                if len(server.entries) > size:
                    self._count(1, len(entry.definition))
            restored.append(entry)
        return restored

    def begin_sweep(self) -> None:
        """Note that time has passed: servers that were new before the last call are not new any more."""
        self._sweeps += 1

    def remove_unadmitted(self, limit: int) -> bool:
        """Remove servers that are not new any more and have no slot, since no point of them was accepted.

        It stops after about `limit` series; returns whether there may be more.
        """
        removed = 0
        while self._new_servers:
            server, sweep = next(iter(self._new_servers.items()))
            if sweep >= self._sweeps - 1:
                return False
            if removed >= limit:
                return True
            del self._new_servers[server]
            if not self._is_settled(server):
                removed += 1 + len(server.entries)
                self.remove_server(server)
        return False

    def _is_settled(self, server: CollectedServer) -> bool:
        """Whether a server has a slot, or is removed already."""
        return server.slot != NO_SLOT or self.servers.get(server.name) is not server

    def _is_full(self, size: int) -> bool:
        limit = MEAN_SERIES_BYTES * self.max_series
        return self.series >= self.max_series or self._definition_bytes + size > limit

    def _count(self, series: int, definition_bytes: int) -> None:
        self.series += series
        self.created += max(series, 0)
        self._definition_bytes += definition_bytes

    def _remember(self, server: CollectedServer, entry: ServerSeries, protocol: str, key: Hashable) -> None:
        size = measure_key(key)
        if self._key_bytes + size > MEAN_SERIES_BYTES * self.max_series:
            return  # it is matched again each time
        known = server.keys.get(entry, ())
        if len(known) >= MAX_SERIES_KEYS:
            self._forget_key(*known[0])
            known = known[1:]
        server.keys[entry] = (*known, (protocol, key))
        self._entries[protocol][key] = entry
        self._key_bytes += size

    def _forget_key(self, protocol: str, key: Hashable) -> None:
        self._entries[protocol].pop(key, None)
        self._key_bytes -= measure_key(key)

    def _forget_series(self, server: CollectedServer, removed: Sequence[ServerSeries]) -> None:
        if removed:
            self._count(-len(removed), -sum(len(entry.definition) for entry in removed))
            for entry in removed:
                for protocol, key in server.keys.pop(entry, ()):
                    self._forget_key(protocol, key)
            server.forget_log()  # the series that are left have other numbers now

    def _ignore(self, protocol: str, key: Hashable, reason: str) -> IgnoredEntry:
        size = measure_key(key)
        while self._ignored_keys and (
            len(self._ignored_keys) >= MAX_IGNORED_KEYS or self._ignored_bytes + size > MAX_IGNORED_BYTES
        ):
            former, oldest = self._ignored_keys.popleft()
            self._entries[former].pop(oldest, None)
            self._ignored_bytes -= measure_key(oldest)
        entry = self._ignored.setdefault(reason, IgnoredEntry(reason))
        self._entries[protocol][key] = entry
        self._ignored_keys.append((protocol, key))
        self._ignored_bytes += size
        return entry
