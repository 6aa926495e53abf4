"""Compares two versions on the same servers from the same origins: paired losses, their mean difference and its error.

Is given losses and knows no forecasts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from streamd.core.accuracy.scores import ScoreShape, SlidingSums

_COLUMNS = 5
"""Observations, differences, squared differences, losses of the first version, losses of the second."""


class Comparisons:
    """The paired losses of every two versions that forecast the same servers from the same origins.

    One observation is the mean loss of one forecast over a range of the horizon, or over the whole horizon (the last
    row). Single steps are not observations: the errors of one forecast's steps depend on each other.
    """

    def __init__(self, shape: ScoreShape) -> None:
        self._shape = shape
        self._pairs: dict[tuple[str, str], SlidingSums] = {}
        self._period = 0

    def advance(self, period: int) -> None:
        """Advance the sliding window to a period."""
        self._period = period
        for sums in self._pairs.values():
            sums.advance(period)

    def add(self, row: int, losses: Sequence[tuple[str, float]]) -> None:
        """Add the mean losses of one forecast by version, in the order in which the versions were followed.

        `row` is the index of the range of the horizon, or the number of ranges for the whole horizon.
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
            pair: [_make_comparison(*map(float, row)) for row in sums.compute_total("pairs")]
            for pair, sums in self._pairs.items()
        }


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The mean losses of two versions over the same forecasts; `difference` is the second loss minus the first.

    Below zero the second version is better; a difference of more than about two standard errors is significant.
    """

    forecasts: int
    first_loss: float
    second_loss: float
    difference: float
    standard_error: float
    """NaN for fewer than two forecasts. It is too small if the errors of several servers depend on each other."""


def _make_comparison(forecasts: float, differences: float, squares: float, first: float, second: float) -> Comparison:
    mean = first_loss = second_loss = error = math.nan
    if forecasts:
        mean, first_loss, second_loss = differences / forecasts, first / forecasts, second / forecasts
    if forecasts > 1:
        variance = max(squares - forecasts * mean**2, 0.0) / (forecasts - 1)
        error = math.sqrt(variance / forecasts)
    return Comparison(
        forecasts=int(forecasts),
        first_loss=first_loss,
        second_loss=second_loss,
        difference=mean,
        standard_error=error,
    )
