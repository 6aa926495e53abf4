"""Tests `streamd/core/alerts/evaluation.py`: breaching, clear and between; ranges; and the screen of many rules."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.core.alerts.evaluation import RuleScreen, evaluate_rule
from streamd.core.alerts.rules import AlertRule, bind_alert_rules
from streamd.core.alerts.settings import AlertSettings
from tests.support.contracts import make_contract

CONTRACT = make_contract()

Forecasts = npt.NDArray[np.float32]


def bind(**tables: dict[str, object]) -> tuple[AlertRule, ...]:
    """Return rules by name; each has a target of `cpu` unless it has another one."""
    return bind_alert_rules(
        AlertSettings(rules={name: {"target": "cpu", **table} for name, table in tables.items()}), CONTRACT
    )


def flat(*curve: float) -> Forecasts:
    """Return one forecast of a target whose three quantiles are the curve, less and plus 2."""
    return (np.array(curve, np.float32)[:, None] + np.array([-2, 0, 2], np.float32))[None]


RULE = bind(r={"above": 90.0, "within": "10m", "hysteresis": 5.0})[0]


def test_a_curve_that_crosses_in_time_is_breaching() -> None:
    found = evaluate_rule(RULE, flat(80, 85, 95, 99))
    assert (found.breaching.tolist(), found.clear.tolist()) == ([True], [False])


def test_a_curve_that_crosses_later_is_neither_breaching_nor_in_the_band() -> None:
    found = evaluate_rule(RULE, flat(50, 50, 60, 99))
    assert (found.breaching.tolist(), found.clear.tolist()) == ([False], [True])


def test_a_curve_that_crosses_at_the_last_moment_is_breaching() -> None:
    assert evaluate_rule(RULE, flat(80, 80, 90, 80)).breaching.tolist() == [True]


def test_a_curve_in_the_hysteresis_band_is_neither() -> None:
    found = evaluate_rule(RULE, flat(80, 86, 80, 80))
    assert (found.breaching.tolist(), found.clear.tolist()) == ([False], [False])


def test_the_range_is_that_of_the_upper_the_middle_and_the_lower_quantile() -> None:
    found = evaluate_rule(RULE, flat(84, 88, 92, 96))
    assert found.crossings.tolist() == [[1.0, 1.5, 2.0]]


def test_the_range_reaches_beyond_within_to_the_end_of_the_horizon() -> None:
    found = evaluate_rule(RULE, flat(80, 80, 90, 90))
    assert found.crossings.tolist() == [[1.8, 2.0, np.inf]]


def test_a_rule_below_has_the_lower_quantile_first() -> None:
    rule = bind(r={"below": 10.0})[0]
    found = evaluate_rule(rule, flat(16, 12, 8, 4))
    assert found.breaching.tolist() == [True]
    assert found.crossings.tolist() == [[1.0, 1.5, 2.0]]


@pytest.mark.parametrize("side", ["above", "below"])
def test_an_unknown_target_is_neither_breaching_nor_clear(side: str) -> None:
    (rule,) = bind(r={side: 0.0})
    known = flat(50, 50, 50, 50) if side == "above" else flat(-50, -50, -50, -50)
    found = evaluate_rule(rule, np.concatenate([np.full_like(known, np.nan), known]))
    assert found.unknown.tolist() == [True, False]
    assert (found.breaching.tolist(), found.clear.tolist()) == ([False, True], [False, False])
    assert found.crossings[0].tolist() == [np.inf] * 3


VALUES = st.integers(-3, 3).map(float)


def draw_forecasts(seed: int) -> Forecasts:
    """Return forecasts `(n, targets, horizon, quantiles)`: half of them meet the thresholds exactly, half do not.

    In some, targets are unknown.
    """
    random = np.random.default_rng(seed)
    shape = (int(random.integers(1, 6)), *CONTRACT.forecast_shape)
    values = random.integers(-4, 5, shape).astype(np.float32)
    if not seed % 2:
        values += random.normal(size=shape).astype(np.float32)
    values[random.random(shape[:2]) < (0.3 if seed % 3 == 0 else 0.0)] = np.nan
    return values


FORECASTS = st.integers(0, 2**32).map(draw_forecasts)
TABLES = st.lists(
    st.fixed_dictionaries(
        {
            "target": st.sampled_from(["cpu", "mem"]),
            "quantile": st.sampled_from([0.1, 0.5, 0.9]),
            "within": st.sampled_from([100, 300, 450, 1_200]),
            "hysteresis": st.sampled_from([0.0, 1.0, 30.0]),
            "side": st.sampled_from(["above", "below"]),
            "threshold": VALUES,
        }
    ),
    min_size=1,
    max_size=4,
)


def bind_tables(tables: list[dict[str, object]]) -> tuple[AlertRule, ...]:
    """Return the rules of drawn tables."""
    rules = {}
    for number, drawn in enumerate(tables):
        table = {key: value for key, value in drawn.items() if key not in ("side", "threshold")}
        rules[f"r{number}"] = {**table, str(drawn["side"]): drawn["threshold"]}
    return bind(**rules)


@given(forecasts=FORECASTS, tables=TABLES)
@settings(max_examples=60)
def test_the_screen_leaves_out_only_what_is_clear_or_unknown(
    forecasts: Forecasts, tables: list[dict[str, object]]
) -> None:
    rules = bind_tables(tables)
    screen = RuleScreen(rules)
    needed = forecasts[:, screen.targets]
    near = screen.find_near(needed)
    for place, rule in enumerate(rules):
        found = evaluate_rule(rule, needed[:, screen.target_places[place]])
        assert (found.clear | found.unknown)[~near[:, place]].all()
        assert not (found.unknown & near[:, place]).any()


@given(forecasts=FORECASTS, tables=TABLES)
@settings(max_examples=60)
def test_verdicts_exclude_each_other_and_ranges_are_in_order(
    forecasts: Forecasts, tables: list[dict[str, object]]
) -> None:
    forecasts = np.sort(forecasts, axis=-1)
    for rule in bind_tables(tables):
        found = evaluate_rule(rule, forecasts[:, rule.target_index])
        assert (found.breaching.astype(int) + found.clear + found.unknown).max() <= 1
        earliest, likely, latest = found.crossings.T
        assert (earliest <= likely).all()
        assert (likely <= latest).all()


def test_a_screen_without_rules_needs_no_target() -> None:
    screen = RuleScreen(())
    assert screen.targets.tolist() == []
    assert screen.find_near(np.empty((3, 0, 4, 3), np.float32)).shape == (3, 0)
