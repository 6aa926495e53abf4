"""Draws a backtest as one picture: comparison of forecasters, loss over the horizon, calibration, example forecasts.

This module computes no scores; `backtest` does.
"""

from pathlib import Path
from typing import Any

import numpy as np

from streamd.tools.training.backtest import Backtest
from streamd.tools.training.scores import BacktestScores

INK, SOFT, BLUE, ORANGE, GRID = "#1c2733", "#6b7785", "#2266aa", "#d97706", "#e3e7ec"
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
}


def draw_backtest(
    path: Path, title: str, backtest: Backtest, scores: dict[str, BacktestScores], forecasts: np.ndarray
) -> None:
    """Write a PNG. `scores` are by forecaster, the model first; `forecasts` are the model's."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(STYLE)
    figure, axes = plt.subplots(2, 3, figsize=(14, 7.6), constrained_layout=True)
    figure.suptitle(title, fontsize=13, fontweight="bold", x=0.01, ha="left")
    _draw_comparison(axes[0, 0], scores)
    _draw_loss_by_horizon(axes[0, 1], scores, backtest.contract.step_seconds / 3600)
    model = next(iter(scores.values()))
    _draw_calibration(axes[0, 2], backtest, model, forecasts)
    for axis, (i, j) in zip(axes[1], _choose_examples(model), strict=True):
        _draw_example(axis, backtest, forecasts, i, j)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_comparison(axis: Any, scores: dict[str, BacktestScores]) -> None:
    names = sorted(scores, key=lambda n: -scores[n].compute_totals()["nPL"])
    values = [scores[n].compute_totals()["nPL"] for n in names]
    first = next(iter(scores))
    bars = axis.barh(names, values, color=[BLUE if n == first else GRID for n in names])
    axis.bar_label(bars, fmt="%.4f", padding=3)
    axis.set(title="nPL (less is better)", xlim=(0, max(values) * 1.18))
    axis.grid(axis="y", visible=False)


def _draw_loss_by_horizon(axis: Any, scores: dict[str, BacktestScores], hour: float) -> None:
    first = next(iter(scores))
    for name, score in scores.items():
        if name in ("last_value", "seasonal_naive"):
            continue
        curve = score.compute_loss_by_horizon()
        hours = (np.arange(len(curve)) + 1) * hour
        look = {"lw": 2.2, "color": BLUE} if name == first else {"lw": 1.1, "alpha": 0.7}
        axis.plot(hours, curve, label=name, **look)
    axis.set(title="nPL over the horizon", xlabel="hours ahead", ylim=(0, None))
    axis.legend(frameon=False, fontsize=8)


def _draw_calibration(axis: Any, backtest: Backtest, score: BacktestScores, forecasts: np.ndarray) -> None:
    """Draw the share of actual values under each quantile."""
    levels = np.array(backtest.contract.quantiles)
    actual = backtest.read_actual(backtest.windows)
    known = ~np.isnan(actual)
    below = [(actual <= forecasts[..., k])[known].mean() for k in range(len(levels))]
    axis.plot([0, 1], [0, 1], color=SOFT, lw=1, ls="--")
    axis.plot(levels, below, color=BLUE, marker="o", lw=2)
    axis.set(title=f"calibration (0.1-0.9 holds {score.compute_totals()['cov80']:.1%})", xlabel="quantile level",
             ylabel="share of values under it", xlim=(0, 1), ylim=(0, 1))  # fmt: skip


def _choose_examples(score: BacktestScores) -> list[tuple[int, int]]:
    """Return three windows, a good, a usual and a bad one, as `(window, metric)`."""
    windows, metrics = np.nonzero(score.windows.counts)
    order = np.argsort(score.normalized[windows, metrics], kind="stable")
    picks = [order[int(len(order) * share)] for share in (0.3, 0.6, 0.9)]
    return [(int(windows[i]), int(metrics[i])) for i in picks]


def _draw_example(axis: Any, backtest: Backtest, forecasts: np.ndarray, i: int, j: int) -> None:
    machine, origin = backtest.windows[i]
    metric = list(backtest.scored)[j]
    contract = backtest.contract
    hour = contract.step_seconds / 3600
    series = backtest.fleet.values[machine, :, backtest.fleet.find_column(metric)]
    past, ahead = np.arange(-contract.context_length, 0) * hour, np.arange(contract.horizon) * hour
    axis.plot(past, series[origin - contract.context_length : origin], color=SOFT, lw=0.9)
    axis.plot(ahead, series[origin : origin + contract.horizon], color=ORANGE, lw=1.1, label="actual")
    count = forecasts.shape[-1]
    for k in range(count // 2):
        axis.fill_between(ahead, forecasts[i, :, j, k], forecasts[i, :, j, count - 1 - k], color=BLUE, alpha=0.18, lw=0)
    axis.plot(ahead, forecasts[i, :, j, count // 2], color=BLUE, lw=1.6, label="median")
    axis.axvline(0, color=SOFT, lw=0.8)
    axis.set(title=f"{backtest.fleet.machines[machine]} {metric}", xlabel="hours from the origin")
    axis.legend(frameon=False, fontsize=8, loc="upper left")
