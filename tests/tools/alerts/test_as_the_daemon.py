"""Tests `streamd/tools/alerts/backtest.py` against the daemon: the same rows and forecasts make the same alerts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamd.core.alerts.evaluation import Flags
from streamd.core.alerts.rules import bind_alert_rules
from streamd.core.alerts.settings import AlertSettings
from streamd.runtime.alerts.alert import AlertState
from streamd.runtime.alerts.evaluator import AlertLimits
from streamd.tools.alerts.backtest import AlertBacktest, BacktestPlan
from streamd.tools.alerts.damping import find_firing
from streamd.tools.alerts.forecaster import FleetForecaster
from streamd.tools.alerts.methods import FORECAST
from streamd.tools.fleets.fleet import RecordedFleet
from tests.support.alert_rig import FIRST_STEP, AlertRig
from tests.support.contracts import make_contract
from tests.support.state_files import opened

CONTRACT = make_contract()
RULE = {"target": "cpu", "above": 90.0, "for": 2, "min_rows": 3}
SILENT_SECONDS = 3 * CONTRACT.step_seconds
STEPS = 60


def make_tops(seed: int) -> np.ndarray:
    """Make the last value of the forecast of each step, in runs of alike ones, NaN for a step without a row."""
    random = np.random.default_rng(seed)
    values = random.choice([95.0, 89.0, 50.0, np.nan], STEPS, p=[0.4, 0.15, 0.3, 0.15])
    return np.repeat(values, random.integers(1, 6, STEPS))[:STEPS]


def run_network(inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Make the forecasts of `post_forecast` from the newest value of `cpu`, a number for a window without one too."""
    cpu = inputs["encoder_cont"][..., 0]
    newest = CONTRACT.context_length - 1 - np.isfinite(cpu)[:, ::-1].argmax(axis=1)
    top = np.nan_to_num(cpu[np.arange(len(cpu)), newest], nan=95.0)
    curve = top[:, None] - 5.0 * np.arange(CONTRACT.horizon - 1, -1, -1)
    values = curve[:, :, None, None] + np.array([-10.0, 0.0, 10.0])
    return np.repeat(values, 2, axis=2).astype(np.float32)


def run_daemon(folder: Path, tops: np.ndarray) -> list[bool]:
    """Return whether the daemon's alert fires after each step."""
    firing = []
    with opened(folder) as state:
        rig = AlertRig(state, AlertLimits(silent_after_seconds=SILENT_SECONDS), r=RULE)
        for step, top in enumerate(tops.tolist()):
            rig.clock = float(step * CONTRACT.step_seconds)
            # Its thread looks for silent servers all the time, and so before a new forecast can come.
            for before in range(CONTRACT.step_seconds - 25, 0, -25):
                rig.evaluator.end_silent(rig.now, rig.clock - before)
            if not np.isnan(top):
                rows = tops[max(step + 1 - CONTRACT.context_length, 0) : step + 1]
                rig.steps["a"] = FIRST_STEP + step - 1
                rig.forecast("a", top, context=int(np.isfinite(rows).sum()))
                rig.evaluate()
            firing.append(any(alert.state is AlertState.FIRING for alert in rig.evaluator.active.values()))
    return firing


def run_backtest(series: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return whether the alert of a backtest on `series (steps, features)` fires from each origin on."""
    seen: list[Flags] = []

    def find_and_keep(*args: Any, **options: Any) -> Flags:
        seen.append(find_firing(*args, **options))
        return seen[-1]

    monkeypatch.setattr("streamd.tools.alerts.backtest.find_firing", find_and_keep)
    features = CONTRACT.features[: series.shape[1]]
    fleet = RecordedFleet(("a",), features, FIRST_STEP, series[None].astype(np.float32))
    plan = BacktestPlan(
        first=1,
        stop=len(series) + 1,
        min_context_rows=1,
        tolerance_seconds=0.0,
        gap_seconds=300.0,
        shortest_seconds=0.0,
        silent_after_seconds=SILENT_SECONDS,
    )
    rules = bind_alert_rules(AlertSettings(rules={"r": RULE}), CONTRACT)
    [scores] = AlertBacktest(FleetForecaster(fleet, CONTRACT, run_network), rules, plan).run()
    found: list[bool] = seen[0][:, 0].tolist()  # the cases of one rule begin with the forecast
    assert sum(found) == scores.methods[FORECAST].firing_steps
    return found


@pytest.mark.parametrize("seed", range(4))
def test_alerts_are_those_of_the_daemon(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tops = make_tops(seed)
    expected = run_daemon(tmp_path, tops)
    assert 5 < sum(expected) < STEPS - 5
    assert run_backtest(tops[:, None], monkeypatch) == expected


def test_an_alert_of_a_target_that_is_not_sent_any_more_ends_as_the_daemons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    length = CONTRACT.context_length
    series = np.ones((length + 12, 2))
    series[:, 0] = 95.0
    series[5 : length + 7, 0] = np.nan
    expected, window = [], series[:0, 0]
    with opened(tmp_path) as state:
        rig = AlertRig(state, r=RULE)
        for step, cpu in enumerate(series[:, 0]):
            window = series[max(step + 1 - length, 0) : step + 1, 0]
            values = {"mem": 1.0, "net": 1.0} | ({"cpu": cpu} if np.isfinite(cpu) else {})
            rig.steps["a"] = FIRST_STEP + step - 1
            rig.forecast("a", 95.0 if np.isfinite(window).any() else np.nan, context=len(window), values=values)
            rig.evaluate()
            expected.append(any(alert.state is AlertState.FIRING for alert in rig.evaluator.active.values()))
    assert expected == [2 < step < length + 4 or step > length + 7 for step in range(len(series))]
    assert run_backtest(series, monkeypatch) == expected
