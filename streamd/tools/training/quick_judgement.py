"""A judgement in a second, for choices during training: few windows of each fleet, prepared once, on validation days.

`judgement` has the whole one. This module looks at no test day by itself.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from streamd.core.contract import MEMORY_INPUT
from streamd.tools.networks.contract import NetworkContract
from streamd.tools.training.alterations import insert_absurd_value, keep_newest_rows
from streamd.tools.training.backtest import Alter, Backtest, Predict
from streamd.tools.training.comparison import WINDOW_QUANTILES, BaselineScores, divide
from streamd.tools.training.fleet import TrainingFleet
from streamd.tools.training.hardship import SHORT_ROWS
from streamd.tools.training.noise import NOISES, make_noise_fleet
from streamd.tools.training.scores import BacktestScores, average_known

WINDOWS_AT_A_TIME = 512
ABSURD = {"middle": (6e10, False), "last": (1e3, True)}
"""The factor of each absurd value, and whether it is in the newest row."""


@dataclass(kw_only=True)
class PreparedCase:
    """The inputs of one backtest with one alteration, and the nPL of the best baselines."""

    backtest: Backtest
    alter: Alter | None = None
    references: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        windows = self.backtest.windows
        self.inputs = [
            self.backtest.make_inputs(windows[i : i + WINDOWS_AT_A_TIME], self.alter)
            for i in range(0, len(windows), WINDOWS_AT_A_TIME)
        ]
        self.actual = self.backtest.read_actual(windows)
        self.index = [self.backtest.contract.targets.index(target) for target in self.backtest.scored.values()]

    def score(self, predict: Predict, *, forget: bool = False) -> BacktestScores:
        """Run a model and return its scores; with `forget`, all of its memory is missing."""
        forecasts = [predict(_forget(inputs) if forget else inputs)[:, :, self.index] for inputs in self.inputs]
        return self.backtest.score_forecasts(np.concatenate(forecasts), self.actual)


class QuickJudge:
    """Judges models on windows of some fleets and on noise; the inputs and the baselines are computed once."""

    def __init__(
        self,
        fleets: Iterable[TrainingFleet],
        contract: NetworkContract,
        *,
        split: str = "val",
        windows_per_fleet: int = 240,
        memory_days: int = 7,
    ) -> None:
        self.contract = contract
        self.whole: dict[str, PreparedCase] = {}
        self.short: dict[str, PreparedCase] = {}
        self.absurd: dict[str, dict[str, PreparedCase]] = {}
        self.sound: dict[str, PreparedCase] = {}
        """The windows of the absurd values without these."""

        for fleet in fleets:
            most = max(2, math.ceil(windows_per_fleet / len(fleet.machines)))
            made = Backtest(fleet, contract, split=split, windows_per_machine=most, memory_days=memory_days)
            if made.windows:
                self._prepare(fleet.name, made)
        noise = Backtest(make_noise_fleet(contract), contract, stride=420, memory_days=memory_days)
        self.kinds = np.array([noise.fleet.machines[m].partition("-")[0] for m, _ in noise.windows])
        window = BaselineScores.score_baselines(noise).scores[WINDOW_QUANTILES]
        self.noise = PreparedCase(backtest=noise, references=self._score_kinds(window))

    def _prepare(self, name: str, backtest: Backtest) -> None:
        best = BaselineScores.score_baselines(backtest)
        references = {key: best.find_best(week=week)[1] for key, week in (("24", False), ("7d", True), ("best", None))}
        self.whole[name] = PreparedCase(backtest=backtest, references=references)
        short = {"48": BaselineScores.score_baselines(backtest, SHORT_ROWS).find_best(week=False)[1]}
        self.short[name] = PreparedCase(backtest=backtest, alter=keep_newest_rows(SHORT_ROWS), references=short)
        few = backtest.take_windows(4)
        self.sound[name] = PreparedCase(backtest=few)
        length = self.contract.context_length
        self.absurd[name] = {
            place: PreparedCase(backtest=few, alter=insert_absurd_value(factor, length, last=last, seed=3))
            for place, (factor, last) in ABSURD.items()
        }

    def judge(self, predict: Predict) -> dict[str, float]:
        """Return the figures of a model: the nPL of each set, coverage, and ratios to the best baselines.

        `{set}_ratio24` is relative to the best baseline of 24 hours, `_ratio7d` to that of seven days, `_ratio48` to
        the best of 48 rows, for a model that sees the same 48. `absurd_...` and `noise_...` are ratios to the sound
        windows and to the windows' own quantiles. `score`, the least of which is the best, is the geometric mean over
        the sets of the ratio to the best of all baselines; `worst_ratio` is the largest of these. A model with a memory
        has `_ratio_day` and `score_day` too, those of its window alone.
        """
        found: dict[str, float] = {}
        for name, case in self.whole.items():
            found |= self._judge_set(name, case, predict)
        for place in ABSURD:
            ratios = [
                divide(_total(self.absurd[n][place], predict), _total(self.sound[n], predict)) for n in self.sound
            ]
            found[f"absurd_{place}"] = max(ratios)
        kinds = self._score_kinds(self.noise.score(predict))
        found |= {f"noise_{kind}": divide(loss, self.noise.references[kind]) for kind, loss in kinds.items()}
        found["score"], found["worst_ratio"] = self._join_ratios(found, "ratio")
        if self.contract.memory_length:
            found["score_day"], _ = self._join_ratios(found, "ratio_day")
        found["worst_noise"] = max(found[f"noise_{kind}"] for kind in kinds)
        return found

    def _judge_set(self, name: str, case: PreparedCase, predict: Predict) -> dict[str, float]:
        scores = case.score(predict)
        totals = scores.compute_totals()
        quarters = [float(q) for q in average_known(scores.compute_coverage_by_quarter(), 0)]
        short, alone = self.short[name], {}
        if self.contract.memory_length:
            loss = case.score(predict, forget=True).compute_totals()["nPL"]
            alone = {f"{name}_ratio_day": divide(loss, case.references["best"])}
        return alone | {
            f"{name}_nPL": totals["nPL"],
            f"{name}_cov80": totals["cov80"],
            f"{name}_cov_least": round(min(quarters), 4),
            f"{name}_cov_most": round(max(quarters), 4),
            f"{name}_ratio": divide(totals["nPL"], case.references["best"]),
            f"{name}_ratio24": divide(totals["nPL"], case.references["24"]),
            f"{name}_ratio7d": divide(totals["nPL"], case.references["7d"]),
            f"{name}_ratio48": divide(_total(short, predict), short.references["48"]),
        }

    def _join_ratios(self, found: dict[str, float], key: str) -> tuple[float, float]:
        """Return the geometric mean and the largest of one ratio of all sets."""
        ratios = [found[f"{name}_{key}"] for name in self.whole]
        return round(float(np.exp(np.mean(np.log(ratios)))), 4), max(ratios)

    def _score_kinds(self, scores: BacktestScores) -> dict[str, float]:
        shape = scores.windows.counts.shape
        chosen = {kind: np.broadcast_to((self.kinds == kind)[:, None], shape) for kind in NOISES}
        return {kind: scores.compute_totals(where)["nPL"] for kind, where in chosen.items()}


def judge_quick(
    predict: Predict,
    fleets: Iterable[TrainingFleet],
    contract: NetworkContract,
    split: str = "val",
    *,
    memory: bool = True,
) -> dict[str, float]:
    """Return the figures of `QuickJudge.judge` for one model; with `memory` false, its memory is missing."""
    return QuickJudge(fleets, contract, split=split, memory_days=7 if memory else 0).judge(predict)


def _forget(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return inputs | {MEMORY_INPUT: np.full_like(inputs[MEMORY_INPUT], np.nan)}


def _total(case: PreparedCase, predict: Predict) -> float:
    return case.score(predict).compute_totals()["nPL"]
