"""Simple forecasters to compare with, as the data pack's `baselines.py` defines them, for all windows at once.

This module scores nothing; `backtest` does.
"""

from collections.abc import Sequence

import numpy as np

from streamd.core.calendar import DAY_SECONDS
from streamd.tools.training.backtest import Backtest

ERROR_STRIDE = 37
"""Steps between two training origins at which the errors of the seasonal naive forecast are taken."""

LEAST_ERRORS = 20
CHUNK = 256
"""Windows that are computed together, so that a few tens of megabytes suffice."""

SEASON_DAYS = 7
HALF_WIDTH_SECONDS = 1800


def make_baseline_forecasts(backtest: Backtest, context_rows: int | None = None) -> dict[str, np.ndarray]:
    """Return each baseline's forecasts, `(window, horizon, metric, quantile) float64`, in the order of the windows.

    1. `last_value` and `window_q`, the quantiles of the window, see the newest `context_rows` rows, by default the
       whole context.
    2. `seasonal_naive`, and `seasonal_naive_q` that adds its errors on the training days, are there if these rows have
       a day.
    3. `timeofday7d_q` sees the last seven days; it is there for the whole context.

    What is missing is left out. A forecaster that has seen no value forecasts 0.
    """
    contract = backtest.contract
    rows = contract.context_length if context_rows is None else context_rows
    quantiles, horizon = contract.quantiles, contract.horizon
    shape = (len(backtest.windows), horizon, len(backtest.columns), len(quantiles))
    day = DAY_SECONDS // backtest.fleet.step_seconds
    past = read_past(backtest, rows)
    filled = carry_forward(past)
    spread = compute_known_quantiles(past, quantiles)
    found = {
        "last_value": np.broadcast_to(filled[:, None, :, -1:].astype(np.float64), shape),
        "window_q": np.broadcast_to(spread[:, None], shape),
    }
    if rows >= day:
        season = filled[..., rows - day + np.arange(horizon) % day].transpose(0, 2, 1)[..., None].astype(np.float64)
        machine = np.array([m for m, _ in backtest.windows], int)
        found["seasonal_naive"] = np.broadcast_to(season, shape)
        found["seasonal_naive_q"] = season + compute_seasonal_errors(backtest, day)[machine].transpose(0, 2, 1, 3)
    if rows >= contract.context_length:
        found["timeofday7d_q"] = forecast_from_time_of_day(backtest, day)
    return found


def read_past(backtest: Backtest, rows: int) -> np.ndarray:
    """Return the newest rows before each origin, `(window, metric, row) float32`, NaN where missing."""
    return _gather(backtest, np.arange(-rows, 0)[None, :])[:, :, 0]


def carry_forward(x: np.ndarray) -> np.ndarray:
    """Replace missing samples along the last axis by the value before them, at the beginning by the first value.

    If all are missing, they are 0.
    """
    known = ~np.isnan(x)
    index = np.where(known, np.arange(x.shape[-1]), known.argmax(axis=-1, keepdims=True))
    return np.nan_to_num(np.take_along_axis(x, np.maximum.accumulate(index, axis=-1), axis=-1))


def compute_known_quantiles(samples: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """Return the quantiles of what is known along the last axis, `(..., level) float64`, 0 if nothing is.

    They are interpolated as those of `numpy.quantile`.
    """
    ordered = np.sort(samples, axis=-1)  # NaN comes last.
    last = samples.shape[-1] - 1 - np.isnan(ordered).sum(axis=-1, keepdims=True)
    position = np.maximum(last, 0) * np.asarray(levels)
    low = np.floor(position).astype(np.intp)
    lower = np.take_along_axis(ordered, low, axis=-1).astype(np.float64)
    upper = np.take_along_axis(ordered, np.ceil(position).astype(np.intp), axis=-1).astype(np.float64)
    return np.where(last >= 0, lower + (upper - lower) * (position - low), 0.0)


def compute_seasonal_errors(backtest: Backtest, day: int) -> np.ndarray:
    """Return quantiles of the seasonal naive forecast's errors on the training days.

    They are `(machine, metric, horizon, quantile)`, and 0 for a machine with few training days.
    """
    fleet, horizon = backtest.fleet, backtest.contract.horizon
    first, end = fleet.splits["train"]
    shape = (len(fleet.machines), len(backtest.columns), horizon, len(backtest.contract.quantiles))
    origins = np.arange(first + day, end - horizon, ERROR_STRIDE)
    if len(origins) < LEAST_ERRORS:
        return np.zeros(shape)
    ahead = origins + np.arange(horizon)[:, None]
    before = origins + np.arange(horizon)[:, None] % day - day
    found = np.zeros(shape)
    for m, values in enumerate(fleet.values):
        for j, column in enumerate(backtest.columns):
            series = values[:end, column].astype(np.float64)
            errors = series[ahead] - series[before]
            few = (~np.isnan(errors)).sum(axis=1) < LEAST_ERRORS
            found[m, j] = compute_known_quantiles(errors, backtest.contract.quantiles)
            found[m, j, few] = 0.0
    return found


def forecast_from_time_of_day(backtest: Backtest, day: int) -> np.ndarray:
    """Return quantiles of up to seven days before, within half an hour of the same time.

    They are `(window, horizon, metric, quantile) float64`.
    """
    horizon, half = backtest.contract.horizon, max(1, HALF_WIDTH_SECONDS // backtest.fleet.step_seconds)
    days = day * np.arange(1, SEASON_DAYS + 1)[:, None] - np.arange(-half, half + 1)
    ahead = np.arange(horizon) % day
    steps = ahead[:, None] - days.ravel()
    steps[steps >= 0] -= day  # What lies after the origin is not known yet.
    shape = (len(backtest.windows), horizon, len(backtest.columns), len(backtest.contract.quantiles))
    found = np.zeros(shape)
    for i in range(0, len(backtest.windows), CHUNK):
        samples = _gather(backtest, steps, slice(i, i + CHUNK))
        quantiles = compute_known_quantiles(samples, backtest.contract.quantiles)
        found[i : i + CHUNK] = quantiles.transpose(0, 2, 1, 3)
    return found


def _gather(backtest: Backtest, steps: np.ndarray, chosen: slice = slice(None)) -> np.ndarray:
    """Return the values at these steps, `(row, sample)`, counted from the origins of the chosen windows.

    They are `(window, metric, row, sample) float32`; what lies before the fleet's first step is missing.
    """
    windows = np.array(backtest.windows[chosen], int).reshape(-1, 2)
    index = windows[:, 1, None, None] + steps
    parts = []
    for column in backtest.columns:
        part = backtest.fleet.values[windows[:, 0, None, None], index.clip(min=0), column]
        part[index < 0] = np.nan
        parts.append(part)
    return np.stack(parts, axis=1) if parts else np.zeros((len(windows), 0, *steps.shape), np.float32)
