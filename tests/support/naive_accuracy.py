"""A naive, obviously right model of live accuracy: it never drops a row, a forecast or a scored value.

Written from the design, not from the code; a loss is computed value by value, in plain Python.
"""

import math
import statistics
from dataclasses import dataclass, field

import numpy as np

from streamd.core.accuracy.pending import AccuracyLimits
from streamd.core.arrays import Float32
from streamd.core.contract import ModelContract


@dataclass
class NaivePending:
    slot: int
    step: int
    reported: list[bool]
    """By target: true if enough of its window was reported."""
    forecasts: dict[str, Float32]
    done: int = 0
    losses: dict[tuple[str, int, int], float] = field(default_factory=dict)
    """The losses of the scored values by (version, target, step ahead from 0)."""


@dataclass(frozen=True)
class Point:
    """One value that was scored."""

    period: int
    version: str
    target: int
    ahead: int
    loss: float
    below: tuple[bool, ...]
    inside: tuple[bool, ...]


@dataclass
class NaiveScorer:
    contract: ModelContract
    limits: AccuracyLimits
    intervals: list[tuple[int, int]]
    pending: dict[int, NaivePending] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    pairs: list[tuple[int, int, float, float]] = field(default_factory=list)
    """(period, range or the number of ranges, loss of the first, loss of the second)."""
    seen: dict[int, dict[int, list[float]]] = field(default_factory=dict)
    """By slot and step, the rows of which the deviations are computed."""
    now_step: int = -1

    # ------------------------------------------------------------ forecasts in
    def take(self, version: str, slot: int, step: int, forecast: Float32, rows: dict[int, list[float]]) -> bool:
        """Take a forecast; `rows` are those of the window up to `step`. Returns whether it is pending."""
        pending = self.pending.get(slot)
        if pending is not None:
            if pending.step != step or pending.done or version in pending.forecasts:
                return False
            pending.forecasts[version] = forecast.copy()
            return True
        if self.late(step) or len(self.pending) >= self.limits.scored_servers:
            return False
        self.see(slot, step, rows)
        reported = []
        for target in range(len(self.contract.targets)):
            known = [row[target] for row in rows.values() if not math.isnan(row[target])]
            reported.append(len(known) >= self.contract.context_length / 2)
        if not any(each and not math.isnan(self.deviation(slot, target)) for target, each in enumerate(reported)):
            return False
        self.pending[slot] = NaivePending(slot, step, reported, {version: forecast.copy()})
        return True

    def see(self, slot: int, step: int, rows: dict[int, list[float]]) -> None:
        """Add the new rows up to `step` to the series; a row that was added once is not read again."""
        seen = self.seen.setdefault(slot, {})
        last = max(seen, default=-1)
        seen.update({each: list(row) for each, row in rows.items() if last < each <= step})
        seen.setdefault(max(step, last), [math.nan] * len(self.contract.targets))

    def deviation(self, slot: int, target: int) -> float:
        ever = [row[target] for row in self.seen[slot].values() if not math.isnan(row[target])]
        if not ever:
            return math.nan
        deviation = statistics.pstdev(ever)
        return deviation if deviation >= 1e-6 * max(1.0, *map(abs, ever)) else math.nan

    def forget(self, slot: int) -> None:
        self.pending.pop(slot, None)
        self.seen.pop(slot, None)

    # ------------------------------------------------------------ truth in
    def late(self, step: int) -> bool:
        limits = self.limits
        return self.now_step > step + self.contract.horizon + limits.settle_steps + limits.tolerance_steps

    @property
    def period(self) -> int:
        return max(self.now_step, 0) // self.limits.period_steps

    def sweep(self, slot: int, newest: int, rows: dict[int, list[float]]) -> None:
        """Score a pending forecast; `rows` are those of the window at this moment."""
        pending = self.pending.get(slot)
        if pending is None:
            return
        horizon, late = self.contract.horizon, self.late(pending.step)
        settled = newest if late else newest - self.limits.settle_steps
        end = min(settled, pending.step + horizon)
        if end > pending.step + pending.done:
            self.see(slot, end, rows)
        while pending.done < horizon and pending.step + pending.done + 1 <= settled:
            row = rows.get(pending.step + pending.done + 1)
            if row is not None:
                self.score(pending, pending.done, row)
            pending.done += 1
            if pending.done % self.limits.range_steps == 0 or pending.done == horizon:
                index = (pending.done - 1) // self.limits.range_steps
                self.compare(pending, index, range(index * self.limits.range_steps, pending.done))
        if late or pending.done == horizon:
            self.compare(pending, -(-horizon // self.limits.range_steps), range(horizon))
            del self.pending[slot]

    def score(self, pending: NaivePending, ahead: int, row: list[float]) -> None:
        for target, actual in enumerate(row):
            deviation = self.deviation(pending.slot, target)
            if math.isnan(actual) or math.isnan(deviation) or not pending.reported[target]:
                continue
            for version, forecast in pending.forecasts.items():
                values = [float(value) for value in forecast[target, ahead]]
                levels = self.contract.quantiles
                pinball = [
                    q * (actual - v) if actual > v else (1 - q) * (v - actual)
                    for q, v in zip(levels, values, strict=True)
                ]
                loss = sum(pinball) / len(pinball) / deviation
                below = tuple(actual <= value for value in values)
                inside = tuple(values[low] <= actual <= values[high] for low, high in self.intervals)
                self.points.append(Point(self.period, version, target, ahead, loss, below, inside))
                pending.losses[version, target, ahead] = loss

    def compare(self, pending: NaivePending, row: int, steps: range) -> None:
        names = sorted(pending.forecasts)
        if len(names) < 2:
            return
        means: dict[str, list[float]] = {name: [] for name in names}
        for target in range(len(self.contract.targets)):
            for name in names:
                found = [pending.losses[name, target, k] for k in steps if (name, target, k) in pending.losses]
                if found and len(found) >= len(steps) / 2:
                    means[name].append(sum(found) / len(found))
        if means[names[0]]:
            first, second = (sum(means[name]) / len(means[name]) for name in names)
            self.pairs.append((self.period, row, first, second))

    # ------------------------------------------------------------ scores
    def kept(self, version: str) -> list[Point]:
        oldest = self.period - self.limits.periods + 1
        return [point for point in self.points if point.version == version and point.period >= oldest]

    def loss(self, version: str, target: int) -> float:
        """Return the mean over the ranges, weighted by their length; NaN if one has no value."""
        horizon, length = self.contract.horizon, self.limits.range_steps
        total = 0.0
        for begin in range(0, horizon, length):
            steps = range(begin, min(begin + length, horizon))
            found = [p.loss for p in self.kept(version) if p.target == target and p.ahead in steps]
            if not found:
                return math.nan
            total += len(steps) * sum(found) / len(found)
        return total / horizon

    def share(self, version: str, target: int, field_name: str, index: int) -> float:
        found = [getattr(p, field_name)[index] for p in self.kept(version) if p.target == target]
        return sum(found) / len(found) if found else math.nan

    def paired(self, row: int) -> tuple[int, float, float]:
        """Return (observations, mean difference, its standard error)."""
        oldest = self.period - self.limits.periods + 1
        found = [second - first for period, at, first, second in self.pairs if at == row and period >= oldest]
        if not found:
            return 0, math.nan, math.nan
        error = float(np.std(found, ddof=1)) / math.sqrt(len(found)) if len(found) > 1 else math.nan
        return len(found), sum(found) / len(found), error
