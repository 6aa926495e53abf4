"""The interface of what keeps alerts elsewhere than in the state folder: in a cluster, where a server has one owner.

Only the interface; `streamd/cluster/` has an object that has it.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from streamd.core.alerts.silences import Silence
from streamd.core.arrays import Slots
from streamd.runtime.alerts.alert import Alert, AlertChange, AlertKey, AlertState
from streamd.runtime.alerts.evaluator import AlertEvaluator
from streamd.runtime.alerts.store import DeliveryMark, StoredChange

EvaluatorCall = Callable[[AlertEvaluator], Sequence[StoredChange]]
"""A call in the thread of the alerts, between two evaluations; what it returns is kept as what was found."""


class MarkStore(Protocol):
    """The store of the marks of deliveries."""

    def mark_delivered(self, receiver: str, key: AlertKey, starts_at: float, state: AlertState) -> None:
        """Note that a receiver has confirmed an alert in a state; does not wait until it is stored."""
        ...

    def read_marks(self) -> frozenset[DeliveryMark]:
        """Return the marks of all alerts that are active or remembered."""
        ...


class OwnAlerts(Protocol):
    """The alerts of this process, as shared alerts change them (`AlertMonitor`).

    The first two may be called in any thread, the others on the event loop.
    """

    def call_evaluator(self, call: EvaluatorCall) -> None:
        """Make a call in the thread of the alerts soon, after those that were made before it."""
        ...

    def note_slots(self, slots: Slots) -> None:
        """Let the rules be evaluated for the newest forecasts of slots."""
        ...

    def show(self, changes: Sequence[AlertChange], *, is_own: bool) -> None:
        """Show changes, each of another alert, to the readers; of own ones, receivers are notified too."""
        ...

    def adopt(self, active: Sequence[Alert], resolved: Sequence[Alert]) -> None:
        """Take over alerts that another process kept: notify receivers of what they lack, the newest `resolved` first.

        Readers get no change: the alerts are what they were.
        """
        ...

    def release(self, keys: Sequence[AlertKey]) -> None:
        """Notify receivers of these alerts no more: another process does."""
        ...


class SharedAlerts(MarkStore, Protocol):
    """Keeps alerts and silences for several processes, and decides which servers' alerts are evaluated in this one."""

    def open(self, alerts: OwnAlerts) -> None:
        """Keep the alerts of this process, from now on; called on the event loop."""
        ...

    def select(self, slots: Slots) -> Slots:
        """Return those of slots whose alerts are evaluated here; called in the thread of the alerts."""
        ...

    def keep(self, changes: Sequence[StoredChange]) -> None:
        """Keep changes, and show them once they are kept; called in the thread of the alerts."""
        ...

    async def add_silence(self, silence: Silence) -> None:
        """Let a silence hold in all processes; raises `TooBusyError`, `UnavailableError`."""
        ...

    async def end_silence(self, silence_id: str) -> Silence:
        """End a silence in all processes; raises `UnknownSilenceError`, `UnavailableError`."""
        ...
