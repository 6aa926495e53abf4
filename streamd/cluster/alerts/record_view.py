"""Shows readers of this node the alerts that other nodes keep: the difference of two records as changes."""

from collections.abc import Sequence
from dataclasses import replace

from streamd.cluster.alerts.alert_records import AlertRecord
from streamd.runtime.alerts.alert import Alert, AlertChange, AlertKey, AlertState, ChangeKind

_Ended = tuple[AlertKey, float | None]


class RecordView:
    """The alerts of one record, as the readers here know them."""

    def __init__(self) -> None:
        self.revision = 0
        """The revision of the newest record whose changes readers were shown; an older one says nothing new."""
        self._active: dict[AlertKey, Alert] = {}
        self._resolved: frozenset[_Ended] = frozenset()

    @property
    def keys(self) -> list[AlertKey]:
        """The keys of the alerts that readers know as active."""
        return list(self._active)

    def note(self, changes: Sequence[AlertChange]) -> None:
        """Note changes that readers were shown otherwise."""
        for change in changes:
            alert = change.alert
            if alert.state is not AlertState.RESOLVED:
                self._active[alert.key] = alert
                continue
            self._active.pop(alert.key, None)
            if change.kind == "resolved":
                self._resolved |= {_name_end(alert)}

    def follow(self, record: AlertRecord) -> list[list[AlertChange]]:
        """Take a newer record; returns what has changed, in batches whose changes are of distinct alerts."""
        ended = [alert for alert in reversed(record.resolved) if _name_end(alert) not in self._resolved]
        active = {each.alert.key: each.alert for each in record.active}
        batches: list[list[AlertChange]] = []
        for alert in ended:
            _add_to_batches(batches, AlertChange(alert, "resolved"))
        ended_keys = {alert.key for alert in ended}
        dropped = [alert for key, alert in self._active.items() if key not in active and key not in ended_keys]
        for alert in dropped:
            _add_to_batches(batches, AlertChange(replace(alert, state=AlertState.RESOLVED), "dropped"))
        begun = [
            AlertChange(alert, _name_kind(alert, None if key in ended_keys else self._active.get(key)))
            for key, alert in active.items()
            if self._active.get(key) != alert
        ]
        self._active = active
        self._resolved = frozenset(map(_name_end, record.resolved))
        return [*batches, *([begun] if begun else [])]


def _name_end(alert: Alert) -> _Ended:
    return alert.key, alert.starts_at


def _name_kind(alert: Alert, former: Alert | None) -> ChangeKind:
    if former is not None and former.state is alert.state:
        return "refreshed"
    return "pending" if alert.state is AlertState.PENDING else "fired"


def _add_to_batches(batches: list[list[AlertChange]], change: AlertChange) -> None:
    """Add a change to the first batch in which, and after which, its alert has none."""
    key = change.alert.key
    place = len(batches)
    while place and all(each.alert.key != key for each in batches[place - 1]):
        place -= 1
    if place == len(batches):
        batches.append([])
    batches[place].append(change)
