"""Scores of forecasts for all windows at once, and their averages: windows to series, to metrics, to one number.

This module runs nothing and chooses no windows; `backtest` does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Window = tuple[int, int]
"""The position of a machine, and an origin: a step of its fleet."""

TOTALS = ("nPL", "nMAE", "cov80", "wQL")


@dataclass(kw_only=True)
class ScoredWindows:
    """The windows of a backtest, as far as their scores depend on them."""

    machine: np.ndarray
    """`(window,) int`: the position of the machine of each window."""

    machines: int
    """The number of machines."""

    metrics: list[str]
    scales: np.ndarray
    """`(window, metric) float64`: the deviation of the series of each window, NaN if it is flat or empty."""

    counts: np.ndarray
    """`(window, metric) bool`: whether a window counts for a metric."""


@dataclass(kw_only=True)
class BacktestScores:
    """The scores of one forecaster in a backtest. A value that does not count is NaN, in each array."""

    windows: ScoredWindows
    loss: np.ndarray
    """`(window, horizon, metric) float64`: the mean pinball loss over the quantiles."""

    inside: np.ndarray
    """`(window, horizon, metric) float64`: 1 if the value is in the band from 0.1 to 0.9, else 0."""

    error: np.ndarray
    """`(window, horizon, metric) float64`: the absolute error of the median."""

    level: np.ndarray
    """`(window, horizon, metric) float64`: the magnitude of the value."""

    @property
    def normalized(self) -> np.ndarray:
        """Return the nPL of each window, `(window, metric)`."""
        return average_known(self.loss, 1) / self.windows.scales

    def average_series(self, values: np.ndarray, chosen: np.ndarray | None = None) -> np.ndarray:
        """Return the means of `(window, metric, ...)` over the windows of each series, `(machine, metric, ...)`.

        NaN does not count, nor do the windows and metrics that `chosen`, `(window, metric) bool`, leaves out.
        """
        counts = self.windows.counts if chosen is None else self.windows.counts & chosen
        known = ~np.isnan(values) & counts.reshape(*counts.shape, *(1,) * (values.ndim - 2))
        member = (np.arange(self.windows.machines)[:, None] == self.windows.machine).astype(float)
        total = np.tensordot(member, np.where(known, values, 0.0), axes=1)
        count = np.tensordot(member, known.astype(float), axes=1)
        return np.where(count > 0, total / np.maximum(count, 1.0), np.nan)

    def average_metrics(self, values: np.ndarray, chosen: np.ndarray | None = None) -> np.ndarray:
        """Return the means of `(window, metric, ...)` over the series of each metric, `(metric, ...)`."""
        return average_known(self.average_series(values, chosen), 0)

    def score_metrics(self, chosen: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Return nPL, nMAE, cov80 and wQL of each metric, `(metric,)`, NaN if no window of it counts."""
        scales = self.windows.scales
        counts = self.windows.counts if chosen is None else self.windows.counts & chosen
        known = ~np.isnan(self.loss) & counts[:, None]
        loss, level = (np.where(known, a, 0.0).sum(axis=(0, 1)) for a in (self.loss, self.level))
        return {
            "nPL": self.average_metrics(self.normalized, chosen),
            "nMAE": self.average_metrics(average_known(self.error, 1) / scales, chosen),
            "cov80": self.average_metrics(average_known(self.inside, 1), chosen),
            "wQL": np.where(level > 0, 2 * loss / np.maximum(level, 1e-300), np.nan),
        }

    def compute_totals(self, chosen: np.ndarray | None = None) -> dict[str, float]:
        """Return the means over the metrics: nPL, nMAE, cov80 and wQL."""
        found = self.score_metrics(chosen)
        return {name: round(float(average_known(found[name], 0)), 5) for name in TOTALS}

    def compute_loss_by_horizon(self) -> np.ndarray:
        """Return the nPL of each step ahead, `(horizon,)`, averaged over the windows of a series, then over series."""
        each = self.loss.transpose(0, 2, 1) / self.windows.scales[..., None]
        return average_known(self.average_metrics(each), 0)

    def compute_coverage_by_quarter(self) -> np.ndarray:
        """Return the coverage of the band from 0.1 to 0.9 in each quarter of the horizon, `(metric, 4)`."""
        quarters = np.array_split(self.inside, 4, axis=1)
        return self.average_metrics(np.stack([average_known(q, 1) for q in quarters], axis=-1))

    def make_table(self) -> Any:
        """Return one row for each metric and, last, `ALL`: nPL, nPL_median, nMAE, cov80, wQL, series, windows.

        It is a table of pandas.
        """
        import pandas as pd

        metrics = np.array(self.windows.metrics)
        series = self.average_series(self.normalized)
        rows = (~np.isnan(series)).any(axis=0)
        found = {"metric": metrics, **self.score_metrics()}
        found["nPL_median"] = np.array(
            [np.median(s[~np.isnan(s)]) if len(s[~np.isnan(s)]) else np.nan for s in series.T]
        )
        table = pd.DataFrame({k: v[rows] for k, v in found.items()})
        table.insert(2, "nPL_median", table.pop("nPL_median"))
        every = table.drop(columns="metric").mean().to_frame().T.assign(metric="ALL")
        table["series"] = (~np.isnan(series)).sum(axis=0)[rows]
        table["windows"] = self.windows.counts.sum(axis=0)[rows]
        every["series"], every["windows"] = table["series"].sum(), table["windows"].sum()
        return pd.concat([table, every[table.columns]], ignore_index=True)


def score_windows(
    windows: ScoredWindows, forecasts: np.ndarray, actual: np.ndarray, quantiles: Sequence[float]
) -> BacktestScores:
    """Return the scores of `(window, horizon, metric, quantile)` beside `(window, horizon, metric)`, NaN if missing."""
    levels = list(quantiles)
    wide = np.where(windows.counts[:, None], actual.astype(np.float64), np.nan)
    loss = np.zeros_like(wide)
    for k, level in enumerate(levels):
        over = wide - forecasts[..., k]
        loss += np.maximum(level * over, (level - 1) * over)
    low, high = forecasts[..., levels.index(0.1)], forecasts[..., levels.index(0.9)]
    inside = np.where(np.isnan(wide), np.nan, (wide >= low) & (wide <= high))
    return BacktestScores(
        windows=windows,
        loss=loss / len(levels),
        inside=inside,
        error=np.abs(wide - forecasts[..., levels.index(0.5)]),
        level=np.abs(wide),
    )


def compute_scale(series: np.ndarray) -> float:
    """Return the deviation of a whole series, or NaN if it is flat or empty."""
    known = series[~np.isnan(series)].astype(np.float64)
    if not len(known):
        return float("nan")
    scale = float(known.std())
    return scale if np.isfinite(scale) and scale >= 1e-6 * max(1.0, float(np.abs(known).max())) else float("nan")


def average_known(values: np.ndarray, axis: int) -> np.ndarray:
    """Return the mean over an axis without what is NaN; NaN if all of it is."""
    known = ~np.isnan(values)
    count = known.sum(axis=axis)
    total = np.where(known, values, 0.0).sum(axis=axis)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))
