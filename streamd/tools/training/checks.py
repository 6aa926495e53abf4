"""Scores a model under hardship: missing rows, absent features, short contexts, and constant series.

This module only alters inputs; `backtest` computes the scores.
"""

import numpy as np

from streamd.core.contract import CALENDAR_FEATURES
from streamd.tools.networks.contract import NetworkContract
from streamd.tools.training.backtest import Backtest, Predict
from streamd.tools.training.fleet import TrainingFleet, is_left_out


def measure_hardship(backtest: Backtest, predict: Predict, batch: int = 128, seed: int = 7) -> dict[str, float]:
    """Return the nPL, and its ratio under each hardship (1.1 is a tenth worse); only reported metrics are scored."""
    whole = backtest.score_forecasts(backtest.run_forecasts(predict, batch)).make_table().set_index("metric").nPL
    found = {"nPL": round(float(whole["ALL"]), 5)}
    for share in (0.25, 0.5):
        rng = np.random.default_rng(seed)

        def rows(past: np.ndarray, share: float = share, rng: np.random.Generator = rng) -> np.ndarray:
            return np.where(rng.random((*past.shape[:2], 1)) < share, np.float32(np.nan), past)

        scores = backtest.score_forecasts(backtest.run_forecasts(predict, batch, rows))
        found[f"rows_missing_{share:.0%}"] = round(float(scores.compute_totals()["nPL"] / whole["ALL"]), 4)
    for steps in (144, 96, 48, 24):

        def short(past: np.ndarray, steps: int = steps) -> np.ndarray:
            past = past.copy()
            past[:, :-steps] = np.nan
            return past

        scores = backtest.score_forecasts(backtest.run_forecasts(predict, batch, short))
        found[f"context_{steps}"] = round(float(scores.compute_totals()["nPL"] / whole["ALL"]), 4)
    found["half_of_features"] = round(_measure_half_of_features(backtest, predict, batch, whole), 4)
    return found


def _measure_half_of_features(backtest: Backtest, predict: Predict, batch: int, whole: dict[str, float]) -> float:
    """Return the mean ratio of the nPL when each half of the features is absent in turn; scores the other half."""
    features = list(backtest.contract.features)
    ratios = []
    for parity in (0, 1):
        absent = [i for i in range(len(features)) if i % 2 == parity]
        left = {m: t for m, t in backtest.scored.items() if features.index(t) not in absent}
        part = Backtest(backtest.fleet, backtest.contract, split=backtest.split, stride=backtest.stride, scored=left)
        part.windows = backtest.windows

        def silence(past: np.ndarray, absent: list[int] = absent) -> np.ndarray:
            past = past.copy()
            past[:, :, absent] = np.nan
            return past

        table = part.score_forecasts(part.run_forecasts(predict, batch, silence)).make_table().set_index("metric").nPL
        ratios += [float(table[metric] / whole[metric]) for metric in left]
    return float(np.mean(ratios))


def measure_constant_error(contract: NetworkContract, predict: Predict) -> float:
    """Return the largest relative deviation of a forecast from the value of a constant window, for many magnitudes."""
    values = np.array([0.0, 1e-6, 0.5, 1.0, 42.0, 99.9, 4096.0, 1e9, 3.7e12, -5.0], np.float32)
    feed = make_empty_inputs(contract, len(values))
    feed["encoder_cont"][:] = values[:, None, None]
    out = predict(feed)
    wide = values[:, None, None, None]
    return float((np.abs(out - wide) / np.maximum(np.abs(wide), 1e-9)).max())


def make_empty_inputs(contract: NetworkContract, batch: int) -> dict[str, np.ndarray]:
    """Return inputs of the right shapes: zeros, and the calendar of a Monday at midnight."""
    future = np.zeros((batch, contract.horizon, CALENDAR_FEATURES), np.float32)
    future[..., 1::2] = 1.0
    return {
        "encoder_cont": np.zeros((batch, contract.context_length, len(contract.features)), np.float32),
        "encoder_cat": np.zeros((batch, contract.context_length, 2), np.int32),
        "decoder_cont": future,
        "decoder_cat": np.zeros((batch, contract.horizon, 2), np.int32),
    }


def score_fleets(
    fleets: list[TrainingFleet], contract: NetworkContract, predict: Predict, mapping: dict[str, int], every: int = 5
) -> dict[str, dict[str, float]]:
    """Return all scores of one model on the test splits of the fleets, as `training_info.json` has them.

    Servers are unknown to the model (id 0), except in the scores `<fleet>_named`. `<fleet>_every_fifth` has the scores
    of the machines that training may leave out.
    """
    found: dict[str, dict[str, float]] = {}
    for fleet in fleets:
        backtest = Backtest(fleet, contract)
        found[fleet.name] = _score(backtest, predict) | measure_hardship(backtest, predict)
        if mapping:
            named = Backtest(fleet, contract, mapping=mapping)
            found[f"{fleet.name}_named"] = _score(named, predict) | measure_hardship(named, predict)
        fifth = [i for i in range(len(fleet.machines)) if is_left_out(i, every)]
        part = Backtest(fleet, contract, machines=fifth)
        found[f"{fleet.name}_every_fifth"] = _score(part, predict)
    found["constants"] = {"largest_relative_error": measure_constant_error(contract, predict)}
    return found


def _score(backtest: Backtest, predict: Predict) -> dict[str, float]:
    return backtest.score_forecasts(backtest.run_forecasts(predict)).compute_totals()
