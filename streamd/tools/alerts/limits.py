"""The threshold of a rule for recorded values, which count as the values of forecasts do. Touches arrays only."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from streamd.core.alerts.evaluation import Flags
from streamd.core.alerts.rules import AlertRule


@dataclass(frozen=True, slots=True)
class ValueLimits:
    """A threshold and the value that is clear of it; both are as exact as stored values, float32."""

    threshold: float
    clear_threshold: float
    is_above: bool

    @classmethod
    def from_rule(cls, rule: AlertRule) -> Self:
        """Return the limits of a rule."""
        return cls(float(np.float32(rule.threshold)), float(np.float32(rule.clear_threshold)), rule.is_above)

    def find_wrong(self, values: npt.NDArray[np.floating]) -> Flags:
        """Return which values are on the wrong side of the threshold; missing ones (NaN) are not."""
        return values >= self.threshold if self.is_above else values <= self.threshold

    def find_unsafe(self, values: npt.NDArray[np.floating]) -> Flags:
        """Return which values are on the wrong side or not clear of it by the hysteresis; missing ones are not."""
        return values >= self.clear_threshold if self.is_above else values <= self.clear_threshold
