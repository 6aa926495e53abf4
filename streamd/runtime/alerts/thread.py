"""The thread of the alerts: evaluates what was noted about once a second, stores the changes, then publishes them.

Silences that are requested begin and end in between. A change is on the disk before it is published. If the disk
refuses it, it is still published, and stored as soon as the disk takes it.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from streamd.core.alerts.rules import AlertRule
from streamd.core.alerts.silences import Silence
from streamd.core.errors import StorageError
from streamd.runtime.alerts.alert import Alert, AlertChange, AlertKey
from streamd.runtime.alerts.evaluator import AlertEvaluator
from streamd.runtime.alerts.noted import NotedSlots
from streamd.runtime.alerts.shared_alerts import EvaluatorCall, SharedAlerts
from streamd.runtime.alerts.silence_requests import SilenceRequest, SilenceRequests
from streamd.runtime.alerts.store import AlertStore, StoredChange, open_alert_store

log = structlog.get_logger(__name__)

EVALUATION_SECONDS = 1.0
"""The interval at which the rules are evaluated for what was noted."""

SAVE_SECONDS = 30.0
"""The interval at which refreshed alerts are stored, if nothing else is."""

SILENCE_CHECK_SECONDS = 5.0
MAX_LOGGED = 5
"""Alerts of one kind that are named in one line of the log."""

MAX_PUBLISHED = 256
"""Changes that are published at once, so that the loop is not held for long."""


class AlertThread:
    """Evaluates, stores and publishes; `publish` and `silences_changed` are called in the thread, and must not wait.

    `wall` returns epoch seconds, `clock` monotonic seconds. `open` and `run_once` are what the thread does, for tests.
    """

    def __init__(
        self,
        evaluator: AlertEvaluator,
        noted: NotedSlots,
        publish: Callable[[Sequence[AlertChange]], None],
        *,
        silences_changed: Callable[[Sequence[Silence]], None] = lambda silences: None,
        shared: SharedAlerts | None = None,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store: AlertStore | None = None
        self.busy_seconds = 0.0
        """The processor time of all evaluations since start."""
        self.failures = 0
        """How often changes could not be stored, or an evaluation failed."""
        self._evaluator = evaluator
        self._noted = noted
        self._publish = publish
        self._silences_changed = silences_changed
        self._shared = shared
        self._calls: deque[EvaluatorCall] = deque()
        self._silences = SilenceRequests(evaluator)
        self._published_silences: tuple[Silence, ...] = ()
        self._wall = wall
        self._clock = clock
        self._rules: tuple[AlertRule, ...] | None = None
        self._unsaved: dict[tuple[AlertKey, bool], StoredChange] = {}
        self._next_save = self._next_silence_check = -1.0
        self._is_failing = False
        self._stopping = threading.Event()
        self._waking = threading.Event()
        self._thread: threading.Thread | None = None

    # ------------------------------------------------------------ the thread
    def start(self, folder: Path, opened: Callable[[list[Alert]], None]) -> None:
        """Start the thread, which first opens the store of a state folder.

        `opened` is called in the thread with the resolved alerts that are remembered, the newest one first.
        """
        self._thread = threading.Thread(target=self._run, args=(folder, opened), name="alerts", daemon=True)
        self._thread.start()

    def replace_rules(self, rules: Sequence[AlertRule]) -> None:
        """Apply other rules at the next evaluation; may be called in any thread."""
        self._rules = tuple(rules)

    def request_silence(self, request: SilenceRequest) -> None:
        """Let a silence begin or end soon; may be called in any thread."""
        self._silences.add(request)
        self._waking.set()

    def call(self, call: EvaluatorCall) -> None:
        """Make a call soon, between two evaluations; may be called in any thread."""
        self._calls.append(call)
        self._waking.set()

    def stop(self, wait_seconds: float) -> None:
        """Let the thread end after the evaluation that runs, and wait for it."""
        self._stopping.set()
        self._waking.set()
        if self._thread is not None:
            self._thread.join(wait_seconds)

    def _run(self, folder: Path, opened: Callable[[list[Alert]], None]) -> None:
        resolved: list[Alert] = []
        try:
            resolved = self.open(folder)
        except Exception:  # the daemon, which waits for this, must start all the same
            self.failures += 1
            log.exception("alerts_not_restored")
        opened(resolved)
        next_evaluation = time.monotonic() + EVALUATION_SECONDS
        while not self._stopping.is_set():
            self._waking.wait(max(next_evaluation - time.monotonic(), 0.0))
            self._waking.clear()
            is_due = time.monotonic() >= next_evaluation
            try:
                self.run_once() if is_due else self.do_requested()
            except Exception:
                self.failures += 1
                log.exception("alert_evaluation_failed")
            if is_due:
                next_evaluation = time.monotonic() + EVALUATION_SECONDS
        self.close()

    # ------------------------------------------------------------ one turn
    def open(self, folder: Path) -> list[Alert]:
        """Open the store, and publish the alerts of the former process; returns its resolved ones.

        Without a store, alerts are kept in memory only, which the log says.
        """
        if self._shared is not None:
            return []  # what is kept comes later, and from elsewhere
        # The former process may have ended before it judged its last forecasts; those that it judged count once.
        self._noted.note(self._evaluator.find_forecasts())
        try:
            self.store = open_alert_store(folder)
        except StorageError as exc:
            log.error("alerts_not_stored", reason=str(exc))
            return []
        resolved = self.store.read_resolved()
        self._silences.restore(self.store, self._wall())
        self._publish_silences()
        restored = self._evaluator.restore(self.store.read_active(), self._wall(), self._clock())
        self._handle_changes(restored)
        return resolved

    def run_once(self) -> None:
        """Evaluate what was noted since the last call."""
        began = time.thread_time()
        now, clock = self._wall(), self._clock()
        if self._rules is not None:
            rules, self._rules = self._rules, None
            self._handle_changes(self._evaluator.replace_rules(rules, now))
        self._handle_changes(self._evaluator.apply_forgotten(now))
        self._make_calls()
        self._change_silences(now)
        slots = self._noted.take()
        if self._shared is not None:
            slots = self._shared.select(slots)
        for changes in self._evaluator.evaluate(slots, now, clock):
            self._handle_changes(changes)
        self._noted.finish()
        if clock >= self._next_silence_check:
            self._next_silence_check = clock + SILENCE_CHECK_SECONDS
            self._handle_changes(self._evaluator.end_silent(now, clock))
        if clock >= self._next_save:
            self._next_save = clock + SAVE_SECONDS
            self._save()
        elif self.store is not None and self.store.has_waiting_marks:
            self._save()
        self.busy_seconds += time.thread_time() - began

    def do_requested(self) -> None:
        """Make the calls that wait, and change silences."""
        self._make_calls()
        self._change_silences(self._wall())

    def _make_calls(self) -> None:
        while self._calls:
            self._handle_changes(self._calls.popleft()(self._evaluator))

    def _change_silences(self, now: float) -> None:
        self._handle_changes(self._silences.end(now, self.store))
        while self._silences.have_waiting:
            self._handle_changes(self._silences.carry_out_next(self.store))
        self._publish_silences()
        self._silences.answer()

    def _publish_silences(self) -> None:
        silences = tuple(self._silences.silencer.silences)
        if silences != self._published_silences:
            self._published_silences = silences
            self._silences_changed(silences)

    def close(self) -> None:
        """Store what is not stored yet, and close the store."""
        self._silences.refuse()
        self._save()
        if self.store is not None:
            self.store.close()

    def _handle_changes(self, changes: Sequence[StoredChange]) -> None:
        """Store changes, and publish them then."""
        if self._shared is not None:
            _log_changes([each.change for each in changes])
            for first in range(0, len(changes), MAX_PUBLISHED):
                self._shared.keep(changes[first : first + MAX_PUBLISHED])
            return
        for each in changes:
            key = each.change.alert.key, each.change.kind in ("resolved", "dropped")
            self._unsaved.pop(key, None)  # so that it comes last: they are written in this order
            self._unsaved[key] = each
        if any(each.change.kind not in ("refreshed", "silenced") for each in changes):
            self._save()
            _log_changes([each.change for each in changes])
        for first in range(0, len(changes), MAX_PUBLISHED):
            self._publish([each.change for each in changes[first : first + MAX_PUBLISHED]])

    def _save(self) -> None:
        if self.store is None:
            self._unsaved.clear()
            return
        try:
            self.store.write(list(self._unsaved.values()))
        except StorageError as exc:
            self.failures += 1
            if not self._is_failing:
                log.error("alerts_not_stored", reason=str(exc), waiting=len(self._unsaved))
            self._is_failing = True
            return
        self._unsaved.clear()
        if self._is_failing:
            log.info("alerts_stored_again")
        self._is_failing = False


def _log_changes(changes: Sequence[AlertChange]) -> None:
    for kind in ("fired", "resolved"):
        alerts = [each.alert for each in changes if each.kind == kind]
        if alerts:
            named = [{"rule": alert.rule, "server": alert.server, "reason": alert.reason} for alert in alerts]
            log.info(f"alerts_{kind}", count=len(alerts), alerts=named[:MAX_LOGGED])
