"""The series of all servers: which entry a key of a protocol means, within a limit on their number."""

from collections import defaultdict
from collections.abc import Hashable, Sequence

from streamd.core.aggregation.points import MAX_SERIES_OF_SERVER, ServerSeries
from streamd.core.mapping.mapping import CompiledRule, Ignored, Match, RuleMapping
from streamd.core.mapping.series import SourceSeries
from streamd.runtime.aggregation.servers import CollectedServer, encode_definition

MAX_IGNORED_KEYS = 200_000
"""Keys of series that are not used and that are remembered; beyond it all are forgotten and matched again."""

MEAN_SERIES_BYTES = 512
"""The name and labels of the series may take so many bytes on average, if there are as many as there may be."""

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
"""What a key leads to."""


class SeriesTable:
    """The servers by name, and the series by protocol and key."""

    def __init__(self, mapping: RuleMapping, step_seconds: int, max_series: int) -> None:
        self.mapping = mapping
        self.servers: dict[str, CollectedServer] = {}
        self.series = 0
        """The series of all servers."""
        self.max_series = max_series
        self._definition_bytes = 0
        self._step_seconds = step_seconds
        self._entries: defaultdict[str, dict[Hashable, TableEntry]] = defaultdict(dict)
        self._ignored: dict[str, IgnoredEntry] = {}
        self._ignored_keys = 0

    @property
    def rules(self) -> Sequence[CompiledRule]:
        """The compiled rules, by index."""
        return self.mapping.rules

    def get_entries(self, protocol: str) -> dict[Hashable, TableEntry]:
        """Return the known series of a protocol by key; the table goes on to change it."""
        return self._entries[protocol]

    def bind(self, protocol: str, key: Hashable, series: SourceSeries) -> TableEntry:
        """Map a series that is new under this key, and remember its entry."""
        match = self.mapping.match(series)
        if isinstance(match, Ignored):
            return self._ignore(protocol, key, match.reason)
        try:
            definition = encode_definition(series)
        except UnicodeEncodeError:  # a lone surrogate
            return self._ignore(protocol, key, NOT_UTF8)
        entry = self.add_series(match, definition)
        if entry is None:
            return self._ignored.setdefault(TOO_MANY_SERIES, IgnoredEntry(TOO_MANY_SERIES))  # there may be room later
        server = entry.server
        assert isinstance(server, CollectedServer)
        server.set_kind(entry, match.kind)
        server.keys.setdefault(entry, []).append((protocol, key))
        self._entries[protocol][key] = entry
        return entry

    def add_series(self, match: Match, definition: bytes) -> ServerSeries | None:
        """Return the entry of a series, new or not; `None` if there are too many."""
        server = self.servers.get(match.server)
        if server is not None and (entry := server.find_series(definition)) is not None:
            return entry
        if self._is_full(len(definition)) or (server is not None and len(server.entries) >= MAX_SERIES_OF_SERVER):
            return None
        if server is None:
            server = self.servers[match.server] = CollectedServer(match.server, self.rules, self._step_seconds)
        self._count(1, len(definition))
        return server.add_series(definition, match)

    def prune(self, server: CollectedServer) -> None:
        """Remove the series of a server that have ended."""
        former_bytes = server.definition_bytes
        removed = server.prune()
        if removed:
            self._count(-len(removed), server.definition_bytes - former_bytes)
            self._forget_keys(server, removed)
            server.forget_log()  # its series have other numbers now

    def remove_server(self, server: CollectedServer) -> None:
        """Forget a server and all its series."""
        self._count(-len(server.entries), -server.definition_bytes)
        self._forget_keys(server, server.entries)
        del self.servers[server.name]

    def restore_server(self, server: CollectedServer) -> None:
        """Put back a server that was removed after its points were decoded."""
        if self.servers.get(server.name) is not server:
            self.servers[server.name] = server
            self._count(len(server.entries), server.definition_bytes)

    def _is_full(self, size: int) -> bool:
        limit = MEAN_SERIES_BYTES * self.max_series
        return self.series >= self.max_series or self._definition_bytes + size > limit

    def _count(self, series: int, definition_bytes: int) -> None:
        self.series += series
        self._definition_bytes += definition_bytes

    def _forget_keys(self, server: CollectedServer, entries: Sequence[ServerSeries]) -> None:
        for entry in entries:
            for protocol, key in server.keys.pop(entry, ()):
                self._entries[protocol].pop(key, None)

    def _ignore(self, protocol: str, key: Hashable, reason: str) -> IgnoredEntry:
        if self._ignored_keys >= MAX_IGNORED_KEYS:
            for entries in self._entries.values():
                for each in [each for each, entry in entries.items() if isinstance(entry, IgnoredEntry)]:
                    del entries[each]
            self._ignored_keys = 0
        entry = self._ignored.setdefault(reason, IgnoredEntry(reason))
        self._entries[protocol][key] = entry
        self._ignored_keys += 1
        return entry
