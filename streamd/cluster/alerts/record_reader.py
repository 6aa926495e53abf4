"""Keeps what was read of all records of alerts, and shows readers of this node what changes in those of other nodes."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import structlog

from streamd.cluster.alerts.alert_records import AlertRecordError, decode_record
from streamd.cluster.alerts.record_view import RecordView
from streamd.cluster.log import Entry
from streamd.core.cluster.formats import LaterFormatError
from streamd.runtime.alerts.alert import AlertChange, AlertState

log = structlog.get_logger(__name__)


class RecordReader:
    """The records of a cluster at one node; `show` takes changes of distinct alerts that other nodes keep."""

    def __init__(self, show: Callable[[Sequence[AlertChange]], None]) -> None:
        self._show = show
        self._entries: dict[str, Entry] = {}
        self._views: defaultdict[str, RecordView] = defaultdict(RecordView)

    def note(self, key: str, entry: Entry | None) -> None:
        """Note what was read of a record; `None` if it was deleted."""
        if entry is None:
            self._entries.pop(key, None)
        else:
            self._entries[key] = entry

    def find_entry(self, key: str) -> Entry | None:
        """Return what was read last of a record."""
        return self._entries.get(key)

    def show_news(self, key: str) -> None:
        """Show what has changed in a record of another node, or of this one's time before."""
        for changes in self._list_news(key):
            self._show(changes)

    def show_all(self) -> None:
        """Show what all records have; what was resolved comes in the order of time, whatever its record."""
        news = [change for key in list(self._entries) for batch in self._list_news(key) for change in batch]
        ended = [each for each in news if each.alert.state is AlertState.RESOLVED]
        for change in sorted(ended, key=lambda each: each.alert.updated_at):
            self._show([change])
        self._show([each for each in news if each.alert.state is not AlertState.RESOLVED])

    def note_shown(self, key: str, revision: int, changes: Sequence[AlertChange]) -> None:
        """Note changes of a record that readers were shown by the node that keeps it: this one."""
        view = self._views[key]
        view.revision = revision
        view.note(changes)

    def _list_news(self, key: str) -> Sequence[Sequence[AlertChange]]:
        entry, view = self._entries.get(key), self._views[key]
        if entry is None or entry.revision < view.revision:
            return ()
        try:
            return view.follow(decode_record(entry.value))
        except (AlertRecordError, LaterFormatError) as exc:
            log.error("alert_record_unreadable", record=key, reason=str(exc))
            return ()
