"""A naive, obviously right model of live accuracy: it keeps every row, every forecast and every scored value for ever.

Written from the words of the design, not from the code; a loss is worked out value by value, in plain Python.
"""

import math
import statistics
from dataclasses import dataclass, field

import numpy as np

from streamd.core.accuracy.pending import AccuracyLimits
from streamd.core.arrays import Float32
from streamd.core.contract import ModelContract


@dataclass
class NaiveHold:
    slot: int
    step: int
    reported: list[bool]
    """By target: enough of its window was."""
    forecasts: dict[str, Float32]
    done: int = 0
    losses: dict[tuple[str, int, int], float] = field(default_factory=dict)
    """By (version, target, step ahead from 0), of what was scored."""


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
class NaiveLedger:
    contract: ModelContract
    limits: AccuracyLimits
    intervals: list[tuple[int, int]]
    held: dict[int, NaiveHold] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    pairs: list[tuple[int, int, float, float]] = field(default_factory=list)
    """(period, range or the number of ranges, the first's loss, the second's)."""
    seen: dict[int, dict[int, list[float]]] = field(default_factory=dict)
    """By slot and step, what the deviations are of."""
    now_step: int = -1

    # ------------------------------------------------------------ forecasts in
    def take(self, version: str, slot: int, step: int, forecast: Float32, rows: dict[int, list[float]]) -> bool:
        """`rows` are those of the window up to `step`."""
        hold = self.held.get(slot)
        if hold is not None:
            if hold.step != step or hold.done or version in hold.forecasts:
                return False
            hold.forecasts[version] = forecast.copy()
            return True
        if self.late(step) or len(self.held) >= self.limits.scored_servers:
            return False
        self.see(slot, step, rows)
        reported = []
        for target in range(len(self.contract.targets)):
            known = [row[target] for row in rows.values() if not math.isnan(row[target])]
            reported.append(len(known) >= self.contract.context_length / 2)
        if not any(each and not math.isnan(self.deviation(slot, target)) for target, each in enumerate(reported)):
            return False
        self.held[slot] = NaiveHold(slot, step, reported, {version: forecast.copy()})
        return True

    def see(self, slot: int, step: int, rows: dict[int, list[float]]) -> None:
        """Add what is new up to `step` to the series; what was seen once is not looked at again."""
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
        self.held.pop(slot, None)
        self.seen.pop(slot, None)

    # ------------------------------------------------------------ truth in
    def late(self, step: int) -> bool:
        limits = self.limits
        return self.now_step > step + self.contract.horizon + limits.settle_steps + limits.tolerance_steps

    @property
    def period(self) -> int:
        return max(self.now_step, 0) // self.limits.period_steps

    def sweep(self, slot: int, newest: int, rows: dict[int, list[float]]) -> None:
        """`rows` are those of the window at this moment."""
        hold = self.held.get(slot)
        if hold is None:
            return
        horizon, late = self.contract.horizon, self.late(hold.step)
        settled = newest if late else newest - self.limits.settle_steps
        end = min(settled, hold.step + horizon)
        if end > hold.step + hold.done:
            self.see(slot, end, rows)
        while hold.done < horizon and hold.step + hold.done + 1 <= settled:
            row = rows.get(hold.step + hold.done + 1)
            if row is not None:
                self.score(hold, hold.done, row)
            hold.done += 1
            if hold.done % self.limits.range_steps == 0 or hold.done == horizon:
                index = (hold.done - 1) // self.limits.range_steps
                self.compare(hold, index, range(index * self.limits.range_steps, hold.done))
        if late or hold.done == horizon:
            self.compare(hold, -(-horizon // self.limits.range_steps), range(horizon))
            del self.held[slot]

    def score(self, hold: NaiveHold, ahead: int, row: list[float]) -> None:
        for target, actual in enumerate(row):
            deviation = self.deviation(hold.slot, target)
            if math.isnan(actual) or math.isnan(deviation) or not hold.reported[target]:
                continue
            for version, forecast in hold.forecasts.items():
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
                hold.losses[version, target, ahead] = loss

    def compare(self, hold: NaiveHold, row: int, steps: range) -> None:
        names = sorted(hold.forecasts)
        if len(names) < 2:
            return
        means: dict[str, list[float]] = {name: [] for name in names}
        for target in range(len(self.contract.targets)):
            for name in names:
                found = [hold.losses[name, target, k] for k in steps if (name, target, k) in hold.losses]
                if found and len(found) >= len(steps) / 2:
                    means[name].append(sum(found) / len(found))
        if means[names[0]]:
            first, second = (sum(means[name]) / len(means[name]) for name in names)
            self.pairs.append((self.period, row, first, second))

    # ------------------------------------------------------------ figures
    def kept(self, version: str) -> list[Point]:
        oldest = self.period - self.limits.periods + 1
        return [point for point in self.points if point.version == version and point.period >= oldest]

    def loss(self, version: str, target: int) -> float:
        """The mean over the ranges, by their length; NaN where one has no value."""
        horizon, length = self.contract.horizon, self.limits.range_steps
        total = 0.0
        for begin in range(0, horizon, length):
            steps = range(begin, min(begin + length, horizon))
            found = [p.loss for p in self.kept(version) if p.target == target and p.ahead in steps]
            if not found:
                return math.nan
            total += len(steps) * sum(found) / len(found)
        return total / horizon

    def share(self, version: str, target: int, what: str, index: int) -> float:
        found = [getattr(p, what)[index] for p in self.kept(version) if p.target == target]
        return sum(found) / len(found) if found else math.nan

    def paired(self, row: int) -> tuple[int, float, float]:
        """(observations, mean difference, its standard error)."""
        oldest = self.period - self.limits.periods + 1
        found = [second - first for period, at, first, second in self.pairs if at == row and period >= oldest]
        if not found:
            return 0, math.nan, math.nan
        error = float(np.std(found, ddof=1)) / math.sqrt(len(found)) if len(found) > 1 else math.nan
        return len(found), sum(found) / len(found), error
