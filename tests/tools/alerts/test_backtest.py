"""Tests `streamd/tools/alerts/backtest.py` and `methods.py`: rules over a recorded fleet, with simple networks."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from streamd.core.alerts.rules import bind_alert_rules
from streamd.core.alerts.settings import AlertSettings
from streamd.core.contract import ModelContract
from streamd.tools.alerts.backtest import AlertBacktest, BacktestPlan, RuleScores
from streamd.tools.alerts.forecaster import FleetForecaster
from streamd.tools.alerts.methods import FORECAST, LAST_VALUE, METHODS, find_fresh
from streamd.tools.fleets.fleet import RecordedFleet

STEP = 300
CONTRACT = ModelContract(
    ("cpu", "net"), ("net", "cpu"), (0.1, 0.5, 0.9), context_length=24, horizon=12, step_seconds=STEP
)
PLAN = BacktestPlan(
    first=24,
    stop=81,
    min_context_rows=2,
    tolerance_seconds=0.0,
    gap_seconds=2 * STEP,
    shortest_seconds=0.0,
    silent_after_seconds=3_600.0,
)
RULE: dict[str, Any] = {"target": "cpu", "above": 50.0, "within": 10.0 * STEP, "hysteresis": 1.0, "min_rows": 4}

Network = Callable[[dict[str, np.ndarray]], np.ndarray]


def make_network(slope: float) -> Network:
    """Make a network that goes on from the last known value of `cpu` by so much a step, with a band of 1 around it."""

    def run(inputs: dict[str, np.ndarray]) -> np.ndarray:
        cpu = inputs["encoder_cont"][:, :, 0]
        age = np.isfinite(cpu)[:, ::-1].argmax(axis=1)
        last = cpu[np.arange(len(cpu)), cpu.shape[1] - 1 - age]
        line = last[:, None] + slope * (age[:, None] + 1 + np.arange(CONTRACT.horizon))
        values = line[:, :, None, None] + np.array([-1.0, 0.0, 1.0])
        return np.repeat(values, 2, axis=2).astype(np.float32)

    return run


def replay(
    series: Sequence[Sequence[float] | np.ndarray] | np.ndarray,
    network: Network,
    *,
    plan: BacktestPlan = PLAN,
    rules: dict[str, dict[str, Any]] | None = None,
) -> list[RuleScores]:
    """Replay servers `s0`, `s1`, ... whose `cpu` is given, by default with one rule."""
    values = np.array(series, np.float32)[:, :, None]
    fleet = RecordedFleet(tuple(f"s{at}" for at in range(len(values))), ("cpu",), 1000, values)
    bound = bind_alert_rules(AlertSettings(rules=rules or {"cpu": RULE}), CONTRACT)
    return AlertBacktest(FleetForecaster(fleet, CONTRACT, network), bound, plan).run()


def make_waves(servers: int = 3, steps: int = 80, seed: int = 5) -> np.ndarray:
    random = np.random.default_rng(seed)
    steps_at = np.arange(steps)[None, :] / random.uniform(2, 6, servers)[:, None]
    return 45 + 8 * np.sin(steps_at) + random.normal(0, 1, (servers, steps))


def test_a_rise_that_is_foreseen_is_warned_of_as_early_as_the_rule_allows() -> None:
    [scores] = replay([list(range(80))], make_network(1.0))
    found = scores.methods[FORECAST]
    # The value of step 50 is 50. From origin 40 it lies ten steps ahead, and the second forecast in a row fires.
    assert (found.incidents, found.warned, found.alerts, found.right) == (1, 1, 1, 1)
    assert found.leads_seconds == [9.0 * STEP]
    assert (scores.ranges.inside, scores.ranges.has_end) == (1, 1)


def test_the_last_value_sees_the_same_rise_when_it_is_there() -> None:
    [scores] = replay([list(range(80))], make_network(1.0))
    assert scores.methods[LAST_VALUE].leads_seconds == [-2.0 * STEP]


def test_a_straight_line_foresees_a_straight_rise_as_well() -> None:
    [scores] = replay([list(range(80))], make_network(1.0))
    assert [scores.methods[name].leads_seconds for name in METHODS[2:]] == [[9.0 * STEP]] * 2


def test_a_network_that_repeats_the_last_value_alerts_exactly_as_the_last_value_does() -> None:
    [scores] = replay(make_waves(), make_network(0.0))
    assert scores.methods[FORECAST].alerts > 3
    assert scores.methods[FORECAST] == scores.methods[LAST_VALUE]


def test_the_quantile_of_a_rule_decides() -> None:
    rules = {f"q{level}": {**RULE, "quantile": level} for level in (0.1, 0.5, 0.9)}
    found = replay([list(range(80))], make_network(1.0), rules=rules)
    assert [each.methods[FORECAST].leads_seconds[0] / STEP for each in found] == [8.0, 9.0, 10.0]


def test_a_rule_is_for_its_own_servers_and_many_rules_do_not_disturb_each_other() -> None:
    waves = make_waves()
    [together] = replay(waves, make_network(0.0))
    alone = replay(
        waves, make_network(0.0), rules={f"r{at}": {**RULE, "servers": [f"s{at}"], "for": at + 1} for at in range(3)}
    )
    assert [each.servers for each in alone] == [1, 1, 1]
    assert sum(each.methods[FORECAST].incidents for each in alone) == together.methods[FORECAST].incidents


def test_a_rule_without_servers_that_have_its_target_is_not_judged() -> None:
    found = replay([list(range(80))], make_network(1.0), rules={"a": {**RULE, "target": "net"}, "b": RULE})
    assert [(each.servers, each.methods[FORECAST].alerts) for each in found] == [(0, 0), (1, 1)]


def test_a_window_with_few_rows_raises_no_alert() -> None:
    values = [np.nan] * 38 + list(range(38, 80))
    [scores] = replay([values], make_network(1.0), rules={"cpu": {**RULE, "min_rows": 8}})
    # Its eighth row is that of step 45, so the forecasts from the origins 46 and 47 fire.
    assert scores.methods[FORECAST].leads_seconds == [3.0 * STEP]


def test_missing_rows_make_no_forecast() -> None:
    values = np.arange(80.0)
    values[40:42] = np.nan
    [scores] = replay([values], make_network(1.0))
    assert scores.methods[FORECAST].leads_seconds == [7.0 * STEP]
    assert scores.methods[FORECAST].judged_steps == PLAN.stop - PLAN.first - 2


def test_a_forecast_that_is_not_finite_is_none() -> None:
    def run(inputs: dict[str, np.ndarray]) -> np.ndarray:
        return np.full((len(inputs["encoder_cont"]), CONTRACT.horizon, 2, 3), np.nan, np.float32)

    [scores] = replay([list(range(80))], run)
    assert (scores.methods[FORECAST].alerts, scores.methods[FORECAST].judged_steps) == (0, 0)


def test_between_sparse_origins_an_alert_stays_as_it_is() -> None:
    [scores] = replay([list(range(80))], make_network(1.0), plan=replace(PLAN, every=4))
    # Origins are 24, 28, ..., 40, 44: the second one that sees the crossing is 44.
    assert scores.methods[FORECAST].leads_seconds == [6.0 * STEP]


@pytest.mark.parametrize(("rows", "expected"), [(4, True), (3, True), (2, False)])
def test_a_value_is_fresh_among_the_newest_rows(rows: int, expected: bool) -> None:
    series = np.array([[1.0, np.nan, np.nan]], np.float32)
    assert find_fresh(series, np.array([3]), rows).tolist() == [[expected]]


def test_a_target_without_recent_values_raises_no_alert() -> None:
    values = np.full((1, 80, 2), np.nan, np.float32)
    values[0, :, 1] = 1.0  # rows come on, but the last value of `cpu`, which its forecasts repeat, is of step 29
    values[0, :30, 0] = [*range(25), *[60.0] * 5]
    fleet = RecordedFleet(("s0",), ("cpu", "net"), 1000, values)
    rules = bind_alert_rules(AlertSettings(rules={"cpu": {**RULE, "for": 4}}), CONTRACT)
    [scores] = AlertBacktest(FleetForecaster(fleet, CONTRACT, make_network(0.0)), rules, PLAN).run()
    # Four forecasts in a row: those from the origins 26 to 31 may raise an alert, the later ones not.
    assert scores.methods[FORECAST].alerts == 1
    rules = bind_alert_rules(AlertSettings(rules={"cpu": {**RULE, "for": 8}}), CONTRACT)
    [scores] = AlertBacktest(FleetForecaster(fleet, CONTRACT, make_network(0.0)), rules, PLAN).run()
    assert scores.methods[FORECAST].alerts == 0


def test_progress_reaches_the_number_of_forecasts() -> None:
    fleet = RecordedFleet(("s0",), ("cpu",), 1000, np.arange(80, dtype=np.float32)[None, :, None])
    rules = bind_alert_rules(AlertSettings(rules={"cpu": RULE}), CONTRACT)
    backtest = AlertBacktest(FleetForecaster(fleet, CONTRACT, make_network(1.0)), rules, PLAN)
    done: list[int] = []
    backtest.run(done.append)
    assert done[-1] == backtest.windows == PLAN.stop - PLAN.first


@pytest.mark.parametrize(("tolerance_steps", "is_right"), [(1, False), (2, True)])
def test_an_incident_may_begin_later_than_the_rule_says_by_the_tolerance(tolerance_steps: int, is_right: bool) -> None:
    # Forecasts are 3 too high, so that the alert fires 12 steps before the incident, where the rule looks 10 ahead.
    plan = replace(PLAN, tolerance_seconds=float(tolerance_steps * STEP))
    [scores] = replay([list(range(80))], lambda inputs: make_network(1.0)(inputs) + np.float32(3), plan=plan)
    assert (scores.methods[FORECAST].right, scores.methods[FORECAST].wrong) == (is_right, not is_right)


@pytest.mark.parametrize(
    ("gap_steps", "shortest_steps", "expected"),
    [(2, 0, 2), (3, 0, 2), (4, 0, 1), (2, 2, 2), (2, 3, 0), (4, 7, 1)],
)
def test_the_plan_says_when_an_incident_is_over_and_how_long_one_is(
    gap_steps: int, shortest_steps: int, expected: int
) -> None:
    values = [40.0] * 50 + [60.0] * 2 + [40.0] * 3 + [60.0] * 2 + [40.0] * 23
    plan = replace(PLAN, gap_seconds=float(gap_steps * STEP), shortest_seconds=float(shortest_steps * STEP))
    [scores] = replay([values], make_network(0.0), plan=plan)
    assert scores.methods[FORECAST].incidents == expected


def test_a_server_that_falls_silent_has_no_alert_any_more() -> None:
    values = np.array([40.0] * 30 + [60.0] * 10 + [np.nan] * 40)
    [scores] = replay([values], make_network(0.0), plan=replace(PLAN, silent_after_seconds=5.0 * STEP))
    # It fires from origin 32, and its last forecast is that from origin 40.
    assert scores.methods[FORECAST].firing_steps == 45 - 32 + 1
