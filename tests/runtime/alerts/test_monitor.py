"""Tests `streamd/runtime/alerts/monitor.py`: alerts on the loop, in a service, and over a restart."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from streamd.core.alerts.settings import AlertSettings
from streamd.core.errors import ConfigError, UnknownSilenceError
from streamd.core.scheduling.batches import ServerRows
from streamd.core.state.forecast_seals import compute_checks
from streamd.runtime.alerts.alert import AlertChange
from streamd.runtime.alerts.monitor import AlertMonitor
from streamd.runtime.service import Service, ServiceLimits
from streamd.runtime.service_report import describe_status
from streamd.runtime.state.state import State
from streamd.runtime.wiring import SlotOwners, build_service
from tests.support.alert_rig import CPU_RULE, FIRST_STEP, MODEL, Table, post_forecast
from tests.support.silence_rig import make_silence
from tests.support.state_files import opened, send, whole

HIGH, LOW = 95.0, 50.0


@pytest.fixture(autouse=True)
def _turns_are_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamd.runtime.alerts.thread.EVALUATION_SECONDS", 0.002)


class Watched:
    """A monitor, its changes, and forecasts that a test posts to it."""

    def __init__(
        self, state: State, rules: dict[str, Table] | None = None, monitor: AlertMonitor | None = None
    ) -> None:
        self.state = state
        wall = float(state.contract.to_origin(FIRST_STEP))
        settings = AlertSettings(rules={"r": {**CPU_RULE, "for": 1}} if rules is None else rules)
        self.monitor = monitor or AlertMonitor(state, settings, wall=lambda: wall)
        self.changes: list[AlertChange] = []
        self._changed = asyncio.Event()
        self.monitor.add_listener(self)

    def alerts_changed(self, changes: Sequence[AlertChange]) -> None:
        """Note changes."""
        self.changes += changes
        self._changed.set()

    def forecast(self, server: str, top: float) -> None:
        """Send the next row of a server, and deliver its forecast."""
        slot = self.state.directory.slots.get(server)
        step = FIRST_STEP if slot is None else self.state.windows.get_newest_step(slot) + 1
        send(self.state, server, step, whole(1.0))
        slot = self.state.directory.slots[server]
        post_forecast(self.state, slot, step, top)
        self.monitor.forecasts_posted(np.array([slot]), np.array([step]), MODEL, np.empty((1, 2, 4, 3), np.float32))

    async def wait_for(self, *expected: tuple[str, str]) -> None:
        """Wait until these were the changes, by kind and server, and forget them."""
        async with asyncio.timeout(10.0):
            while [(change.kind, change.alert.server) for change in self.changes] != list(expected):
                self._changed.clear()
                await self._changed.wait()
        self.changes = []


@pytest.mark.asyncio
async def test_listeners_hear_of_alerts_that_are_active_by_then(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        watched = Watched(state)
        await watched.monitor.start()
        watched.forecast("db-1", HIGH)
        await watched.wait_for(("fired", "db-1"))
        assert list(watched.monitor.active) == [("r", "db-1")]
        watched.forecast("db-1", LOW)
        await watched.wait_for(("resolved", "db-1"))
        assert watched.monitor.active == {}
        assert [alert.server for alert in watched.monitor.resolved] == ["db-1"]
        watched.monitor.close()


@pytest.mark.asyncio
async def test_a_silence_is_answered_when_its_alerts_are_marked_and_counted(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        watched = Watched(state)
        await watched.monitor.start()
        watched.forecast("db-1", HIGH)
        await watched.wait_for(("fired", "db-1"))
        start = float(state.contract.to_origin(FIRST_STEP))
        await watched.monitor.add_silence(make_silence(starts_at=start, ends_at=start + 60))
        assert [each.silenced_until for each in watched.monitor.active.values()] == [start + 60]
        assert [each.id for each in watched.monitor.silences] == ["s"]
        assert [watched.monitor.describe()[key] for key in ("firing", "silenced", "silences")] == [1, 1, 1]
        with pytest.raises(UnknownSilenceError, match="'other'"):
            await watched.monitor.end_silence("other")
        await watched.monitor.end_silence("s")
        assert [each.silenced_until for each in watched.monitor.active.values()] == [None]
        assert [watched.monitor.describe()[key] for key in ("firing", "silenced", "silences")] == [1, 0, 0]
        await watched.wait_for(("silenced", "db-1"), ("silenced", "db-1"))
        watched.monitor.close()


@pytest.mark.asyncio
async def test_a_restart_continues_and_remembers_what_was_resolved(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        watched = Watched(state)
        await watched.monitor.start()
        for server in ("db-1", "db-2", "db-3"):
            watched.forecast(server, HIGH)
            await watched.wait_for(("fired", server))
        fired = dict(watched.monitor.active)
        watched.forecast("db-2", LOW)
        await watched.wait_for(("resolved", "db-2"))
        watched.monitor.close()
        state.forget(state.directory.slots["db-3"])
        watched = Watched(state)
        await watched.monitor.start()
        await watched.wait_for(("refreshed", "db-1"), ("resolved", "db-3"))
        assert watched.monitor.active == {("r", "db-1"): fired["r", "db-1"]}
        assert [alert.server for alert in watched.monitor.resolved] == ["db-3", "db-2"]
        watched.monitor.close()


@pytest.mark.asyncio
async def test_rules_that_do_not_fit_are_refused_and_the_former_ones_stay(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        watched = Watched(state)
        await watched.monitor.start()
        watched.monitor.replace_rules(AlertSettings(rules={"s": {"target": "disk", "above": 1.0}}))
        assert [rule.name for rule in watched.monitor.rules] == ["r"]
        watched.forecast("db-1", HIGH)
        await watched.wait_for(("fired", "db-1"))
        watched.monitor.close()


@pytest.mark.asyncio
async def test_rules_are_replaced_while_alerts_are_active(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        watched = Watched(state)
        await watched.monitor.start()
        watched.forecast("db-1", HIGH)
        await watched.wait_for(("fired", "db-1"))
        watched.monitor.replace_rules(AlertSettings())
        await watched.wait_for(("resolved", "db-1"))
        assert watched.monitor.resolved[0].reason == "rule_changed"
        watched.monitor.close()


@pytest.mark.asyncio
async def test_an_evaluation_that_fails_does_not_end_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as state:
        watched = Watched(state)
        failed = asyncio.Event()
        loop = asyncio.get_running_loop()

        def fail(*arguments: object) -> None:
            loop.call_soon_threadsafe(failed.set)
            raise ValueError("a defect")

        monkeypatch.setattr("streamd.runtime.alerts.screening.copy_forecasts", fail)
        await watched.monitor.start()
        watched.forecast("db-1", HIGH)
        async with asyncio.timeout(10.0):
            await failed.wait()
        monkeypatch.undo()
        watched.forecast("db-1", HIGH)
        await watched.wait_for(("fired", "db-1"))
        assert watched.monitor.describe()["failures"] == 1
        watched.monitor.close()


@pytest.mark.asyncio
async def test_a_rule_that_does_not_fit_the_model_is_refused_at_start(tmp_path: Path) -> None:
    with opened(tmp_path) as state, pytest.raises(ConfigError, match=r"alerts\.rules\.r\.target: is 'disk'"):
        Watched(state, {"r": {"target": "disk", "above": 1.0}})


# ---------------------------------------------------------------- in a service
def make_service(state: State, wall: Callable[[], float]) -> Service:
    """Make a service with one rule."""
    settings = AlertSettings(rules={"r": {**CPU_RULE, "for": 1}, "quiet": {**CPU_RULE, "target": "mem"}})
    return build_service(state, MODEL.decode(), {}, ServiceLimits(), wall=wall, alerts=settings)


def read_metrics(service: Service) -> dict[tuple[str, ...], float]:
    """Return the metrics of alerts by name and labels."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(service.metrics.render().decode())
        for sample in family.samples
        if sample.name.startswith("streamd_alert")
    }


