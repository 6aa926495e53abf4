"""Finds the few forecasts of which any curve crosses the threshold of a rule. Touches arrays only."""

from collections.abc import Sequence

import numpy as np

from streamd.core.alerts.evaluation import Flags
from streamd.core.alerts.rules import AlertRule
from streamd.core.arrays import Float32


class OuterScreen:
    """Compares the one curve of each range that crosses earliest with the threshold: if it does not, no other does.

    It has one curve to read where `RuleScreen` has all, which takes a fifth of the time.
    """

    def __init__(self, rules: Sequence[AlertRule]) -> None:
        self.targets = np.array(sorted({rule.target_index for rule in rules}), np.int64)
        """The targets that the rules need, by index, rising."""
        self.target_places = np.searchsorted(self.targets, [rule.target_index for rule in rules])
        """The place of each rule's target among them, `(rules,)`."""
        self._rules: dict[tuple[int, bool], list[int]] = {}
        for place, rule in enumerate(rules):
            self._rules.setdefault((rule.range_indices[0], rule.is_above), []).append(place)
        self._limits = np.array([rule.threshold for rule in rules], np.float32)

    def find_near(self, forecasts: Float32) -> Flags:
        """Return which of `forecasts (n, targets, horizon, quantiles)` cross a threshold, for each rule, `(n, rules)`.

        The targets are those of `targets`.
        """
        near = np.zeros((len(forecasts), len(self._limits)), np.bool_)
        for (quantile, is_above), rules in self._rules.items():
            curves, places = forecasts[..., quantile], self.target_places[rules]
            if is_above:
                near[:, rules] = curves.max(axis=2)[:, places] >= self._limits[rules]
            else:
                near[:, rules] = curves.min(axis=2)[:, places] <= self._limits[rules]
        return near
