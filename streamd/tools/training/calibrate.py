"""Calibration after training: later days are less alike than the days trained on, so bands come out narrow."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from streamd.tools.networks.contract import NetworkContract
from streamd.tools.training.backtest import Backtest, Predict
from streamd.tools.training.fleet import TrainingFleet

AIM = 0.83
"""Above 0.80, since validation follows right after the training days and bands lose coverage with distance."""


def calibrate(
    model: nn.Module, predict: Predict, fleets: list[TrainingFleet], contract: NetworkContract
) -> dict[str, Any]:
    """Set `model.order.widening` so that the 0.1-0.9 band holds `AIM` of the validation days, mean of the fleets.

    `predict` runs `model`. One factor for all quantiles and fleets, between 1 and 1.4 in hundredths, found
    without the test days. Returns what was found.
    """
    backtests = [Backtest(fleet, contract, "val", stride=36) for fleet in fleets]
    forecasts = [b.forecasts(predict) for b in backtests]
    middle = contract.quantiles.index(0.5)
    for widening in np.arange(1.0, 1.405, 0.01):
        scores = {}
        for backtest, forecast in zip(backtests, forecasts, strict=True):
            median = forecast[..., middle : middle + 1]
            scores[backtest.fleet.name] = backtest.score(median + widening * (forecast - median)).total()
        if np.mean([s["cov80"] for s in scores.values()]) >= AIM:
            break
    model.order.widening = float(widening)  # type: ignore[union-attr]
    return {"widening": round(float(widening), 2), "validation": scores}
