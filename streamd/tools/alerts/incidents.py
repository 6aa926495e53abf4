"""Incidents: the times at which recorded values really were on the wrong side of a threshold.

Arrays only; knows no forecasts.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamd.tools.alerts.limits import ValueLimits


@dataclass(frozen=True, slots=True)
class Incident:
    """One incident of one server, in step indices of the fleet."""

    begin: int
    """The first step whose value is on the wrong side."""
    end: int
    """The step after the last one whose value is not on the safe side."""
    has_known_begin: bool
    """Whether a value shortly before shows that it began here, not in a gap or before the recording."""


def find_incidents(values: npt.NDArray[np.floating], limits: ValueLimits, gap_steps: int) -> list[Incident]:
    """Return the incidents of one server's values, `(steps,)`, NaN where missing, in order.

    An incident begins with a value on the wrong side of the threshold. It ends when the values have been clear of it,
    or missing, for `gap_steps` steps together, and then counts as over since the last value that was not. So a missing
    value alone neither begins nor ends one, and dips of fewer steps do not split one.
    """
    wrong = limits.find_wrong(values)
    unsafe = np.flatnonzero(wrong | limits.find_unsafe(values))
    if not len(unsafe):
        return []
    incidents = []
    for cluster in np.split(unsafe, np.flatnonzero(np.diff(unsafe) > gap_steps) + 1):
        inside = cluster[wrong[cluster]]
        if len(inside):
            begin = int(inside[0])
            before = values[max(begin - gap_steps, 0) : begin]
            incidents.append(Incident(begin, int(cluster[-1]) + 1, bool(np.isfinite(before).any())))
    return incidents
