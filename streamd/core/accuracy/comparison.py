"""Two versions on the same servers from the same origins: paired losses, with their mean difference and its error."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from streamd.core.accuracy.scores import ScoreShape, SlidingSums

_COLUMNS = 5  # observations, differences, their squares, losses of the first and of the second


class Comparisons:
    """Every pair of versions that forecast alike. One observation is one forecast.

    A forecast's steps go wrong together, so they are no observations of their own; its mean over a range of the horizon
    is one, and so is its mean over the whole (the last row).
    """

    def __init__(self, shape: ScoreShape) -> None:
        self._shape = shape
        self._pairs: dict[tuple[str, str], SlidingSums] = {}
        self._period = 0

    def advance(self, period: int) -> None:
        """Go on to a period of the sliding window."""
        self._period = period
        for sums in self._pairs.values():
            sums.advance(period)

    def add(self, row: int, losses: Sequence[tuple[str, float]]) -> None:
        """Take the mean losses of one forecast by version, the first followed first.

        `row` is the range of the horizon, or the number of ranges for the whole of it.
        """
        for (first, before), (second, after) in combinations(losses, 2):
            sums = self._pairs.get((first, second))
            if sums is None:
                sums = self._pairs[first, second] = SlidingSums(
                    self._shape.periods, pairs=(self._shape.ranges + 1, _COLUMNS)
                )
                sums.advance(self._period)
            difference = after - before
            sums.get_current("pairs")[row] += (1.0, difference, difference**2, before, after)

    def drop(self, name: str) -> None:
        """Forget a version's pairs."""
        for pair in [pair for pair in self._pairs if name in pair]:
            del self._pairs[pair]

    def summarize(self) -> dict[tuple[str, str], list["Comparison"]]:
        """Return, by pair, the comparison for each range of the horizon and, last, for the whole."""
        return {
            pair: [_comparison(*map(float, row)) for row in sums.compute_total("pairs")]
            for pair, sums in self._pairs.items()
        }


@dataclass(frozen=True)
class Comparison:
    """The mean loss of two versions over the same forecasts; `difference` is the second's less the first's.

    Below zero the second is better: for certain where it is more than about two standard errors below.
    """

    forecasts: int
    first_loss: float
    second_loss: float
    difference: float
    standard_error: float
    """NaN for fewer than two forecasts. Servers that fail together make it look smaller than it is."""


def _comparison(forecasts: float, differences: float, squares: float, first: float, second: float) -> Comparison:
    if not forecasts:
        return Comparison(0, math.nan, math.nan, math.nan, math.nan)
    mean = differences / forecasts
    error = math.nan
    if forecasts > 1:
        variance = max(squares - forecasts * mean**2, 0.0) / (forecasts - 1)
        error = math.sqrt(variance / forecasts)
    return Comparison(int(forecasts), first / forecasts, second / forecasts, mean, error)
