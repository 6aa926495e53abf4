"""Changes of what a server reported before the origin: hardships under which a model is judged.

Each function returns an `Alter` for a backtest. This module scores nothing.
"""

import numpy as np

from streamd.tools.training.backtest import Alter
from streamd.tools.training.scores import Window

LARGEST = 3e38
"""About the largest float32."""


def drop_rows(share: float, seed: int) -> Alter:
    """Return an alteration after which this share of the rows, chosen at random, is missing."""
    rng = np.random.default_rng(seed)

    def alter(history: np.ndarray, windows: list[Window]) -> np.ndarray:
        return np.where(rng.random((*history.shape[:2], 1)) < share, np.float32(np.nan), history)

    return alter


def keep_newest_rows(rows: int) -> Alter:
    """Return an alteration after which only the newest rows are known, as of a server that began to report."""

    def alter(history: np.ndarray, windows: list[Window]) -> np.ndarray:
        history = history.copy()
        history[:, :-rows] = np.nan
        return history

    return alter


def silence_features(positions: list[int]) -> Alter:
    """Return an alteration after which the features at these positions were never sent."""

    def alter(history: np.ndarray, windows: list[Window]) -> np.ndarray:
        history = history.copy()
        history[:, :, positions] = np.nan
        return history

    return alter


def insert_absurd_value(factor: float, context_length: int, *, last: bool, seed: int) -> Alter:
    """Return an alteration that puts one absurd value into the context of each feature of each window.

    It is `factor` times the largest magnitude of the context, in the newest row if `last`, else in a random one.
    """
    rng = np.random.default_rng(seed)

    def alter(history: np.ndarray, windows: list[Window]) -> np.ndarray:
        history = history.copy()
        context = history[:, -context_length:]
        known = ~np.isnan(context)
        level = np.where(known, np.abs(context), 0.0).max(axis=1).astype(np.float64)
        value = np.clip(factor * np.where(level > 0, level, 1.0), -LARGEST, LARGEST).astype(np.float32)
        row = rng.integers(0, context_length, value.shape)
        if last:
            row[:] = context_length - 1
        window, feature = np.nonzero(known.any(axis=1))
        context[window, row[window, feature], feature] = value[window, feature]
        return history

    return alter


def raise_newest_rows(factor: float, rows: int) -> Alter:
    """Return an alteration that multiplies the newest rows, as a surge that began so many steps before the origin."""

    def alter(history: np.ndarray, windows: list[Window]) -> np.ndarray:
        history = history.copy()
        history[:, -rows:] *= np.float32(factor)
        return history

    return alter
