"""Marks alerts by the silences that hold: until when each is silenced, and whether its receivers may know of it.

Runs in the thread of the alerts; `core/alerts/silences.py` decides which alerts a silence chooses.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from streamd.core.alerts.silences import Silence, SilenceSet
from streamd.runtime.alerts.alert import Alert, AlertChange, AlertState

SlotKey = tuple[str, int]
"""The name of a rule, and the slot of a server."""


class AlertSilencer:
    """The silences that hold, and what a change of them means for the active alerts, by rule and slot.

    An alert that fires while it is silenced is withheld from the receivers, until its last silence ends. One that fired
    before is not: its receivers know of it already, and get its end.
    """

    def __init__(self) -> None:
        self.silences = SilenceSet()

    def mark(self, alert: Alert, former: Alert | None, *, is_fired: bool) -> Alert:
        """Return a newer state of an alert with the marks of its former one; `is_fired` says that it fires by it."""
        if former is None:
            until, is_withheld = self.silences.find_end(alert.rule, alert.server), False
        else:
            until, is_withheld = former.silenced_until, former.is_withheld  # each change of silences has marked it
        is_withheld = until is not None if is_fired else is_withheld
        if until is None and not is_withheld:
            return alert
        return replace(alert, silenced_until=until, is_withheld=is_withheld)

    def restore(self, alert: Alert) -> AlertChange:
        """Return an alert of the former process, marked by the silences that hold now."""
        change = self._change(alert, self.silences.find_end(alert.rule, alert.server))
        return AlertChange(alert, "refreshed") if change is None else change

    def add(self, silence: Silence, active: Mapping[SlotKey, Alert]) -> dict[SlotKey, AlertChange]:
        """Let a silence hold, and return the alerts that it changes; raises `TooBusyError` for too many silences."""
        self.silences.add(silence)
        concerned = (
            (key, alert)
            for key, alert in active.items()
            if (alert.silenced_until or 0.0) < silence.ends_at
            and self.silences.matches(silence.id, alert.rule, alert.server)
        )
        return self._collect((key, alert, silence.ends_at) for key, alert in concerned)

    def remove(self, silence: Silence, active: Mapping[SlotKey, Alert]) -> dict[SlotKey, AlertChange]:
        """Let a silence hold no more, before its end, and return the alerts that this changes."""
        self.silences.remove(silence.id)
        return self._collect(
            (key, alert, self.silences.find_end(alert.rule, alert.server))
            for key, alert in active.items()
            if alert.silenced_until == silence.ends_at
        )

    def end(self, now: float, active: Mapping[SlotKey, Alert]) -> tuple[list[Silence], dict[SlotKey, AlertChange]]:
        """Return the silences whose end has come, which hold no more, and the alerts that this changes."""
        ended = self.silences.remove_ended(now)
        if not ended:
            return [], {}
        # The marks are the last ends, so of each of these alerts all silences have ended.
        over = ((key, alert) for key, alert in active.items() if (alert.silenced_until or now + 1) <= now)
        return ended, self._collect((key, alert, None) for key, alert in over)

    def _collect(self, marks: Iterable[tuple[SlotKey, Alert, float | None]]) -> dict[SlotKey, AlertChange]:
        changes = ((key, self._change(alert, until)) for key, alert, until in marks)
        return {key: change for key, change in changes if change is not None}

    def _change(self, alert: Alert, until: float | None) -> AlertChange | None:
        """Return the change that another end of its silence is for an active alert; `None` for the same end."""
        if until is None and alert.is_withheld and alert.state is AlertState.FIRING:
            return AlertChange(replace(alert, silenced_until=None, is_withheld=False), "released")
        if until == alert.silenced_until:
            return None
        return AlertChange(replace(alert, silenced_until=until), "silenced")
