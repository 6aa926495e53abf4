"""Judges the ranges of crossing times that alerts give: how often an incident begins inside of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from streamd.tools.alerts.incidents import Incident


@dataclass
class RangeScores:
    """Counts of the alerts before whose incident there was time; they add up over rules."""

    inside: int = 0
    before: int = 0
    """The incident began before the earliest crossing."""
    after: int = 0
    """The incident began after the latest crossing."""
    has_end: int = 0
    """The ranges with a latest crossing; without, the threshold may also not be crossed at all."""

    def add(self, other: Self) -> None:
        """Add the counts of another rule or server."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as plain values."""
        return dict(vars(self))


def score_ranges(
    ranges: Sequence[tuple[int, float, float]], incidents: Sequence[Incident], reach_steps: int
) -> RangeScores:
    """Judge ranges: each the origin at which an alert fired, and its earliest and latest crossing in steps from it.

    An alert is judged only if no incident was going on when it fired, and one began within its reach. A series crosses
    its threshold between the last step before the incident and its first step, so a range that touches this is right.
    """
    scores = RangeScores()
    for origin, earliest, latest in ranges:
        begin = _find_next_begin(origin, incidents, reach_steps)
        if begin is None:
            continue
        scores.has_end += latest != float("inf")
        if earliest > begin - origin:
            scores.before += 1
        elif latest < begin - origin - 1:
            scores.after += 1
        else:
            scores.inside += 1
    return scores


def _find_next_begin(origin: int, incidents: Sequence[Incident], reach_steps: int) -> int | None:
    if any(incident.begin < origin <= incident.end for incident in incidents):
        return None
    return next((each.begin for each in incidents if origin <= each.begin <= origin + reach_steps), None)
