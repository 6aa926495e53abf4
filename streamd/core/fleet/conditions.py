"""The condition of each server: whether it has a forecast, and whether that is still fresh. Touches arrays only."""

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Numbers
from streamd.core.state.window_columns import NO_STEP

Codes = npt.NDArray[np.int8]
"""Small numbers, one for each server."""

STALE_STEPS = 3
"""A server is stale if its newest row ended more than so many steps ago."""


class Condition(IntEnum):
    """The condition of a server; a lower one needs more attention. The wire has the names in lower case."""

    PENDING = 0
    """Its window has enough rows, and there is no forecast yet."""
    STALE = 1
    """Its newest row lies more than `STALE_STEPS` behind the clock, so its forecast is old too."""
    WARMING = 2
    """Its window has too few rows for a forecast."""
    CURRENT = 3
    """It has a forecast, and reports."""

    @property
    def label(self) -> str:
        """The name on the wire."""
        return self.name.lower()


def find_conditions(
    *, have: Numbers, need: int, newest: Numbers, forecast_steps: Numbers, now: float, step_seconds: int
) -> Codes:
    """Return the `Condition` of each server, `(n,)`; `now` is in epoch seconds.

    `have` is the number of rows in its window, `newest` the step of its newest row, `forecast_steps` the step of the
    newest row that was forecast, or `NO_STEP`.
    """
    conditions = np.full(len(have), Condition.CURRENT, np.int8)
    conditions[now - (newest + 1) * float(step_seconds) > STALE_STEPS * step_seconds] = Condition.STALE
    conditions[forecast_steps == NO_STEP] = Condition.PENDING
    conditions[have < need] = Condition.WARMING
    return conditions


def count_conditions(conditions: Codes) -> dict[str, int]:
    """Return the number of servers in each condition, by its name on the wire."""
    counts: Sequence[int] = np.bincount(conditions, minlength=len(Condition)).tolist()
    return {condition.label: counts[condition] for condition in Condition}
