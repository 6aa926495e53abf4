"""Baselines of a backtest, scored once, and the best of them: what a model is compared with.

This module runs no model.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from streamd.tools.training.backtest import Backtest
from streamd.tools.training.baselines import make_baseline_forecasts
from streamd.tools.training.scores import BacktestScores, average_known

WINDOW_QUANTILES = "window_q"
SEVEN_DAYS = ("timeofday7d_q",)
"""The baselines that see more than the context."""

KINDS = {
    "window_q": "window",
    "timeofday7d_q": "week",
    "seasonal_naive": "yesterday",
    "seasonal_naive_q": "yesterday",
    "last_value": "last",
}
"""What each baseline repeats."""

NOISE_MARGIN = 1.01
"""On noise about a level, the quantiles of the window lose at most this multiple of what the best baseline does: the
same hours of seven days are fewer samples of the same noise."""

NOISE_COPY = 2.0
"""On noise about a level, copying one value of the past loses at least this multiple of what the window's quantiles do
(2.3 to 2.7 on generated noise of all kinds; less where a value says more of the next ones than the window does)."""


@dataclass(kw_only=True)
class BaselineScores:
    """The scores of the baselines in one backtest."""

    backtest: Backtest
    scores: dict[str, BacktestScores]

    @classmethod
    def score_baselines(cls, backtest: Backtest, context_rows: int | None = None) -> "BaselineScores":
        """Score the baselines that see this many rows; by default the whole context, then those of seven days too."""
        found = make_baseline_forecasts(backtest, context_rows)
        scores = {name: backtest.score_forecasts(forecasts) for name, forecasts in found.items()}
        return cls(backtest=backtest, scores=scores)

    def find_best(self, chosen: np.ndarray | None = None, *, week: bool | None = None) -> tuple[str, float]:
        """Return the name of the baseline with the least nPL, and its nPL.

        `chosen` are the windows and metrics that count, `(window, metric) bool`. With `week` only those compete that
        see seven days, without it only those that see no more than the context, and with `None` all.
        """
        names = [n for n in self.scores if week is None or (n in SEVEN_DAYS) == week]
        totals = {n: self.scores[n].compute_totals(chosen)["nPL"] for n in names}
        totals = {n: t for n, t in totals.items() if np.isfinite(t)} or dict.fromkeys(names, float("nan"))
        return min(totals.items(), key=lambda item: item[1]) if totals else ("", float("nan"))

    def compare(self, loss: float, chosen: np.ndarray | None = None) -> dict[str, Any]:
        """Return the best baselines beside this nPL, and the nPL as a share of theirs."""
        found: dict[str, Any] = {}
        for key, week in (("24h", False), ("7d", True), ("best", None)):
            name, best = self.find_best(chosen, week=week)
            if np.isfinite(best):
                found[f"baseline_{key}"] = {"name": name, "nPL": best}
                found[f"ratio_{key}"] = divide(loss, best)
        return found


def group_series(comparisons: list[BaselineScores]) -> dict[str, np.ndarray]:
    """Return groups of series by what forecasts them best on earlier days, each `(machine, metric) bool`.

    1. `window`, `week`, `yesterday`, `last`: the kind of the baseline with the least loss.
    2. `noise`: those about a level, of which no past value says more than the whole window does.
    """
    losses = {}
    for name in comparisons[0].scores:
        each = [c.scores[name].average_series(c.scores[name].normalized) for c in comparisons]
        mean = average_known(np.stack(each), 0)
        losses[name] = np.where(np.isnan(mean), np.inf, mean)
    stacked = np.stack(list(losses.values()))
    kinds = np.array([KINDS[name] for name in losses])
    best = np.where(np.isfinite(stacked).any(axis=0), kinds[stacked.argmin(axis=0)], "")
    found = {kind: best == kind for kind in dict.fromkeys(KINDS.values())}
    window = losses[WINDOW_QUANTILES]
    copied = np.minimum(losses["last_value"], losses["seasonal_naive"])
    is_known = np.isfinite(window) & (window > 0)
    found["noise"] = is_known & (window <= NOISE_MARGIN * stacked.min(axis=0)) & (copied >= NOISE_COPY * window)
    return found


def find_weekend(backtest: Backtest) -> np.ndarray:
    """Return which windows have the middle of their horizon on a Saturday or Sunday (UTC), `(window,) bool`."""
    machine, origin = np.array(backtest.windows).T
    middle = origin + backtest.contract.horizon // 2
    day = (backtest.fleet.begins[machine] + middle * backtest.fleet.step_seconds) // 86_400
    return np.asarray((day + 3) % 7 >= 5)  # The epoch began on a Thursday.


def divide(loss: float, other: float) -> float:
    """Return a ratio of two losses with four digits; NaN if the other is 0 or unknown."""
    return round(loss / other, 4) if other > 0 else float("nan")
