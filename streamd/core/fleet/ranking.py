"""The order in which servers are listed. Touches arrays only; `names` are slots in the order of the servers' names."""

import numpy as np

from streamd.core.arrays import Float64, Numbers, Slots
from streamd.core.fleet.conditions import Codes, Condition
from streamd.core.state.window_columns import NO_STEP

SEVERITY_CODES = {"info": 1, "warning": 2, "critical": 3}
"""The code of each severity; 0 is a server without an alert that fires."""


def rank_worst(names: Slots, *, severities: Codes, likely: Float64, earliest: Float64, conditions: Codes) -> Slots:
    """Return the slots worst first: by severity, likely crossing, earliest crossing, condition, and then by name.

    All arrays but `names` are by slot: `severities` is that of the worst alert that fires (`SEVERITY_CODES`), the
    crossings are times, infinity for none. Only servers with something to see are sorted, since most have nothing.
    """
    busy = (severities > 0) | np.isfinite(likely) | np.isfinite(earliest) | (conditions != Condition.CURRENT)
    is_busy = busy[names]
    some = names[is_busy]
    order = np.lexsort((conditions[some], earliest[some], likely[some], -severities[some]))
    return np.concatenate((some[order], names[~is_busy]))


def rank_by_age(names: Slots, forecast_steps: Numbers) -> Slots:
    """Return the slots with the oldest forecast first, then by name; servers without a forecast come last."""
    steps = forecast_steps[names]
    order = np.argsort(np.where(steps == NO_STEP, np.iinfo(np.int64).max, steps), kind="stable")
    ranked: Slots = names[order]
    return ranked
