"""The judgement of one model on many fleets: by set, by target, by quarter of the horizon, by group of series.

Each figure stands beside the best simple baseline that sees the same. This module measures and formats nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamd.tools.networks.contract import NetworkContract
from streamd.tools.training.alterations import keep_newest_rows
from streamd.tools.training.backtest import Backtest, Predict
from streamd.tools.training.checks import measure_constant_error
from streamd.tools.training.comparison import WINDOW_QUANTILES, BaselineScores, divide, find_weekend, group_series
from streamd.tools.training.fleet import TrainingFleet
from streamd.tools.training.hardship import SHORT_ROWS, Hardship
from streamd.tools.training.noise import NOISES, make_noise_fleet
from streamd.tools.training.scores import BacktestScores, average_known

MEMORY_DAYS = (0, 1, 2, 4, 7)
"""The days of memory whose worth is measured."""

WINDOWS_PER_FLEET = 480
HARD_WINDOWS = 120
EARLIER_WINDOWS_PER_MACHINE = 12


@dataclass(kw_only=True)
class FleetJudge:
    """The windows of one fleet with its baselines, prepared once for any number of models."""

    fleet: TrainingFleet
    contract: NetworkContract
    split: str = "test"
    windows_per_fleet: int | None = WINDOWS_PER_FLEET
    """About the most windows that are judged; all origins of every 5 hours if `None`."""

    machines: list[int] | None = None
    batch: int = 128

    def __post_init__(self) -> None:
        self.backtest = self._make_backtest(self.windows_per_fleet)
        self.comparison = BaselineScores.score_baselines(self.backtest)
        self.groups = self._group_series()

    def judge(self, predict: Predict) -> dict[str, Any]:
        """Return the figures of one model on this fleet, without those of hardship."""
        scores = self.backtest.score_forecasts(self.backtest.run_forecasts(predict, self.batch))
        quarters = scores.compute_coverage_by_quarter()
        found: dict[str, Any] = {**self._compare(scores), **self._count(scores)}
        found["coverage_by_quarter"] = np.round(average_known(quarters, 0), 4).tolist()
        found["targets"] = self._judge_targets(scores, quarters)
        found["groups"] = self._judge_groups(scores)
        if self.fleet.has_weekdays:
            found["weekend"] = self._judge_weekend({"model": scores, **self.comparison.scores})
        return found

    def judge_conditions(self, predict: Predict) -> dict[str, Any]:
        """Return the figures of one model under hardship and, if it has a memory, with less of it.

        They are measured on fewer windows than the others, but for `without_memory`.
        """
        found: dict[str, Any] = {"hardship": Hardship(self._make_backtest(HARD_WINDOWS), self.batch).judge(predict)}
        if self.contract.memory_length:
            found["memory_days"] = {days: self._measure_memory(predict, days) for days in MEMORY_DAYS}
            alone = self._make_backtest(self.windows_per_fleet, memory_days=0)
            scores = alone.score_forecasts(alone.run_forecasts(predict, self.batch))
            found["without_memory"] = self._compare(scores)
            if self.fleet.has_weekdays:
                found["without_memory"] |= self._judge_weekend({"model": scores})["model"]
        return found

    def _make_backtest(self, windows: int | None, split: str = "", memory_days: int = 7) -> Backtest:
        machines = len(self.fleet.machines if self.machines is None else self.machines)
        return Backtest(
            self.fleet,
            self.contract,
            split=split or self.split,
            machines=self.machines,
            windows_per_machine=None if windows is None else max(2, -(-windows // machines)),
            memory_days=memory_days,
        )

    def _group_series(self) -> dict[str, np.ndarray]:
        """Return groups of series, found on training and validation days only."""
        windows = EARLIER_WINDOWS_PER_MACHINE * len(self.fleet.machines)
        earlier = [self._make_backtest(windows, split) for split in ("train", "val")]
        comparisons = [BaselineScores.score_baselines(b) for b in earlier if b.windows]
        return group_series(comparisons) if comparisons else {}

    def _compare(self, scores: BacktestScores, chosen: np.ndarray | None = None) -> dict[str, Any]:
        totals = scores.compute_totals(chosen)
        return {**totals, **self.comparison.compare(totals["nPL"], chosen)}

    def _count(self, scores: BacktestScores) -> dict[str, int]:
        series = ~np.isnan(scores.average_series(scores.normalized))
        return {"windows": len(self.backtest.windows), "series": int(series.sum())}

    def _judge_targets(self, scores: BacktestScores, quarters: np.ndarray) -> dict[str, Any]:
        found = {}
        for j, (metric, target) in enumerate(self.backtest.scored.items()):
            chosen = np.zeros_like(self.backtest.scorable)
            chosen[:, j] = True
            if (chosen & self.backtest.scorable).any():
                covered = np.round(quarters[j], 4).tolist()
                found[metric] = {"target": target, **self._compare(scores, chosen), "coverage_by_quarter": covered}
        return found

    def _judge_groups(self, scores: BacktestScores) -> dict[str, Any]:
        """Return the figures of each group of series that has windows; for noise beside the window's quantiles too."""
        found: dict[str, Any] = {}
        for name, members in self.groups.items():
            chosen = members[[m for m, _ in self.backtest.windows]] & self.backtest.scorable
            if chosen.any():
                window = self.comparison.scores[WINDOW_QUANTILES].compute_totals(chosen)["nPL"]
                compared = self._compare(scores, chosen)
                found[name] = {**compared, "ratio_window": divide(compared["nPL"], window)}
                found[name]["series"] = int((members & chosen.any(axis=0) & ~np.isnan(self.backtest.scales)).sum())
        return found

    def _judge_weekend(self, forecasters: dict[str, BacktestScores]) -> dict[str, Any]:
        """Return the nPL of weekends and of other days of each forecaster."""
        weekend = find_weekend(self.backtest)[:, None]
        found: dict[str, Any] = {"windows": int(weekend.sum())}
        for name, each in forecasters.items():
            losses = [each.compute_totals(chosen)["nPL"] for chosen in (weekend, ~weekend)]
            found[name] = dict(zip(("weekend", "other"), losses, strict=True))
        return found

    def _measure_memory(self, predict: Predict, days: int) -> float:
        backtest = self._make_backtest(HARD_WINDOWS, memory_days=days)
        return backtest.score_forecasts(backtest.run_forecasts(predict, self.batch)).compute_totals()["nPL"]


