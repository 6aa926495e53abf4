"""A model under hardship: few known rows, missing rows, absent features, absurd values and surges.

Each figure stands beside the loss of the same windows without it, or beside the best baseline that sees the same rows.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from streamd.tools.training.alterations import (
    drop_rows,
    insert_absurd_value,
    keep_newest_rows,
    raise_newest_rows,
    silence_features,
)
from streamd.tools.training.backtest import Alter, Backtest, Predict
from streamd.tools.training.comparison import BaselineScores, divide

CONTEXTS = (12, 24, 48, 96, 144, 288)
"""The numbers of known rows of the curve."""

SHORT_ROWS = 48
"""The rows from which on the daemon forecasts, by default."""

MISSING_SHARES = (0.25, 0.5)
ABSURD_FACTORS = {"1e3": 1e3, "1e6": 1e6, "6e10": 6e10, "3e38": 3e38, "negative": -1e3}
SURGE_ROWS = (1, 2, 3, 6, 12)
SURGE_FACTORS = (5, 20)
HARDSHIP_SEED = 7


@dataclass
class Hardship:
    """The windows of one backtest with the baselines of short contexts, prepared once for any number of models."""

    backtest: Backtest
    batch: int = 128

    def __post_init__(self) -> None:
        whole = self.backtest.contract.context_length
        self.contexts = [rows for rows in CONTEXTS if rows < whole] + [whole]
        self.comparisons = {rows: BaselineScores.score_baselines(self.backtest, rows) for rows in self.contexts}

    def judge(self, predict: Predict) -> dict[str, Any]:
        """Return all figures; those of one name are ratios to the loss of the same windows (1.1 is a tenth worse)."""
        whole = self._measure(predict)
        missing = {
            f"{s:.0%}": divide(self._measure(predict, drop_rows(s, HARDSHIP_SEED)), whole) for s in MISSING_SHARES
        }
        return {
            "windows": len(self.backtest.windows),
            "nPL": whole,
            "context": {rows: self._judge_context(predict, rows, whole) for rows in self.contexts},
            "rows_missing": missing,
            "half_of_features": self._judge_half_of_features(predict),
            "absurd": self._judge_absurd_values(predict, whole),
            "surge": {f"{f}x_{n}": self._judge_surge(predict, f, n) for f in SURGE_FACTORS for n in SURGE_ROWS},
        }

    def _measure(self, predict: Predict, alter: Alter | None = None) -> float:
        forecasts = self.backtest.run_forecasts(predict, self.batch, alter)
        return self.backtest.score_forecasts(forecasts).compute_totals()["nPL"]

    def _judge_context(self, predict: Predict, rows: int, whole: float) -> dict[str, Any]:
        loss = self._measure(predict, keep_newest_rows(rows))
        name, best = self.comparisons[rows].find_best(week=False)
        beside = {"baseline": {"name": name, "nPL": best}, "ratio": divide(loss, best)}
        return {"nPL": loss, "times": divide(loss, whole), **beside}

    def _judge_absurd_values(self, predict: Predict, whole: float) -> dict[str, float]:
        """Return the ratio for each absurd value, in a random row of each feature and in the newest one."""
        found, length = {}, self.backtest.contract.context_length
        for name, factor in ABSURD_FACTORS.items():
            for place, last in (("anywhere", False), ("last", True)):
                loss = self._measure(predict, insert_absurd_value(factor, length, last=last, seed=HARDSHIP_SEED))
                found[f"{name}_{place}"] = divide(loss, whole)
        return found

    def _judge_surge(self, predict: Predict, factor: float, rows: int) -> dict[str, float]:
        """Return the loss when the newest rows and all that follow are `factor` times what they were."""
        forecasts = self.backtest.run_forecasts(predict, self.batch, raise_newest_rows(factor, rows))
        actual = self.backtest.read_actual(self.backtest.windows) * np.float32(factor)
        last = np.broadcast_to(read_newest_values(self.backtest)[:, None, :, None] * factor, forecasts.shape)
        loss, other = (self.backtest.score_forecasts(f, actual).compute_totals()["nPL"] for f in (forecasts, last))
        return {"nPL": loss, "ratio_last_value": divide(loss, other)}

    def _judge_half_of_features(self, predict: Predict) -> float:
        """Return the mean ratio when each half of the features was never sent; the other half is scored."""
        features = self.backtest.contract.features
        targets = list(self.backtest.scored.values())
        whole = self.backtest.score_forecasts(self.backtest.run_forecasts(predict, self.batch)).score_metrics()["nPL"]
        ratios = []
        for parity in (0, 1):
            absent = [i for i in range(len(features)) if i % 2 == parity]
            forecasts = self.backtest.run_forecasts(predict, self.batch, silence_features(absent))
            left = self.backtest.score_forecasts(forecasts).score_metrics()["nPL"]
            sent = [j for j, target in enumerate(targets) if features.index(target) not in absent]
            ratios += [left[j] / whole[j] for j in sent if whole[j] > 0]
        return round(float(np.mean(ratios)), 4) if ratios else float("nan")


def read_newest_values(backtest: Backtest) -> np.ndarray:
    """Return the newest known value of the context of each window and metric, `(window, metric)`; 0 without any."""
    columns = [backtest.contract.features.index(target) for target in backtest.scored.values()]
    history = backtest.read_history(backtest.windows)[:, -backtest.contract.context_length :][..., columns]
    newest = history.shape[1] - 1 - np.argmax(~np.isnan(history[:, ::-1]), axis=1)
    return np.asarray(np.nan_to_num(np.take_along_axis(history, newest[:, None], axis=1)[:, 0]))
