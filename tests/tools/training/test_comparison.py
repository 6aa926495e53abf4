"""Tests `streamd/tools/training/comparison.py`: the best baseline, and groups of series by what forecasts them best."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("pandas")

from streamd.tools.training.backtest import Backtest
from streamd.tools.training.comparison import BaselineScores, divide, find_weekend, group_series


@pytest.fixture
def mixed(fleet: Any) -> Any:
    """Return the fleet with other series: of a daily rhythm, of noise alone, and a random walk."""
    rng = np.random.default_rng(2)
    fleet.values[:, :, 1] = 5 + rng.standard_normal(fleet.values.shape[:2])
    fleet.values[:, :, 2] = 100 + np.cumsum(rng.standard_normal(fleet.values.shape[:2]), axis=1)
    return fleet


def test_the_best_baseline_is_found_for_all_and_for_chosen_series(mixed: Any, contract: Any) -> None:
    comparison = BaselineScores.score_baselines(Backtest(mixed, contract))
    only = {j: np.arange(3)[None] == j for j in range(3)}
    shape = comparison.backtest.scorable.shape
    best = {j: comparison.find_best(np.broadcast_to(chosen, shape))[0] for j, chosen in only.items()}
    assert (best[0], best[1]) == ("timeofday7d_q", "window_q")
    assert comparison.find_best(np.broadcast_to(only[0], shape), week=False)[0] == "seasonal_naive_q"
    assert comparison.find_best(week=True)[0] == "timeofday7d_q"
    totals = {name: score.compute_totals()["nPL"] for name, score in comparison.scores.items()}
    assert comparison.find_best()[1] == min(totals.values())


def test_a_loss_stands_beside_the_best_of_a_day_and_of_a_week(mixed: Any, contract: Any) -> None:
    comparison = BaselineScores.score_baselines(Backtest(mixed, contract))
    found = comparison.compare(0.1)
    assert found["ratio_24h"] == pytest.approx(0.1 / found["baseline_24h"]["nPL"], abs=1e-4)
    assert found["baseline_best"]["nPL"] == min(found[f"baseline_{key}"]["nPL"] for key in ("24h", "7d"))


def test_few_rows_have_no_baseline_of_a_day(mixed: Any, contract: Any) -> None:
    comparison = BaselineScores.score_baselines(Backtest(mixed, contract), 48)
    assert set(comparison.scores) == {"last_value", "window_q"}
    assert "ratio_7d" not in comparison.compare(0.1)


def test_series_are_grouped_by_what_forecasts_them_best(mixed: Any, contract: Any) -> None:
    splits = (Backtest(mixed, contract, split=s) for s in ("train", "val"))
    groups = group_series([BaselineScores.score_baselines(b) for b in splits])
    assert groups["noise"][:, 1].all()
    assert not groups["noise"][:, 0].any()
    assert (groups["week"] | groups["yesterday"])[:, 0].all()
    kinds = np.stack([groups[kind] for kind in ("window", "week", "yesterday", "last")])
    assert (kinds.sum(axis=0) == 1).all(), "each series is in one group of a kind"


def test_a_series_without_windows_is_in_no_group(mixed: Any, contract: Any) -> None:
    mixed.values[2, :, 1] = 4.0
    groups = group_series([BaselineScores.score_baselines(Backtest(mixed, contract))])
    assert not any(members[2, 1] for members in groups.values())


def test_the_weekend_is_that_of_the_middle_of_the_horizon(fleet: Any, contract: Any) -> None:
    backtest = Backtest(fleet, contract, stride=12)
    weekend = find_weekend(backtest)
    day = 288
    for (_, origin), is_weekend in zip(backtest.windows, weekend, strict=True):
        assert is_weekend == ((origin + 48) // day in (5, 6)), "the fleet begins on a Monday"
    assert 0 < weekend.mean() < 1


def test_a_ratio_to_nothing_is_missing() -> None:
    assert divide(1.0, 4.0) == 0.25
    assert np.isnan(divide(1.0, 0.0))
    assert np.isnan(divide(1.0, float("nan")))
