"""The scores of one version: sums over a sliding window of periods, and what is computed from them.

Is given forecasts and truth; which forecasts are scored is the part of `scorer`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Float32, Float64
from streamd.core.contract import ModelContract


@dataclass(frozen=True)
class ScoreShape:
    """The axes of all scores: targets, quantiles, intervals between quantiles, and ranges of the horizon."""

    contract: ModelContract
    range_steps: int
    period_steps: int
    periods: int

    @cached_property
    def ranges(self) -> int:
        """The number of ranges of the horizon; the last may be shorter."""
        return -(-self.contract.horizon // self.range_steps)

    @cached_property
    def range_lengths(self) -> Float64:
        """The number of steps of each range, `(ranges,)`."""
        edges = np.append(np.arange(self.ranges) * self.range_steps, self.contract.horizon)
        return np.diff(edges).astype(np.float64)

    def sum_by_range(self, first: int, values: npt.NDArray[Any]) -> Float64:
        """Sum `values (targets, steps)`, which are of the horizon's steps from `first` on, to `(targets, ranges)`."""
        ranges = np.arange(first, first + values.shape[1]) // self.range_steps
        starts = np.flatnonzero(np.diff(ranges, prepend=-1))
        sums = np.zeros((len(values), self.ranges))
        sums[:, ranges[starts]] = np.add.reduceat(values, starts, axis=1, dtype=np.float64)
        return sums

    @cached_property
    def levels(self) -> Float64:
        """The quantiles, `(quantiles,)`."""
        return np.array(self.contract.quantiles)

    @cached_property
    def intervals(self) -> tuple[tuple[int, int], ...]:
        """The pairs of quantiles that are symmetric about the median, the widest first."""
        levels = self.contract.quantiles
        pairs = zip(range(len(levels)), reversed(range(len(levels))), strict=True)
        return tuple((low, high) for low, high in pairs if low < high and math.isclose(levels[low] + levels[high], 1.0))

    @property
    def interval_names(self) -> list[str]:
        """The name of each interval, for example `0.1-0.9`."""
        levels = self.contract.quantiles
        return [f"{levels[low]:g}-{levels[high]:g}" for low, high in self.intervals]


class SlidingSums:
    """Named sums over the last `periods` periods; a new period replaces the oldest one."""

    def __init__(self, periods: int, **shapes: tuple[int, ...]) -> None:
        self._periods = periods
        self._sums = {name: np.zeros((periods, *shape)) for name, shape in shapes.items()}
        self._period: int | None = None

    def advance(self, period: int) -> None:
        """Advance to a period; a no-op if it is not later than the current one."""
        if self._period is not None and period <= self._period:
            return
        first = period if self._period is None else max(self._period + 1, period - self._periods + 1)
        for each in range(first, period + 1):
            for sums in self._sums.values():
                sums[each % self._periods] = 0.0
        self._period = period

    def get_current(self, name: str) -> Float64:
        """Return the sums of the current period as a view to add to; call `advance` first."""
        assert self._period is not None, "no period has begun"
        sums: Float64 = self._sums[name][self._period % self._periods]
        return sums

    def compute_total(self, name: str) -> Float64:
        """Return the sums over all periods of the window."""
        total: Float64 = np.sum(self._sums[name], axis=0)
        return total