def judge_fleets(
    predict: Predict,
    fleets: Iterable[TrainingFleet],
    contract: NetworkContract,
    split: str = "test",
    windows_per_fleet: int | None = WINDOWS_PER_FLEET,
    *,
    brief: bool = False,
) -> dict[str, Any]:
    """Return the figures of one model by the names of the fleets, and under `noise` and `constants`.

    A fleet without a window in the split is left out. If `brief`, only what needs no further forecasts is measured.
    """
    found: dict[str, Any] = {}
    for fleet in fleets:
        judge = FleetJudge(fleet=fleet, contract=contract, split=split, windows_per_fleet=windows_per_fleet)
        if judge.backtest.windows:
            found[fleet.name] = judge.judge(predict)
            found[fleet.name] |= {} if brief else judge.judge_conditions(predict)
    if not brief:
        found["noise"] = judge_noise(predict, contract)
        found["constants"] = {"largest_relative_error": measure_constant_error(contract, predict)}
    return found


def judge_noise(predict: Predict, contract: NetworkContract) -> dict[str, Any]:
    """Return the loss of a model on each kind of noise, by the number of known rows, as `loss` and `ratio`.

    The ratio is that to the quantiles of the same rows.
    """
    backtest = Backtest(make_noise_fleet(contract), contract, stride=300)
    kinds = np.array([backtest.fleet.machines[m].partition("-")[0] for m, _ in backtest.windows])
    found: dict[str, Any] = {kind: {} for kind in NOISES}
    for rows in (contract.context_length, SHORT_ROWS):
        scores = backtest.score_forecasts(backtest.run_forecasts(predict, alter=keep_newest_rows(rows)))
        window = BaselineScores.score_baselines(backtest, rows).scores[WINDOW_QUANTILES]
        for kind in NOISES:
            chosen = np.broadcast_to((kinds == kind)[:, None], backtest.scorable.shape)
            totals, best = scores.compute_totals(chosen), window.compute_totals(chosen)["nPL"]
            figures = {"loss": totals["nPL"], "ratio": divide(totals["nPL"], best), "cov80": totals["cov80"]}
            found[kind][rows] = figures
    return found
