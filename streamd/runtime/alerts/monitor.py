"""The alerts of a daemon on its event loop: which are active, which were resolved, and the listeners to changes.

Nothing here waits; the rules are evaluated in a thread of their own (`thread.py`).
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from streamd.core.alerts.rules import AlertRule, bind_alert_rules
from streamd.core.alerts.settings import AlertSettings
from streamd.core.alerts.silences import Silence
from streamd.core.arrays import Float32, Numbers, Slots
from streamd.core.errors import ConfigError, StreamdError
from streamd.runtime.alerts.alert import Alert, AlertChange, AlertKey, AlertListener, AlertReceivers, AlertState
from streamd.runtime.alerts.alert_subscriptions import AlertSubscriptions
from streamd.runtime.alerts.evaluator import AlertEvaluator, AlertLimits
from streamd.runtime.alerts.noted import NotedSlots
from streamd.runtime.alerts.shared_alerts import EvaluatorCall, MarkStore, SharedAlerts
from streamd.runtime.alerts.silence_requests import SilenceRequest
from streamd.runtime.alerts.store import MAX_RESOLVED, AlertStore
from streamd.runtime.alerts.thread import AlertThread
from streamd.runtime.state.state import State

log = structlog.get_logger(__name__)

THREAD_END_SECONDS = 2.0
"""The time that `close` waits for the thread."""


class AlertMonitor:
    """The rules of the settings, bound to the contract of a state, and their alerts.

    Call `start` before the first forecast is delivered, `forecasts_posted` with each batch, and `forget` when the data
    of a slot are dropped. Raises `ConfigError` if a rule does not fit the contract. `wall` returns epoch seconds,
    `clock` monotonic seconds. With `shared` these alerts are a part of those of several processes.
    """

    def __init__(
        self,
        state: State,
        settings: AlertSettings,
        *,
        shared: SharedAlerts | None = None,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rules: tuple[AlertRule, ...] = bind_alert_rules(settings, state.contract)
        self.active: dict[AlertKey, Alert] = {}
        """The pending and firing alerts; only to be read."""
        self.resolved: deque[Alert] = deque(maxlen=MAX_RESOLVED)
        """The alerts that were resolved last, the newest one first; only to be read."""
        self.silences: Sequence[Silence] = ()
        """The silences that hold, in the order in which they began; only to be read."""
        self.own_active: dict[AlertKey, Alert] = self.active if shared is None else {}
        """Those of `active` whose receivers this process notifies; only to be read."""
        self.own_resolved: deque[Alert] = self.resolved if shared is None else deque(maxlen=MAX_RESOLVED)
        """Those of `resolved` whose receivers this process notifies; only to be read."""
        self.is_kept_elsewhere = shared is not None
        """Whether the alerts come later than `start` returns, from where they are kept."""
        self._state = state
        self._shared = shared
        self._counts: Counter[tuple[str, AlertState]] = Counter()
        self._own_counts = self._counts if shared is None else Counter[tuple[str, AlertState]]()
        self._silenced = 0
        self._listeners: list[AlertListener] = []
        self._receivers: list[AlertReceivers] = []
        self._noted = NotedSlots(state.directory.capacity, clock)
        limits = AlertLimits(
            max_forecast_age_seconds=settings.max_forecast_age_seconds,
            silent_after_seconds=settings.silent_after_seconds,
        )
        self._evaluator = AlertEvaluator(state, self.rules, limits)
        self._thread = AlertThread(
            self._evaluator,
            self._noted,
            self._publish,
            silences_changed=lambda silences: self._call_on_loop(self._set_silences, silences),
            shared=shared,
            wall=wall,
            clock=clock,
        )
        self._loop: asyncio.AbstractEventLoop | None = None

    # ------------------------------------------------------------ life
    async def start(self) -> None:
        """Start the thread; returns when the alerts of the former process are active again."""
        self._loop = loop = asyncio.get_running_loop()
        if self._shared is not None:
            self._shared.open(self)
        opened: asyncio.Future[list[Alert]] = loop.create_future()

        def resolve(resolved: list[Alert]) -> None:
            if not opened.done():
                opened.set_result(resolved)

        self._thread.start(self._state.folder, lambda resolved: self._call_on_loop(resolve, resolved))
        former = await opened
        # Those that ended because of the restart were published before, and are newer.
        self.resolved.extend(former[: MAX_RESOLVED - len(self.resolved)])

    def close(self) -> None:
        """End the thread, which stores what it has found, and wait `THREAD_END_SECONDS` for it."""
        self._thread.stop(THREAD_END_SECONDS)

    def replace_rules(self, settings: AlertSettings) -> None:
        """Apply the rules of other settings from the next evaluation on; alerts of changed rules end.

        Rules that do not fit the contract change nothing, and the log says why.
        """
        try:
            rules = bind_alert_rules(settings, self._state.contract)
        except ConfigError as exc:
            log.error("alert_rules_refused", reason=str(exc), rules=len(self.rules))
            return
        if rules != self.rules:
            log.info("alert_rules_changed", rules=[rule.name for rule in rules])
        self.rules = rules
        self._thread.replace_rules(rules)

    def add_listener(self, listener: AlertListener) -> None:
        """Add a reader of all later changes."""
        self._listeners.append(listener)

    def add_receivers(self, receivers: AlertReceivers) -> None:
        """Add the receivers of all later changes of the alerts of this process."""
        self._receivers.append(receivers)

    # ------------------------------------------------------------ in
    def forecasts_posted(self, slots: Slots, steps: Numbers, model: bytes, forecasts: Float32) -> None:
        """Note the forecasts of a batch (`ForecastPosted`)."""
        if self.rules:
            self._noted.note(slots)

    def forget(self, slot: int) -> None:
        """Drop what is known of a slot whose data were dropped: it gets another server, or its rows went back."""
        self._evaluator.forget(slot, self._state.directory.names[slot])

    @property
    def store(self) -> AlertStore | None:
        """The store, from `start` on; `None` if it could not be opened."""
        return self._thread.store

    @property
    def marks(self) -> MarkStore | None:
        """The store of the marks of deliveries, from `start` on; `None` if it could not be opened."""
        return self._thread.store if self._shared is None else self._shared

    # ------------------------------------------------------------ silences
    async def add_silence(self, silence: Silence) -> None:
        """Let a silence hold; returns when it is on the disk and its alerts are marked.

        Raises `TooBusyError` for too many of them, and `UnavailableError` if it cannot be stored.
        """
        if self._shared is not None:
            await self._shared.add_silence(silence)
            return
        await self._request_silence(silence)

    async def end_silence(self, silence_id: str) -> Silence:
        """End a silence before its time; raises `UnknownSilenceError`, and `UnavailableError` as `add_silence` does."""
        if self._shared is not None:
            return await self._shared.end_silence(silence_id)
        return await self._request_silence(silence_id)

    async def _request_silence(self, wanted: Silence | str) -> Silence:
        answer: asyncio.Future[Silence | StreamdError] = asyncio.get_running_loop().create_future()

        def resolve(outcome: Silence | StreamdError) -> None:
            if not answer.done():  # its caller may have left
                answer.set_result(outcome)

        self._thread.request_silence(SilenceRequest(wanted, lambda outcome: self._call_on_loop(resolve, outcome)))
        outcome = await answer
        if isinstance(outcome, StreamdError):
            raise outcome
        return outcome

    def _set_silences(self, silences: Sequence[Silence]) -> None:
        self.silences = silences

    # ------------------------------------------------------------ changes
    def _publish(self, changes: Sequence[AlertChange]) -> None:
        self._call_on_loop(self._apply_changes, changes)

    def _call_on_loop(self, function: Callable[[Any], None], value: Any) -> None:
        assert self._loop is not None, "the thread was started on it"
        try:
            self._loop.call_soon_threadsafe(function, value)
        except RuntimeError:
            log.debug("alerts_not_published", reason="the event loop is closed")

    def _apply_changes(self, changes: Sequence[AlertChange]) -> None:
        for change in changes:
            alert = change.alert
            former = self.active.pop(alert.key, None)
            if former is not None:
                self._counts[alert.rule, former.state] -= 1
                self._silenced -= _is_silenced(former)
            if alert.state is not AlertState.RESOLVED:
                self.active[alert.key] = alert
                self._counts[alert.rule, alert.state] += 1
                self._silenced += _is_silenced(alert)
            elif change.kind == "resolved":
                self.resolved.appendleft(alert)
        for listener in self._listeners:
            listener.alerts_changed(changes)
        if self._shared is None:
            self._notify(changes)

    def _notify(self, changes: Sequence[AlertChange]) -> None:
        for receivers in self._receivers:
            receivers.alerts_changed(changes)

    # ------------------------------------------------------------ called by shared alerts
    def call_evaluator(self, call: EvaluatorCall) -> None:
        """Make a call in the thread soon (`OwnAlerts`)."""
        self._thread.call(call)

    def note_slots(self, slots: Slots) -> None:
        """Let the rules be evaluated for the newest forecasts of slots."""
        if self.rules:
            self._noted.note(slots)

    def show(self, changes: Sequence[AlertChange], *, is_own: bool) -> None:
        """Show changes to the readers; of own ones, receivers are notified too."""
        if is_own:
            for change in changes:
                self._drop_own(change.alert.key)
                if change.alert.state is not AlertState.RESOLVED:
                    self._take_own(change.alert)
                elif change.kind == "resolved":
                    self.own_resolved.appendleft(change.alert)
        self._apply_changes(changes)
        if is_own:
            self._notify(changes)

    def adopt(self, active: Sequence[Alert], resolved: Sequence[Alert]) -> None:
        """Notify the receivers of alerts that another process kept."""
        for alert in active:
            self._drop_own(alert.key)
            self._take_own(alert)
        self.own_resolved.extendleft(reversed(resolved))
        for receivers in self._receivers:
            receivers.adopt(active, resolved)

    def release(self, keys: Sequence[AlertKey]) -> None:
        """Notify the receivers of these alerts no more."""
        for key in keys:
            self._drop_own(key)
        released = frozenset(keys)
        kept = [alert for alert in self.own_resolved if alert.key not in released]
        self.own_resolved.clear()
        self.own_resolved.extend(kept)
        for receivers in self._receivers:
            receivers.release(released)

    def _take_own(self, alert: Alert) -> None:
        self.own_active[alert.key] = alert
        self._own_counts[alert.rule, alert.state] += 1

    def _drop_own(self, key: AlertKey) -> None:
        former = self.own_active.pop(key, None)
        if former is not None:
            self._own_counts[former.rule, former.state] -= 1

    # ------------------------------------------------------------ reports
    @property
    def busy_seconds(self) -> float:
        """The processor time of the thread since start."""
        return self._thread.busy_seconds

    @property
    def lag_seconds(self) -> float:
        """The age of the oldest forecast that no rule was evaluated for; 0 without one."""
        return self._noted.lag_seconds

    def describe(self) -> dict[str, Any]:
        """Return the entry `alerts` of `/v1/status`."""
        states: Counter[AlertState] = Counter()
        for (_, state), count in self._counts.items():
            states[state] += count
        return {
            "rules": len(self.rules),
            "pending": states[AlertState.PENDING],
            "firing": states[AlertState.FIRING],
            "silenced": self._silenced,
            "silences": len(self.silences),
            "refused": self._evaluator.counts.refused,
            "failures": self._thread.failures,
            "lag_seconds": round(self._noted.lag_seconds, 3),
        }

    def collect_metrics(self) -> Iterator[Metric]:
        """Yield the metric families of `/metrics`, which name rules but no servers."""
        alerts = GaugeMetricFamily("streamd_alerts", "Active alerts by rule and state", labels=["rule", "state"])
        for rule in self.rules:
            for state in (AlertState.PENDING, AlertState.FIRING):
                alerts.add_metric([rule.name, state.value], self._own_counts[rule.name, state])
        yield alerts
        yield GaugeMetricFamily("streamd_silences", "Silences of alerts that hold", value=len(self.silences))
        for name, text, value in (
            ("alert_evaluations", "Forecasts that alert rules were evaluated for", self._evaluator.counts.forecasts),
            ("alert_evaluation_seconds", "Processor time of the alerts' thread", self.busy_seconds),
            ("alerts_refused", "Alerts that did not begin: too many are active", self._evaluator.counts.refused),
            ("alert_failures", "Failed evaluations, and failed writes of alerts", self._thread.failures),
        ):
            yield CounterMetricFamily(f"streamd_{name}", text, value=value)
        yield GaugeMetricFamily(
            "streamd_alert_evaluation_lag_seconds",
            "How long the oldest forecast waits that no alert rule was evaluated for",
            value=self._noted.lag_seconds,
        )


def _is_silenced(alert: Alert) -> bool:
    """Whether an active alert fires and is silenced; the thread takes the mark away when the silence ends."""
    return alert.state is AlertState.FIRING and alert.silenced_until is not None


def follow_alerts(monitor: AlertMonitor | None) -> AlertSubscriptions:
    """Return subscriptions to the alerts of a monitor that has not started; without one there are no alerts."""
    subscriptions = AlertSubscriptions()
    if monitor is not None:
        subscriptions.follow(monitor.active, are_restored=False)
        monitor.add_listener(subscriptions)
    return subscriptions