class Scores:
    """The scores of one version. A loss is the pinball loss, averaged over the quantiles, divided by the deviation.

    As in training, every step of the horizon has the same weight in the loss of a target, and the whole loss is the
    mean over the targets. So there is no loss before every range of the horizon has been scored.
    """

    def __init__(self, shape: ScoreShape) -> None:
        self.shape = shape
        self.scored_steps = 0
        """The number of forecast steps that were scored for at least one target, since start."""
        contract = shape.contract
        targets = len(contract.targets)
        self.sums = SlidingSums(
            shape.periods,
            loss=(targets, shape.ranges),
            points=(targets, shape.ranges),
            below=(targets, len(contract.quantiles)),
            inside=(targets, len(shape.intervals)),
            forecasts=(1,),
        )

    def add(self, first: int, forecast: Float32, truth: Float64, deviation: Float64) -> Float64:
        """Score the steps of a forecast from `first` on; returns the summed losses, `(targets, ranges)`.

        `forecast (targets, horizon, quantiles)`, `truth (targets, steps)` with NaN for a value that is not scored,
        `deviation (targets,)`.
        """
        known = np.isfinite(truth)
        part = forecast[:, first : first + truth.shape[1]]
        actual = truth[:, :, None]
        error = actual - part
        loss = np.maximum(self.shape.levels * error, (self.shape.levels - 1.0) * error).mean(2)
        losses = self.shape.sum_by_range(first, np.where(known, loss / deviation[:, None], 0.0))
        self.sums.get_current("loss")[:] += losses
        self.sums.get_current("points")[:] += self.shape.sum_by_range(first, known)
        below = actual <= part  # always false if the truth is NaN
        self.sums.get_current("below")[:] += below.sum(1)
        low, high = np.array(self.shape.intervals, int).reshape(-1, 2).T
        self.sums.get_current("inside")[:] += ((part[..., low] <= actual) & below[..., high]).sum(1)
        self.scored_steps += int(known.any(0).sum())
        return losses

    def count_forecast(self) -> None:
        """Count a forecast whose first values are scored."""
        self.sums.get_current("forecasts")[0] += 1

    def compute_loss_by_range(self) -> Float64:
        """Return the mean loss, `(targets, ranges)`; NaN if nothing was scored."""
        return _divide(self.sums.compute_total("loss"), self.sums.compute_total("points"))

    def compute_loss(self) -> Float64:
        """Return each target's loss over the whole horizon, `(targets,)`; NaN until each of its ranges has a loss."""
        lengths = self.shape.range_lengths
        loss: Float64 = (self.compute_loss_by_range() * lengths).sum(1) / lengths.sum()
        return loss

    def compute_range_loss(self) -> Float64:
        """Return the mean over the targets by range, `(ranges,)`; NaN if nothing was scored."""
        return np.array([_mean_of_known(losses) for losses in self.compute_loss_by_range().T])

    def compute_whole_loss(self) -> float:
        """Return the mean over the targets that have a loss, NaN if no target has one; in training it is called nPL."""
        return _mean_of_known(self.compute_loss())

    def count_points(self) -> Float64:
        """Return the number of scored values, `(targets,)`."""
        points: Float64 = self.sums.compute_total("points").sum(1)
        return points

    def compute_below_share(self) -> Float64:
        """Return the share of values at or below each quantile, `(targets, quantiles)`; ideally equal to its level."""
        return _divide(self.sums.compute_total("below"), self.count_points()[:, None])

    def compute_inside_share(self) -> Float64:
        """Return the share of values inside each interval, ends included, `(targets, intervals)`."""
        return _divide(self.sums.compute_total("inside"), self.count_points()[:, None])

    @property
    def forecasts(self) -> int:
        """The number of forecasts whose scoring began within the window."""
        return int(self.sums.compute_total("forecasts")[0])


@dataclass(frozen=True)
class TrainingScores:
    """The loss of a version on the test days of its training, averaged over its fleets."""

    loss: float
    fleets: tuple[str, ...]


def parse_training_scores(info: Mapping[str, Any]) -> TrainingScores | None:
    """Read the scores from a version's `training_info.json`; returns None if it has no nPL.

    Only whole fleets count, which are those named in `data`, and not parts of fleets; if `data` names no fleet of the
    figures, all count.
    """
    figures = info.get("figures")
    if not isinstance(figures, Mapping):
        return None
    losses = {name: each["nPL"] for name, each in figures.items() if isinstance(each, Mapping) and _is_loss(each)}
    data = info.get("data")
    whole = {name: loss for name, loss in losses.items() if isinstance(data, Mapping) and name in data}
    chosen = whole or losses
    if not chosen:
        return None
    return TrainingScores(sum(chosen.values()) / len(chosen), tuple(chosen))


def _is_loss(figures: Mapping[str, Any]) -> bool:
    loss = figures.get("nPL")
    return isinstance(loss, int | float) and math.isfinite(loss) and loss > 0


def _divide(sums: Float64, counts: Float64) -> Float64:
    quotient: Float64 = np.where(counts > 0, sums / np.maximum(counts, 1.0), np.nan)
    return quotient


def _mean_of_known(values: Float64) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan
