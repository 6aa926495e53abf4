"""Tests `streamd/tools/training/scores.py`: the scores of all windows at once, beside those of a loop over windows."""

import itertools
import warnings
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pandas")

from streamd.tools.training.backtest import Backtest
from streamd.tools.training.scores import average_known, compute_scale


@pytest.fixture
def backtest(fleet: Any, contract: Any) -> Any:
    """Return a backtest with gaps of all lengths: in contexts, in horizons, and a flat series."""
    rng = np.random.default_rng(4)
    for machine in range(5):
        for _ in range(6):
            start = int(rng.integers(1200, 2250))
            fleet.values[machine, start : start + int(rng.integers(1, 250)), rng.integers(0, 3)] = np.nan
    fleet.values[4, :, 2] = 3.0
    return Backtest(fleet, contract)


@pytest.fixture
def forecasts(backtest: Any) -> Any:
    actual = np.nan_to_num(backtest.read_actual(backtest.windows))
    noise = np.random.default_rng(5).standard_normal((*actual.shape, 7)) * 0.3
    return np.sort(actual[..., None] + noise, axis=-1).astype(np.float32)


def score_in_loops(backtest: Any, forecasts: Any) -> dict[str, dict[str, float]]:
    """Return nPL, nMAE, cov80 and wQL of each metric: of each window, then each series, then the metric."""
    levels = backtest.contract.quantiles
    found = {}
    for j, metric in enumerate(backtest.scored):
        series: dict[int, list[tuple[float, ...]]] = {}
        for i, (machine, origin) in enumerate(backtest.windows):
            values = backtest.fleet.values[machine, :, j].astype(float)
            past, actual = values[origin - 288 : origin], values[origin : origin + 96]
            scale = np.nanstd(values)
            known = ~np.isnan(actual)
            if scale < 1e-6 or np.isnan(past).mean() > 0.5 or known.mean() < 0.5:
                continue
            f, a = forecasts[i, known, j].astype(float), actual[known]
            loss = np.mean([max(q * (x - p), (q - 1) * (x - p)) for x, row in zip(a, f, strict=True)
                            for q, p in zip(levels, row, strict=True)])  # fmt: skip
            inside = np.mean((a >= f[:, 1]) & (a <= f[:, 5]))
            error = np.mean(np.abs(a - f[:, 3]))
            row = (loss / scale, error / scale, inside, loss * len(a), np.abs(a).sum())
            series.setdefault(machine, []).append(row)
        means = np.array([np.mean(rows, axis=0) for rows in series.values()])
        sums = np.sum([np.sum(rows, axis=0) for rows in series.values()], axis=0)
        found[metric] = dict(zip(("nPL", "nMAE", "cov80"), means.mean(axis=0)[:3], strict=True))
        found[metric]["wQL"] = 2 * sums[3] / sums[4]
    return found


def test_all_scores_are_those_of_a_loop_over_windows(backtest: Any, forecasts: Any) -> None:
    expected = score_in_loops(backtest, forecasts)
    scores = backtest.score_forecasts(forecasts)
    table = scores.make_table().set_index("metric")
    for metric, name in itertools.product(expected, ("nPL", "nMAE", "cov80", "wQL")):
        assert table.loc[metric, name] == pytest.approx(expected[metric][name], rel=1e-9), (metric, name)
    totals = scores.compute_totals()
    assert totals["nPL"] == pytest.approx(np.mean([e["nPL"] for e in expected.values()]), abs=1e-5)
    assert table.loc["ALL", "windows"] == backtest.scorable.sum()


def test_the_loss_by_horizon_has_the_mean_of_the_loss(backtest: Any, forecasts: Any) -> None:
    fleet = backtest.fleet
    fleet.values[:] = np.nan_to_num(fleet.values, nan=2.0)
    whole = Backtest(fleet, backtest.contract)
    forecasts = np.random.default_rng(6).standard_normal((len(whole.windows), 96, 3, 7))
    scores = whole.score_forecasts(np.sort(forecasts, axis=-1))
    assert scores.compute_loss_by_horizon().mean() == pytest.approx(scores.compute_totals()["nPL"], abs=1e-5)


def test_coverage_is_told_apart_by_quarter_and_metric(fleet: Any, contract: Any) -> None:
    fleet.values[:] = np.nan_to_num(fleet.values, nan=2.0)
    backtest = Backtest(fleet, contract)
    forecasts = backtest.read_actual(backtest.windows)[..., None].repeat(7, -1)
    forecasts[:, 24:48, 1] += 5.0
    found = backtest.score_forecasts(forecasts).compute_coverage_by_quarter()
    np.testing.assert_array_equal(found, [[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 1, 1]])


def test_only_chosen_windows_and_metrics_count(backtest: Any, forecasts: Any) -> None:
    scores = backtest.score_forecasts(forecasts)
    chosen = np.zeros_like(backtest.scorable)
    chosen[:, 1] = True
    assert scores.compute_totals(chosen)["nPL"] == pytest.approx(scores.score_metrics()["nPL"][1], abs=1e-5)
    assert np.isnan(scores.compute_totals(np.zeros_like(chosen))["nPL"])


def test_another_truth_can_be_scored(backtest: Any, forecasts: Any) -> None:
    actual = backtest.read_actual(backtest.windows)
    scores = backtest.score_forecasts((actual * 5)[..., None].repeat(7, -1), actual * 5)
    assert scores.compute_totals()["nPL"] == 0.0


def test_a_flat_or_empty_series_has_no_scale() -> None:
    assert np.isnan(compute_scale(np.full(9, 4.0, np.float32)))
    assert np.isnan(compute_scale(np.full(9, np.nan, np.float32)))
    assert compute_scale(np.array([1.0, np.nan, 3.0], np.float32)) == 1.0


def test_the_mean_of_nothing_is_missing_and_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = average_known(np.array([[np.nan, np.nan], [1.0, np.nan]]), 1)
    np.testing.assert_array_equal(found, [np.nan, 1.0])
