"""Stretches the bands of a trained network so that they hold what they say, by side and by how far ahead.

Later days differ more from the training days, so bands may be too narrow. This module changes the network's `Widening`
and none of its weights, and it looks at validation days only.
"""

from typing import Any

import numpy as np
from torch import from_numpy, nn

from streamd.tools.networks.contract import NetworkContract
from streamd.tools.networks.quantile_order import Widening
from streamd.tools.training.backtest import Backtest, Predict
from streamd.tools.training.fleet import TrainingFleet
from streamd.tools.training.scores import average_known

AIM = 0.815
"""The coverage to reach on the validation days. It is above 0.80 because coverage falls with the distance from the
training days, and the validation days follow them directly."""

FACTORS = np.round(np.arange(0.8, 1.505, 0.01), 2)
QUARTERS = 4
CALIBRATION_WINDOWS = 300


def calibrate(
    model: nn.Module, predict: Predict, fleets: list[TrainingFleet], contract: NetworkContract
) -> dict[str, Any]:
    """Set the factors of the network's `Widening` by the validation days, so that 0.1 to 0.9 covers `AIM` of them.

    There is one factor for each side of the median and each quarter of the horizon, the same for all quantiles of the
    side, so that their order cannot change; between the middles of the quarters it changes linearly. The shares beyond
    the band are means over the fleets; without a fleet, all factors are 1. `predict` runs `model`. Returns the factors
    and the scores with them.
    """
    backtests = [_make_backtest(fleet, contract) for fleet in fleets]
    backtests = [backtest for backtest in backtests if backtest.windows]
    chosen = np.ones((2, QUARTERS))
    if backtests:
        beyond = np.mean([measure_beyond(b, b.run_forecasts(predict)) for b in backtests], axis=0)
        chosen = choose_factors(beyond, (1 - AIM) / 2)
    set_widening(model, contract, chosen)
    scores = {b.fleet.name: b.score_forecasts(b.run_forecasts(predict)) for b in backtests}
    found = {
        name: {
            **s.compute_totals(),
            "by_quarter": np.round(average_known(s.compute_coverage_by_quarter(), 0), 4).tolist(),
        }
        for name, s in scores.items()
    }
    return {"below": chosen[0].tolist(), "above": chosen[1].tolist(), "validation": found}


def measure_beyond(backtest: Backtest, forecasts: np.ndarray) -> np.ndarray:
    """Return the share of values beyond the stretched band, `(side, quarter, factor)`; side 0 is below, 1 above."""
    levels = list(backtest.contract.quantiles)
    actual = np.where(backtest.scorable[:, None], backtest.read_actual(backtest.windows), np.nan)
    scores = backtest.score_forecasts(forecasts)
    median = forecasts[..., levels.index(0.5)]
    found = np.zeros((2, QUARTERS, len(FACTORS)))
    for side, (level, sign) in enumerate(((0.1, -1.0), (0.9, 1.0))):
        distance = sign * (actual - median)
        reach = sign * (forecasts[..., levels.index(level)] - median)
        for k, factor in enumerate(FACTORS):
            outside = np.where(np.isnan(actual), np.nan, distance > factor * reach)
            parts = np.array_split(outside, QUARTERS, axis=1)
            quarters = np.stack([average_known(part, 1) for part in parts], axis=-1)
            found[side, :, k] = average_known(scores.average_metrics(quarters), 0)
    return found


def choose_factors(beyond: np.ndarray, aim: float) -> np.ndarray:
    """Return the least factor of each side and quarter with at most `aim` beyond, `(side, quarter)`, or the largest."""
    reached = beyond <= aim
    return np.asarray(np.where(reached.any(axis=-1), FACTORS[reached.argmax(axis=-1)], FACTORS[-1]))


def set_widening(model: nn.Module, contract: NetworkContract, factors: np.ndarray) -> None:
    """Write factors `(side, quarter)` into the table of the network's only `Widening`."""
    middles = (np.arange(QUARTERS) + 0.5) * contract.horizon / QUARTERS
    sides = [np.interp(np.arange(contract.horizon) + 0.5, middles, side) for side in factors]
    middle = contract.quantiles.index(0.5)
    rows = [sides[0]] * middle + [np.ones(contract.horizon)] + [sides[1]] * (len(contract.quantiles) - middle - 1)
    (widening,) = (module for module in model.modules() if isinstance(module, Widening))
    widening.factors.copy_(from_numpy(np.stack(rows)))


def _make_backtest(fleet: TrainingFleet, contract: NetworkContract) -> Backtest:
    most = max(2, -(-CALIBRATION_WINDOWS // len(fleet.machines)))
    return Backtest(fleet, contract, split="val", stride=36, windows_per_machine=most)
