"""A week's memory from recorded rows: means of whole periods before the origin, as training and evaluation see it.

The daemon keeps the same means beside its windows. This module is pure NumPy; it reads no fleet.
"""

import numpy as np


def compute_memory(history: np.ndarray, phase: np.ndarray, length: int, period: int) -> np.ndarray:
    """Return the memory of windows, `(window, length, feature) float32`, oldest first, NaN where missing.

    `history` is `(window, step, feature)`, at least `(length + 1) * period` steps that end at the origin, NaN where
    missing; more steps are disregarded. `phase` is `(window,)`: the number of steps between the end of the last whole
    period and the origin, 0 to `period` - 1. Element `i` covers the `period` steps that end `(length - 1 - i) * period`
    steps before the origin: the mean of the two whole periods that it overlaps, each by its share of these steps.
    """
    count, _, features = history.shape
    found = np.full((count, length, features), np.nan, np.float32)
    for r in np.unique(phase):
        chosen = phase == r
        end = history.shape[1] - int(r)
        rows = history[chosen, end - length * period : end]
        means = compute_period_means(rows, period)
        found[chosen] = blend_periods(means, int(r), period)
    return found


def compute_period_means(rows: np.ndarray, period: int) -> np.ndarray:
    """Return the mean of each `period` steps of `(..., step, feature)`, float64, NaN where no step has a value."""
    *outer, steps, features = rows.shape
    parts = rows.reshape(*outer, steps // period, period, features).astype(np.float64)
    known = ~np.isnan(parts)
    count = known.sum(axis=-2)
    total = np.where(known, parts, 0.0).sum(axis=-2)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def blend_periods(means: np.ndarray, phase: int, period: int) -> np.ndarray:
    """Return the elements of the memory from the means of the last whole periods, `(..., length, feature)`.

    The period after the last whole one is not complete, so its mean is missing. Of the two means of an element, those
    count that are known and have a share.
    """
    following = np.concatenate([means[..., 1:, :], np.full_like(means[..., :1, :], np.nan)], axis=-2)
    first = np.where(np.isnan(means), 0.0, float(period - phase))
    second = np.where(np.isnan(following), 0.0, float(phase))
    weight = first + second
    total = np.nan_to_num(means) * first + np.nan_to_num(following) * second
    return np.asarray(np.where(weight > 0, total / np.maximum(weight, 1.0), np.nan))
