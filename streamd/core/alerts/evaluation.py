"""The verdict of a rule on forecasts: which cross its threshold in time, which are clear. Touches arrays only."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamd.core.alerts.crossings import find_crossings
from streamd.core.alerts.rules import AlertRule
from streamd.core.arrays import Float32, Float64
from streamd.core.unknown_targets import read_unknown

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Evaluation:
    """The result of one rule for `n` forecasts.

    One that is neither breaching nor clear nor unknown is in the hysteresis band.
    """

    breaching: Flags
    """`(n,)`: the curve crosses the threshold, and not later than `within`."""
    clear: Flags
    """`(n,)`: the curve does not even come as near as the hysteresis in that time."""
    unknown: Flags
    """`(n,)`: the target is unknown, so there is nothing to judge."""
    crossings: Float64
    """`(n, 3)`: the earliest, the likely and the latest crossing in steps from the origin; infinity: none."""


def evaluate_rule(rule: AlertRule, forecasts: Float32) -> Evaluation:
    """Evaluate a rule for `forecasts (n, horizon, quantiles)` of its target, NaN where it is unknown."""
    unknown = read_unknown(forecasts)
    curves = forecasts[:, :, rule.quantile_index]
    breaching = find_crossings(curves, rule.threshold, is_above=rule.is_above) <= rule.within_steps
    near = find_crossings(curves, rule.clear_threshold, is_above=rule.is_above) <= rule.within_steps
    crossings = np.stack(
        [
            find_crossings(forecasts[:, :, quantile], rule.threshold, is_above=rule.is_above)
            for quantile in rule.range_indices
        ],
        axis=1,
    )
    return Evaluation(breaching=breaching, clear=~(near | unknown), unknown=unknown, crossings=crossings)


class RuleScreen:
    """Finds the few forecasts that rules must be evaluated for, with as many array operations as for one rule."""

    def __init__(self, rules: Sequence[AlertRule]) -> None:
        self.targets = np.array(sorted({rule.target_index for rule in rules}), np.int64)
        """The targets that the rules need, by index, rising."""
        self.target_places = np.searchsorted(self.targets, [rule.target_index for rule in rules])
        """The place of each rule's target among them, `(rules,)`."""
        self._above, self._below = (
            np.array([place for place, rule in enumerate(rules) if rule.is_above is is_above], np.int64)
            for is_above in (True, False)
        )
        self._quantiles = np.array([rule.quantile_index for rule in rules], np.int64)
        self._limits = np.array([rule.clear_threshold for rule in rules], np.float32)

    def find_near(self, forecasts: Float32) -> Flags:
        """Return which of `forecasts (n, targets, horizon, quantiles)` may not be clear, for each rule, `(n, rules)`.

        The targets are those of `targets`. All others are clear, or unknown.
        """
        near = np.zeros((len(forecasts), len(self._limits)), np.bool_)
        for rules, extreme, reaches in (
            (self._above, np.maximum, np.greater_equal),
            (self._below, np.minimum, np.less_equal),
        ):
            if len(rules):
                extremes = _find_extremes(forecasts, extreme)
                places, quantiles = self.target_places[rules], self._quantiles[rules]
                near[:, rules] = reaches(extremes[:, places, quantiles], self._limits[rules])
        return near


def _find_extremes(forecasts: Float32, extreme: np.ufunc) -> Float32:
    """Return the largest or smallest value of each curve of `(n, targets, horizon, quantiles)` over the horizon.

    Halves of the horizon are compared as whole rows of memory until one step is left: a tenth of the time that
    `extreme.reduce` takes, whose innermost loop is over the few quantiles.
    """
    count, targets, steps, quantiles = forecasts.shape
    left = forecasts.reshape(count, targets, steps * quantiles)
    while steps > 1:
        half = (steps + 1) // 2  # of an odd number, the step in the middle is in both halves
        left = extreme(left[..., : half * quantiles], left[..., (steps - half) * quantiles :])
        steps = half
    return left
