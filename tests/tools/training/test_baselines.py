"""Tests `streamd/tools/training/baselines.py`: each forecaster sees what it may see, and forecasts what it says."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("pandas", reason="the extra [train] is not installed")

from streamd.tools.training.backtest import Backtest
from streamd.tools.training.baselines import carry_forward, compute_known_quantiles, make_baseline_forecasts

NAMES = ["last_value", "window_q", "seasonal_naive", "seasonal_naive_q", "timeofday7d_q"]
CELLS = st.floats(-1e6, 1e6, width=32) | st.just(float("nan"))


def find_series(backtest: Backtest, window: int, metric: int) -> tuple[np.ndarray, int]:
    """Return the series of a window and its origin."""
    machine, origin = backtest.windows[window]
    return backtest.fleet.values[machine, :, backtest.columns[metric]].astype(float), origin


@given(st.lists(st.lists(CELLS, min_size=5, max_size=5), min_size=1, max_size=4))
def test_quantiles_are_those_of_what_is_known(rows: list[list[float]]) -> None:
    levels = (0.02, 0.1, 0.5, 0.98)
    found = compute_known_quantiles(np.array(rows, np.float32), levels)
    for row, quantiles in zip(rows, found, strict=True):
        known = np.array([v for v in row if v == v])
        expected = np.quantile(known, levels) if len(known) else np.zeros(4)
        np.testing.assert_allclose(quantiles, expected, rtol=1e-12, atol=1e-9)


def test_a_missing_value_is_the_one_before_it_and_the_first_at_the_beginning() -> None:
    nan = np.nan
    found = carry_forward(np.array([[nan, 1, nan, nan, 2], [nan] * 5]))
    np.testing.assert_array_equal(found, [[1, 1, 1, 1, 2], [0] * 5])


@pytest.mark.parametrize("step_seconds", [300, 3600])
def test_nothing_after_the_origin_matters(fleet: Any, contract: Any, step_seconds: int) -> None:
    fleet.step_seconds = step_seconds
    backtest = Backtest(fleet, contract)
    backtest.windows = backtest.windows[:1]
    before = make_baseline_forecasts(backtest)
    assert sorted(before) == sorted(NAMES)
    fleet.values[:, backtest.windows[0][1] :] = 1e6
    for name, forecasts in make_baseline_forecasts(backtest).items():
        np.testing.assert_array_equal(forecasts, before[name], err_msg=name)


@pytest.mark.parametrize("rows", [12, 48, 288])
def test_no_older_row_matters_to_what_sees_the_context(fleet: Any, contract: Any, rows: int) -> None:
    backtest = Backtest(fleet, contract)
    backtest.windows = backtest.windows[:1]
    before = make_baseline_forecasts(backtest, rows)
    names = [n for n in before if n not in ("seasonal_naive_q", "timeofday7d_q")]
    assert names == (NAMES[:3] if rows == 288 else NAMES[:2])
    fleet.values[:, : backtest.windows[0][1] - rows] = 1e6
    after = make_baseline_forecasts(backtest, rows)
    for name in names:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)


def test_the_quantiles_of_the_window_are_those_of_its_rows(fleet: Any, contract: Any) -> None:
    backtest = Backtest(fleet, contract)
    found = make_baseline_forecasts(backtest, 48)["window_q"]
    series, origin = find_series(backtest, 7, 2)
    expected = np.quantile(series[origin - 48 : origin], contract.quantiles)
    np.testing.assert_allclose(found[7, :, 2], np.tile(expected, (96, 1)), rtol=1e-12)


def test_the_seasonal_forecast_is_yesterday_with_its_errors_on_training_days(fleet: Any, contract: Any) -> None:
    backtest = Backtest(fleet, contract)
    found = make_baseline_forecasts(backtest)
    series, origin = find_series(backtest, 20, 1)
    yesterday = series[origin - 288 : origin - 192]
    np.testing.assert_array_equal(found["seasonal_naive"][20, :, 1, 3], yesterday)
    first = np.arange(288, 1152 - 96, 37)
    errors = np.array([series[first + h] - series[first + h - 288] for h in range(96)])
    expected = yesterday[:, None] + np.quantile(errors, contract.quantiles, axis=1).T
    np.testing.assert_allclose(found["seasonal_naive_q"][20, :, 1], expected, rtol=1e-12)


def test_the_same_hours_are_those_of_seven_days(fleet: Any, contract: Any) -> None:
    backtest = Backtest(fleet, contract)
    last = len(backtest.windows) - 1
    series, origin = find_series(backtest, last, 0)
    assert origin > 7 * 288 + 6
    found = make_baseline_forecasts(backtest)["timeofday7d_q"][last, :, 0]
    for step in (0, 95):
        near = [series[origin + step - 288 * day + shift] for day in range(1, 8) for shift in range(-6, 7)]
        np.testing.assert_allclose(found[step], np.quantile(near, contract.quantiles), rtol=1e-12)


def test_missing_values_are_left_out(fleet: Any, contract: Any) -> None:
    fleet.values[:, 1500:1600, 0] = np.nan
    backtest = Backtest(fleet, contract)
    window = next(i for i, (_, origin) in enumerate(backtest.windows) if origin == 1620)
    series, origin = find_series(backtest, window, 0)
    expected = np.nanquantile(series[origin - 288 : origin], contract.quantiles)
    found = make_baseline_forecasts(backtest)
    np.testing.assert_allclose(found["window_q"][window, 5, 0], expected, rtol=1e-12)
    assert all(np.isfinite(f).all() for f in found.values())


def test_a_machine_without_training_days_has_no_errors_to_add(fleet: Any, contract: Any) -> None:
    fleet.values[2, :1152] = np.nan
    backtest = Backtest(fleet, contract)
    found = make_baseline_forecasts(backtest)
    mine = [i for i, (machine, _) in enumerate(backtest.windows) if machine == 2]
    assert mine
    np.testing.assert_array_equal(found["seasonal_naive_q"][mine], found["seasonal_naive"][mine])
    assert (found["seasonal_naive_q"] != found["seasonal_naive"]).any()


def test_what_lies_before_the_first_step_is_left_out(fleet: Any, contract: Any) -> None:
    backtest = Backtest(fleet, contract)
    series, origin = find_series(backtest, 0, 0)
    assert origin == 5 * 288
    near = [
        series[origin - 288 * day + shift] for day in range(1, 6) for shift in range(-6, 7) if day < 5 or shift >= 0
    ]
    found = make_baseline_forecasts(backtest)["timeofday7d_q"][0, 0, 0]
    np.testing.assert_allclose(found, np.quantile(near, contract.quantiles), rtol=1e-12)


def test_few_training_days_are_too_few_for_errors(fleet: Any, contract: Any) -> None:
    fleet.values[2, : 1152 - 3 * 288] = np.nan
    backtest = Backtest(fleet, contract)
    found = make_baseline_forecasts(backtest)
    mine = [i for i, (machine, _) in enumerate(backtest.windows) if machine == 2]
    np.testing.assert_array_equal(found["seasonal_naive_q"][mine], found["seasonal_naive"][mine])


def test_a_day_of_an_hourly_set_has_24_steps(fleet: Any, contract: Any) -> None:
    fleet.step_seconds = 3600
    backtest = Backtest(fleet, contract)
    found = make_baseline_forecasts(backtest, 48)
    series, origin = find_series(backtest, 3, 0)
    expected = np.tile(series[origin - 24 : origin], 4)
    np.testing.assert_array_equal(found["seasonal_naive"][3, :, 0, 0], expected)
    whole = make_baseline_forecasts(backtest)["timeofday7d_q"][3, 30, 0]
    near = [series[origin + 6 - 24 * day + shift] for day in range(1, 8) for shift in (-1, 0, 1)]
    np.testing.assert_allclose(whole, np.quantile(near, contract.quantiles), rtol=1e-12)
