"""Requests to begin or end a silence: made on the event loop, carried out in the thread of the alerts.

The silences that hold and the database belong to that thread, so a request is answered when the disk has it.
"""

import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from streamd.core.alerts.silences import Silence, SilenceSet
from streamd.core.errors import StorageError, StreamdError, UnavailableError, UnknownSilenceError
from streamd.runtime.alerts.evaluator import AlertEvaluator
from streamd.runtime.alerts.silencing import AlertSilencer
from streamd.runtime.alerts.store import AlertStore, StoredChange

log = structlog.get_logger(__name__)

AnswerSilence = Callable[[Silence | StreamdError], None]
"""Takes the silence that began or ended, or the reason why nothing was changed; called in the thread."""


@dataclass(frozen=True)
class SilenceRequest:
    """A silence that is to begin, or the id of one that is to end."""

    wanted: Silence | str
    answer: AnswerSilence


class SilenceRequests:
    """The requests that wait, and what is done with them. `add` may be called in any thread, all else in that one."""

    def __init__(self, evaluator: AlertEvaluator) -> None:
        self._evaluator = evaluator
        self._waiting: deque[SilenceRequest] = deque()
        self._is_closed = False
        self._done: list[tuple[SilenceRequest, Silence | StreamdError]] = []

    @property
    def silencer(self) -> AlertSilencer:
        """The silences that hold."""
        return self._evaluator.silencer

    @property
    def have_waiting(self) -> bool:
        """Whether requests wait."""
        return bool(self._waiting)

    def add(self, request: SilenceRequest) -> None:
        """Let a request wait for the thread."""
        self._waiting.append(request)
        if self._is_closed:
            self._refuse_waiting()

    def refuse(self) -> None:
        """Answer these and all later requests that they come too late: the thread ends."""
        self._is_closed = True
        self._refuse_waiting()
        self.answer()

    def _refuse_waiting(self) -> None:
        """Refuse what waits; two threads may do so at the same time, and each takes other requests."""
        with contextlib.suppress(IndexError):
            while True:
                self._waiting.popleft().answer(UnavailableError("the daemon is stopping"))

    def answer(self) -> None:
        """Answer what was carried out; call it when the changes are published, so that no caller reads older ones."""
        done, self._done = self._done, []
        for request, outcome in done:
            request.answer(outcome)

    def carry_out_next(self, store: AlertStore | None) -> list[StoredChange]:
        """Carry out the request that has waited longest; returns the changes of alerts."""
        request = self._waiting.popleft()
        changes: list[StoredChange] = []
        outcome: Silence | StreamdError
        try:
            outcome, changes = self._carry_out(request.wanted, store)
        except StreamdError as exc:
            outcome = exc
        except Exception as exc:  # the caller must not wait for ever
            log.exception("silence_failed")
            outcome = UnavailableError(f"the silence was not changed: {exc}")
        self._done.append((request, outcome))
        return changes

    def _carry_out(self, wanted: Silence | str, store: AlertStore | None) -> tuple[Silence, list[StoredChange]]:
        if store is None:
            raise StorageError("the silence was not changed: the alerts cannot be stored, see the log")
        active = self._evaluator.active
        if isinstance(wanted, Silence):
            self.silencer.silences.require_space(wanted)
            store.add_silence(wanted)
            return wanted, self._evaluator.replace_alerts(self.silencer.add(wanted, active))
        silence = self.silencer.silences.get(wanted)
        if silence is None:
            raise UnknownSilenceError(f"no silence {wanted[:80]!r} holds")
        store.remove_silences([wanted])
        return silence, self._evaluator.replace_alerts(self.silencer.remove(silence, active))

    def end(self, now: float, store: AlertStore | None) -> list[StoredChange]:
        """End the silences whose time has come; returns the changes of alerts.

        If the disk refuses to remove them, they have ended all the same: after a restart their time is over too.
        """
        ended, changed = self.silencer.end(now, self._evaluator.active)
        if ended and store is not None:
            try:
                store.remove_silences([silence.id for silence in ended])
            except StorageError as exc:
                log.error("silences_not_removed", reason=str(exc))
        return self._evaluator.replace_alerts(changed)

    def restore(self, store: AlertStore, now: float) -> None:
        """Let the silences of the former process hold that have not ended; call it before its alerts are restored."""
        self.silencer.silences = SilenceSet(store.read_silences())
        self.end(now, store)
