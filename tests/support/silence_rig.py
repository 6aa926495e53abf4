"""The thread of the alerts with silences that a test begins and ends, and what its receivers would be notified of."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from streamd.core.alerts.silences import Silence
from streamd.core.errors import StreamdError
from streamd.runtime.alerts.alert import AlertChange
from streamd.runtime.alerts.evaluator import AlertLimits
from streamd.runtime.alerts.noted import NotedSlots
from streamd.runtime.alerts.silence_requests import SilenceRequest
from streamd.runtime.alerts.thread import AlertThread
from streamd.runtime.state.state import State
from tests.support.alert_rig import CPU_RULE, FIRST_STEP, AlertRig

HIGH, LOW = 95.0, 50.0


def make_silence(silence_id: str = "s", **changes: Any) -> Silence:
    """Return a silence of all servers and rules, for a minute from the epoch on if nothing else is given."""
    values: dict[str, Any] = {
        "servers": ("*",),
        "rules": None,
        "starts_at": 0.0,
        "ends_at": 60.0,
        "who": "ops",
        "why": "disk swap",
    }
    return Silence(id=silence_id, **{**values, **changes})


class SilenceRig:
    """The turns of a thread, which a test makes by itself; `now` is the wall clock."""

    def __init__(self, state: State, now: float | None = None, steps: dict[str, int] | None = None) -> None:
        self.rig = AlertRig(state, AlertLimits(max_forecast_age_seconds=math.inf), r={**CPU_RULE, "for": 1})
        self.rig.steps = {} if steps is None else steps
        self.now = float(state.contract.to_origin(FIRST_STEP)) if now is None else now
        self.changes: list[tuple[str, str]] = []
        """The kind and the server of each change since `take_notified`."""
        self.notified: list[tuple[str, str]] = []
        self.silences: Sequence[Silence] = ()
        self._noted = NotedSlots(state.directory.capacity, lambda: 0.0)
        self.thread = AlertThread(
            self.rig.evaluator,
            self._noted,
            self._publish,
            silences_changed=self._set_silences,
            wall=lambda: self.now,
            clock=lambda: 0.0,
        )
        self.thread.open(state.folder)

    def _set_silences(self, silences: Sequence[Silence]) -> None:
        self.silences = silences

    def _publish(self, changes: Sequence[AlertChange]) -> None:
        for change in changes:
            self.changes.append((change.kind, change.alert.server))
            if change.kind in ("fired", "released", "resolved") and not change.alert.is_withheld:
                self.notified.append((change.alert.state.value, change.alert.server))

    def take_notified(self) -> list[tuple[str, str]]:
        """Return the states and servers that receivers were notified of since the last call, sorted."""
        notified, self.notified, self.changes = self.notified, [], []
        return sorted(notified)

    def forecast(self, server: str, top: float) -> None:
        """Deliver a forecast, and let the thread judge it."""
        self.rig.forecast(server, top)
        self._noted.note(np.array([self.rig.get_slot(server)]))
        self.thread.run_once()

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self.thread.run_once()

    def begin(self, seconds: float, silence_id: str = "s", **changes: Any) -> Silence | StreamdError:
        """Begin a silence, and return the answer."""
        given = {"starts_at": self.now, "ends_at": self.now + seconds, **changes}
        return self._request(make_silence(silence_id, **given))

    def end(self, silence_id: str = "s") -> Silence | StreamdError:
        """End a silence, and return the answer."""
        return self._request(silence_id)

    def _request(self, wanted: Silence | str) -> Silence | StreamdError:
        answers: list[Silence | StreamdError] = []
        self.thread.request_silence(SilenceRequest(wanted, answers.append))
        self.thread.do_requested()
        (answer,) = answers
        return answer

    def forget(self, server: str) -> None:
        """Forget a server."""
        slot = self.rig.get_slot(server)
        self.rig.state.forget(slot)
        self.rig.evaluator.forget(slot, None)
        self.thread.run_once()

    def kill(self, seconds_away: float = 0.0) -> "SilenceRig":
        """Return the rig of the process that comes after this one was killed."""
        assert self.thread.store is not None, "it was opened"
        self.thread.store.close()  # nothing is saved by it
        return SilenceRig(self.rig.state, self.now + seconds_away, self.rig.steps)

    def find_ends(self) -> dict[str, float | None]:
        """Return until when each active alert is silenced, by its server."""
        return {alert.server: alert.silenced_until for alert in self.rig.evaluator.active.values()}
