"""All that the overview knows, brought up to date once a second, and the frames for its readers.

Runs in the thread of the overview; has no clock, and its caller decides how it pauses.
"""

from collections.abc import Callable

from streamd.runtime.fleet.active_alerts import AlertView
from streamd.runtime.fleet.crossings import FleetCrossings
from streamd.runtime.fleet.entries import FleetEntries
from streamd.runtime.fleet.moment import FleetMoment
from streamd.runtime.fleet.names import FleetNames
from streamd.runtime.fleet.reader import MakeFrame
from streamd.runtime.fleet.snapshot import FleetSnapshot, take_snapshot
from streamd.runtime.state.state import State


class FleetTables:
    """The tables of one state; `alerts` is `None` in a process without rules."""

    def __init__(self, state: State, alerts: AlertView | None) -> None:
        self._state = state
        self._alerts = alerts
        self._names = FleetNames(state.directory)
        self._crossings = FleetCrossings(state, () if alerts is None else alerts.rules)
        self._entries = FleetEntries(state)
        self._snapshot: FleetSnapshot | None = None
        self.moment: FleetMoment | None = None
        """What readers see now; `None` before the first `refresh`."""

    def refresh(self, now: float, pause: Callable[[], None]) -> None:
        """Take over what has changed by `now` (epoch seconds); `pause` is called after each piece of work."""
        rules = () if self._alerts is None else tuple(self._alerts.rules)
        if rules != self._crossings.rules:
            self._crossings = FleetCrossings(self._state, rules)
        snapshot = self._snapshot = take_snapshot(self._state, self._snapshot)
        self._names.update(snapshot)
        pause()
        for _ in self._crossings.update(snapshot):
            pause()
        # `list` copies in one step, while the loop changes the alerts.
        active = [] if self._alerts is None else list(self._alerts.active.values())
        self.moment = FleetMoment(self._state, self._names, self._crossings, snapshot, active, now)

    def make_frame(self, make: MakeFrame) -> bytes | None:
        """Return the next frame of a reader; `None` if nothing changed for it.

        Raises `LookupError` before the first `refresh`.
        """
        if self.moment is None:
            raise LookupError("the overview was not refreshed")
        return make(self.moment, self._entries)
