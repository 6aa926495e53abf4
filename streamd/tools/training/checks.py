"""The backtest under hardship: missing rows, absent features, short contexts, and the constant series."""

from __future__ import annotations

import numpy as np

from streamd.tools.networks.contract import NetworkContract
from streamd.tools.training.backtest import Backtest, Predict
from streamd.tools.training.fleet import TrainingFleet


def measure_hardship(backtest: Backtest, predict: Predict, batch: int = 128, seed: int = 7) -> dict[str, float]:
    """nPL as it is, and how much worse (1.1: a tenth) under each hardship; a metric is scored if it was reported."""
    whole = backtest.score(backtest.forecasts(predict, batch)).table().set_index("metric").nPL
    found = {"nPL": round(float(whole["ALL"]), 5)}
    for share in (0.25, 0.5):
        rng = np.random.default_rng(seed)

        def rows(past: np.ndarray, share: float = share, rng: np.random.Generator = rng) -> np.ndarray:
            return np.where(rng.random((*past.shape[:2], 1)) < share, np.float32(np.nan), past)

        scores = backtest.score(backtest.forecasts(predict, batch, rows))
        found[f"rows_missing_{share:.0%}"] = round(float(scores.total()["nPL"] / whole["ALL"]), 4)
    for steps in (144, 96, 48, 24):

        def short(past: np.ndarray, steps: int = steps) -> np.ndarray:
            past = past.copy()
            past[:, :-steps] = np.nan
            return past

        scores = backtest.score(backtest.forecasts(predict, batch, short))
        found[f"context_{steps}"] = round(float(scores.total()["nPL"] / whole["ALL"]), 4)
    found["half_of_features"] = round(_half(backtest, predict, batch, whole), 4)
    return found


def _half(backtest: Backtest, predict: Predict, batch: int, whole: dict[str, float]) -> float:
    """Each half of the features absent in turn; a metric is scored where it is among those left."""
    features = list(backtest.contract.features)
    ratios = []
    for parity in (0, 1):
        absent = [i for i in range(len(features)) if i % 2 == parity]
        left = {m: t for m, t in backtest.scored.items() if features.index(t) not in absent}
        part = Backtest(backtest.fleet, backtest.contract, backtest.split, backtest.stride, None, left)
        part.windows = backtest.windows

        def silence(past: np.ndarray, absent: list[int] = absent) -> np.ndarray:
            past = past.copy()
            past[:, :, absent] = np.nan
            return past

        table = part.score(part.forecasts(predict, batch, silence)).table().set_index("metric").nPL
        ratios += [float(table[metric] / whole[metric]) for metric in left]
    return float(np.mean(ratios))


def measure_constant_error(contract: NetworkContract, predict: Predict) -> float:
    """Largest relative deviation of a forecast from a constant window's value, over many magnitudes."""
    values = np.array([0.0, 1e-6, 0.5, 1.0, 42.0, 99.9, 4096.0, 1e9, 3.7e12, -5.0], np.float32)
    feed = make_empty_inputs(contract, len(values))
    feed["encoder_cont"][:] = values[:, None, None]
    out = predict(feed)
    wide = values[:, None, None, None]
    return float((np.abs(out - wide) / np.maximum(np.abs(wide), 1e-9)).max())


def make_empty_inputs(contract: NetworkContract, batch: int) -> dict[str, np.ndarray]:
    """Inputs of the right shapes: zeros, midnight of a Monday."""
    future = np.zeros((batch, contract.horizon, contract.calendar), np.float32)
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
    """All figures of one model on the fleets' test splits, as training writes them down.

    Servers are unknown to the model (id 0) but in the figures `<fleet>_named`.
    """
    found: dict[str, dict[str, float]] = {}
    for fleet in fleets:
        backtest = Backtest(fleet, contract)
        found[fleet.name] = backtest.score(backtest.forecasts(predict)).total() | measure_hardship(backtest, predict)
        if mapping:
            named = Backtest(fleet, contract, mapping=mapping)
            found[f"{fleet.name}_named"] = named.score(named.forecasts(predict)).total() | measure_hardship(
                named, predict
            )
        fifth = [i for i in range(len(fleet.machines)) if i % every == every - 1]
        part = Backtest(fleet, contract, machines=fifth)
        found[f"{fleet.name}_every_fifth"] = part.score(part.forecasts(predict)).total()
    found["constants"] = {"largest_relative_error": measure_constant_error(contract, predict)}
    return found
