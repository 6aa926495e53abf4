"""Widens the bands of a trained network: later days differ more from the training days, so its bands are too narrow.

This module changes one number of a network and never its weights.
"""

from typing import Any

import numpy as np
from torch import nn

from streamd.tools.networks.contract import NetworkContract
from streamd.tools.training.backtest import Backtest, Predict
from streamd.tools.training.fleet import TrainingFleet

AIM = 0.83
"""The coverage to reach on the validation days. It is above 0.80 because coverage falls with the distance from the
training days, and the validation days follow them directly."""


def calibrate(
    model: nn.Module, predict: Predict, fleets: list[TrainingFleet], contract: NetworkContract
) -> dict[str, Any]:
    """Set `model.order.widening` so that the band from 0.1 to 0.9 covers `AIM` of the validation days.

    The coverage is the mean over the fleets. There is one factor for all quantiles and fleets, between 1 and 1.4 in
    hundredths, and it is found without the test days. `predict` runs `model`. Returns the factor and the scores.
    """
    backtests = [Backtest(fleet, contract, split="val", stride=36) for fleet in fleets]
    forecasts = [b.run_forecasts(predict) for b in backtests]
    middle = contract.quantiles.index(0.5)
    for widening in np.arange(1.0, 1.405, 0.01):
        scores = {}
        for backtest, forecast in zip(backtests, forecasts, strict=True):
            median = forecast[..., middle : middle + 1]
            widened = median + widening * (forecast - median)
            scores[backtest.fleet.name] = backtest.score_forecasts(widened).compute_totals()
        if np.mean([s["cov80"] for s in scores.values()]) >= AIM:
            break
    model.order.widening = float(widening)  # type: ignore[union-attr]
    return {"widening": round(float(widening), 2), "validation": scores}
