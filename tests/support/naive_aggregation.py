"""The value of one series in one step, computed point by point as the documents describe it."""

import math
from collections.abc import Iterable
from itertools import pairwise

from streamd.core.mapping.series import Kind


def reduce_naively(
    points: Iterable[tuple[float, float]], kind: Kind, start: float, end: float, longest_gap: float
) -> float:
    """Return the value of a series from its points `(time, value)` in order of arrival; NaN if it has none."""
    last_of_time = dict(points)  # a time that comes again replaces the value
    ordered = sorted(last_of_time.items())
    inside = [value for time, value in ordered if start <= time < end and not math.isnan(value)]
    if kind is Kind.COUNTER:
        increase = covered = 0.0
        for (earlier, before), (later, after) in pairwise(ordered):
            overlap = min(later, end) - max(earlier, start)
            if overlap <= 0 or later - earlier > longest_gap or math.isnan(before) or math.isnan(after):
                continue
            rise = after - before
            if rise < 0:
                rise = 0.0 if before - after < before / 8 else max(after, 0.0)
            increase += rise * overlap / (later - earlier)
            covered += overlap
        return increase / covered if covered else math.nan
    if not inside:
        return math.nan
    return inside[-1] if kind is Kind.STATE else sum(inside) / len(inside)