@pytest.mark.asyncio
async def test_forecasts_that_a_service_delivers_raise_alerts_which_it_reports(tmp_path: Path) -> None:
    state_wall = 300.0 * (FIRST_STEP + 2)
    with opened(tmp_path) as state:
        service = make_service(state, lambda: state_wall)
        assert service.alerts is not None, "it has rules"
        fired = asyncio.Event()
        service.alerts.add_listener(_Setter(fired))
        are_restored = [service.alert_subscriptions.are_restored]
        await service.start_alerts()
        assert [*are_restored, service.alert_subscriptions.are_restored] == [False, True]
        send(state, "db-1", FIRST_STEP, whole(1.0))
        forecasts = np.full((1, *state.contract.forecast_shape), HIGH, np.float32)
        await deliver(service, forecasts)
        async with asyncio.timeout(10.0):
            await fired.wait()
        status = describe_status(service, lambda server: False)["alerts"]
        assert (status["rules"], status["pending"], status["firing"]) == (2, 1, 1)
        metrics = read_metrics(service)
        assert metrics["streamd_alerts", "r", "firing"] == 1.0
        assert metrics["streamd_alerts", "quiet", "pending"] == 1.0
        assert metrics["streamd_alerts", "quiet", "firing"] == 0.0
        assert metrics["streamd_alert_evaluations_total",] == 1.0
        assert not any("db-1" in key for key in metrics), "it names no server"
        service.close()


async def deliver(service: Service, forecasts: Any) -> None:
    """Deliver forecasts of slot 0 as the pipeline does."""
    slots = np.zeros(1, np.int64)
    rows = ServerRows(
        slots=slots,
        generations=service.state.directory.generations[slots],
        steps=np.array([FIRST_STEP]),
        contexts=np.array([8]),
        since=np.zeros(1),
    )
    service.board_sink.deliver(rows, forecasts, compute_checks(forecasts), service.pipeline.serving.spec)


class _Setter:
    def __init__(self, event: asyncio.Event) -> None:
        self._event = event

    def alerts_changed(self, changes: Sequence[AlertChange]) -> None:
        if any(change.kind == "fired" for change in changes):
            self._event.set()


@pytest.mark.asyncio
async def test_a_service_passes_on_servers_that_it_forgets_or_rewinds(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        service = make_service(state, lambda: 300.0 * (FIRST_STEP + 2))
        assert service.alerts is not None, "it has rules"
        watched = Watched(state, monitor=service.alerts)
        await service.alerts.start()
        for server in ("db-1", "db-2"):
            watched.forecast(server, HIGH)
            await watched.wait_for(("fired", server), ("pending", server))
        assert isinstance(service.owners, SlotOwners)
        service.owners.rewind(state.directory.slots["db-1"], FIRST_STEP - 1)
        await watched.wait_for(("dropped", "db-1"))
        service.forget(state.directory.slots["db-2"])
        await watched.wait_for(("resolved", "db-2"), ("dropped", "db-2"))
        assert list(service.alerts.active) == [("r", "db-1")]
        service.close()


@pytest.mark.asyncio
async def test_a_service_without_settings_of_alerts_has_none(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        service = build_service(state, MODEL.decode(), {}, ServiceLimits())
        assert service.alerts is None
        assert describe_status(service, lambda server: True)["alerts"] is None
        assert read_metrics(service) == {}
        service.close()
