"""Tests `streamd/tools/training/noise.py`: generated series without a pattern."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("pandas")

from streamd.tools.training.backtest import Backtest
from streamd.tools.training.baselines import make_baseline_forecasts
from streamd.tools.training.noise import MACHINES_PER_KIND, NOISES, make_noise_fleet


@pytest.fixture(scope="module")
def noise() -> Any:
    from streamd.tools.networks.contract import NetworkContract

    return make_noise_fleet(NetworkContract())


def test_there_are_machines_of_each_kind_and_a_series_of_each_target(noise: Any, contract: Any) -> None:
    kinds = [name.partition("-")[0] for name in noise.machines]
    assert {kind: kinds.count(kind) for kind in kinds} == dict.fromkeys(NOISES, MACHINES_PER_KIND)
    assert tuple(noise.columns) == contract.targets
    assert np.isfinite(noise.values).all()
    assert (noise.values.std(axis=1) > 0).all()


def test_it_is_the_same_for_the_same_seed(contract: Any, noise: Any) -> None:
    np.testing.assert_array_equal(make_noise_fleet(contract).values, noise.values)
    assert (make_noise_fleet(contract, 12).values != noise.values).mean() > 0.5


def test_percentages_stay_below_their_limit(noise: Any, contract: Any) -> None:
    assert noise.values[..., contract.percent].max() < 100
    assert noise.values[..., [not p for p in contract.percent]].max() > 1e6


def test_no_series_has_a_pattern_so_that_the_quantiles_of_a_window_are_the_best_baseline(
    noise: Any, contract: Any
) -> None:
    backtest = Backtest(noise, contract, stride=420)
    scores = {n: backtest.score_forecasts(f) for n, f in make_baseline_forecasts(backtest).items()}
    kinds = np.array([noise.machines[m].partition("-")[0] for m, _ in backtest.windows])
    for kind in NOISES:
        chosen = np.broadcast_to((kinds == kind)[:, None], backtest.scorable.shape)
        losses = {name: score.compute_totals(chosen)["nPL"] for name, score in scores.items()}
        assert min(losses, key=lambda name: losses[name]) == "window_q", (kind, losses)
