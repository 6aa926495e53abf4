"""Simple forecasters to compare with, as the data pack's `baselines.py` defines them, for all windows at once.

This module scores nothing; `backtest` does.
"""

import warnings

import numpy as np

from streamd.tools.training.backtest import Backtest


def make_baseline_forecasts(backtest: Backtest) -> dict[str, np.ndarray]:
    """Return each baseline's forecasts, `(window, horizon, metric, quantile) float64`, in the order of the windows.

    `seasonal_naive_q` and `window24h_q` see the last day, and the former also its errors on the training days;
    `timeofday7d_q` sees the last seven days.
    """
    names = ("last_value", "seasonal_naive", "seasonal_naive_q", "window24h_q", "timeofday7d_q")
    contract, fleet = backtest.contract, backtest.fleet
    shape = (len(backtest.windows), contract.horizon, len(backtest.scored), len(contract.quantiles))
    found = {name: np.zeros(shape) for name in names}
    day = contract.steps_per_day
    for j, metric in enumerate(backtest.scored):
        column = fleet.find_column(metric)
        filled = {m: carry_forward(fleet.values[m, :, column].astype(float)) for m in {m for m, _ in backtest.windows}}
        errors = {m: compute_seasonal_errors(fleet.values[m, :, column], filled[m], backtest) for m in filled}
        for i, (machine, origin) in enumerate(backtest.windows):
            history = filled[machine][:origin]
            season = history[-day:][: contract.horizon]
            found["last_value"][i, :, j] = history[-1]
            found["seasonal_naive"][i, :, j] = season[:, None]
            found["seasonal_naive_q"][i, :, j] = season[:, None] + errors[machine]
            found["window24h_q"][i, :, j] = np.quantile(history[-day:], contract.quantiles)
            found["timeofday7d_q"][i, :, j] = forecast_from_time_of_day(
                history, day, contract.horizon, contract.quantiles
            )
    return found


def carry_forward(x: np.ndarray) -> np.ndarray:
    """Replace missing samples by the last value before them; at the beginning, by the first value."""
    index = np.where(np.isnan(x), 0, np.arange(len(x)))
    filled = x[np.maximum.accumulate(index)]
    first = np.flatnonzero(~np.isnan(x))
    return np.asarray(np.where(np.isnan(filled), x[first[0]] if len(first) else 0.0, filled))


def compute_seasonal_errors(series: np.ndarray, filled: np.ndarray, backtest: Backtest) -> np.ndarray:
    """Return quantiles of the seasonal naive forecast's errors on the training days, `(horizon, quantile)`."""
    contract = backtest.contract
    end, day, horizon = backtest.fleet.splits["train"][1], contract.steps_per_day, contract.horizon
    train = series[:end].astype(float)
    origins = np.arange(day, end - horizon, 37)
    if len(origins) < 20:
        return np.zeros((horizon, len(contract.quantiles)))
    ahead = origins[:, None] + np.arange(horizon)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy warns of a step at which all errors are missing.
        errors = np.nanquantile(train[ahead] - train[ahead - day], contract.quantiles, axis=0)
    return np.asarray(np.nan_to_num(errors).T)


def forecast_from_time_of_day(history: np.ndarray, day: int, horizon: int, quantiles: tuple[float, ...]) -> np.ndarray:
    """Return quantiles of up to seven days before, within half an hour of the same time, `(horizon, quantile)`."""
    days = min(7, (len(history) - 6) // day)
    offset = np.arange(horizon)[None, None, :] + np.arange(-6, 7)[None, :, None]
    index = np.clip(len(history) - day * np.arange(1, days + 1)[:, None, None] + offset, 0, len(history) - 1)
    return np.asarray(np.quantile(history[index].reshape(-1, horizon), quantiles, axis=0).T)
