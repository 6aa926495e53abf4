"""Tests `streamd/core/fleet/outer_screen.py`: it finds exactly the known forecasts of which a curve crosses."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.alerts.crossings import find_crossings
from streamd.core.alerts.rules import bind_alert_rules
from streamd.core.alerts.settings import AlertSettings
from streamd.core.fleet.outer_screen import OuterScreen
from tests.support.contracts import make_contract

CONTRACT = make_contract()
RULES = bind_alert_rules(
    AlertSettings(
        rules={
            "high": {"target": "cpu", "above": 4.0, "quantile": 0.1},
            "low": {"target": "cpu", "below": -4.0, "quantile": 0.9, "hysteresis": 3.0},
            "higher": {"target": "mem", "above": 7.0},
        }
    ),
    CONTRACT,
)
FORECASTS = st.lists(
    st.lists(st.integers(-9, 9), min_size=24, max_size=24), min_size=1, max_size=4
)  # of 2 targets, 4 steps and 3 quantiles


@given(FORECASTS, st.sampled_from([(), (0,), (1,), (0, 1)]))
def test_a_forecast_is_found_if_a_curve_of_the_range_crosses(numbers: list[list[int]], unknown: tuple[int]) -> None:
    forecasts = np.sort(np.array(numbers, np.float32).reshape(-1, *CONTRACT.forecast_shape), axis=-1)
    forecasts[:1, unknown] = np.nan
    near = OuterScreen(RULES).find_near(forecasts)
    for place, rule in enumerate(RULES):
        curves = forecasts[:, rule.target_index]
        crossings = [
            find_crossings(curves[:, :, quantile], rule.threshold, is_above=rule.is_above)
            for quantile in rule.range_indices
        ]
        np.testing.assert_array_equal(near[:, place], np.isfinite(crossings).any(axis=0))


def test_only_the_targets_of_rules_are_needed() -> None:
    screen = OuterScreen(RULES[:2])
    assert (screen.targets.tolist(), screen.target_places.tolist()) == ([1], [0, 0])
    assert OuterScreen([]).targets.tolist() == []
