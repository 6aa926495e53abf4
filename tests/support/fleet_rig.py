"""The tables of the overview over a state folder, with forecasts that a test posts and a clock that it sets."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from streamd.core.access.caller import ANYBODY, Caller
from streamd.core.access.scopes import Scope
from streamd.core.alerts.rules import AlertRule
from streamd.core.fleet.query import FleetQuery
from streamd.runtime.alerts.alert import Alert, AlertKey
from streamd.runtime.fleet.entries import FleetFormat
from streamd.runtime.fleet.frames import FrameMaker
from streamd.runtime.fleet.tables import FleetTables
from streamd.runtime.state.opening import open_state
from streamd.runtime.state.state import State, WindowLimits
from tests.support.alert_rig import FIRST_STEP, make_alert_rules, post_forecast
from tests.support.contracts import make_contract
from tests.support.state_files import send

VALUES = {"cpu": 1.0, "mem": 1.0, "net": 1.0}
LIMITS = WindowLimits(capacity=8, need=2, late_steps=8, grace_seconds=10.0)


class RuleHolder:
    """Rules and active alerts, as a monitor has them."""

    def __init__(self, rules: tuple[AlertRule, ...] = ()) -> None:
        self.rules = rules
        self.active: dict[AlertKey, Alert] = {}

    def put(self, alert: Alert) -> None:
        self.active[alert.key] = alert


class FleetRig:
    """The tables of a state; `now` is the wall clock, shortly after the newest row."""

    def __init__(self, folder: Path, **rules: Mapping[str, Any]) -> None:
        self.state: State = open_state(folder, make_contract(), LIMITS, 0.0)
        self.alerts = RuleHolder(make_alert_rules(self.state, rules))
        self.tables = FleetTables(self.state, self.alerts)
        self.newest = FIRST_STEP
        self.late_seconds = 10.0

    @property
    def now(self) -> float:
        return self.state.contract.to_origin(self.newest) + self.late_seconds

    def report(self, server: str, *, rows: int = 1, values: Mapping[str, float | None] = VALUES) -> int:
        """Let a server send its next rows; returns its slot."""
        slot = self.state.directory.slots.get(server)
        newest = FIRST_STEP - 1 if slot is None else max(self.state.windows.get_newest_step(slot), FIRST_STEP - 1)
        for step in range(newest + 1, newest + 1 + rows):
            send(self.state, server, step, dict(values))
            self.newest = max(self.newest, step)
        return self.state.directory.slots[server]

    def forecast(self, server: str, top: float, *, rows: int = 2) -> int:
        """Let a server send rows, and post a forecast whose middle curve rises to `top`, the others 10 away."""
        slot = self.report(server, rows=rows)
        post_forecast(self.state, slot, self.state.windows.get_newest_step(slot), top)
        return slot

    def refresh(self) -> None:
        self.tables.refresh(self.now, lambda: None)

    def look(self, *, caller: Caller = ANYBODY, **query: Any) -> dict[str, Any]:
        """Refresh, and return the answer to a query."""
        self.refresh()
        maker = FrameMaker(FleetQuery(**query), caller, Scope.READ, FleetFormat.JSON)
        answer = msgspec.json.decode(self.tables.make_frame(maker.make_answer) or b"")
        assert isinstance(answer, dict)
        return answer

    def name(self, **query: Any) -> list[str]:
        """Return the names of the servers that a query finds, in order."""
        return [each["server"] for each in self.look(**query)["servers"]]

    def follow(self, form: FleetFormat = FleetFormat.JSON, *, caller: Caller = ANYBODY, **query: Any) -> "Follower":
        """Return a reader of frames."""
        return Follower(self, FrameMaker(FleetQuery(**query), caller, Scope.READ, form), form)


class Follower:
    """A reader of frames, one for each `read`."""

    def __init__(self, rig: FleetRig, maker: FrameMaker, form: FleetFormat) -> None:
        self._rig = rig
        self._maker = maker
        self._decode = msgspec.json.decode if form is FleetFormat.JSON else msgspec.msgpack.decode

    def read(self) -> Any:
        """Refresh, and return the next frame, `None` if nothing changed."""
        self._rig.refresh()
        frame = self._rig.tables.make_frame(self._maker.make_frame)
        return None if frame is None else self._decode(frame)
