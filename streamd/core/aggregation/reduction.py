"""Reduces the points of one step to one value for each series: mean, rate or last value. Pure numpy.

Points may come in any order, late and twice. The values are computed from all points that are kept, so they do not
depend on the order in which the points came.
"""

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Float64
from streamd.core.mapping.series import Kind

SeriesNumbers = npt.NDArray[np.uint32]

KIND_CODES = {Kind.GAUGE: 0, Kind.COUNTER: 1, Kind.STATE: 2}
"""The stored form of each kind."""

KIND_OF_CODE = {code: kind for kind, code in KIND_CODES.items()}
"""The kind of each stored form."""

SMALL_DROP = 1 / 8
"""A counter that falls by less than this share of its value was corrected and not reset, so its increase is 0. Linux
corrects iowait in this way. VictoriaMetrics uses the same limit (removeCounterResets, 1.79)."""


def reduce_step(
    series: SeriesNumbers,
    times: Float64,
    values: Float64,
    kinds: npt.NDArray[np.uint8],
    *,
    start: float,
    end: float,
    longest_gap: float,
) -> Float64:
    """Return the value of every series in the step from `start` to `end` (epoch seconds), NaN where it has no value.

    `series`, `times` and `values` are the points, `(n,)` each, of this step and of the steps beside it; the value NaN
    means that the series ends there. `kinds (m,)` has the code of each series. The result is `(m,) float64`:

    - for a gauge, the mean of its points in the step;
    - for a counter, its increase in the step, divided by the seconds of the step that its points cover. The increase
      between two points is spread evenly over the time between them, so a pair across the edge of the step counts in
      proportion. A pair further apart than `longest_gap` seconds is not used. The result is never negative;
    - for a state, its last point in the step.

    If a series has several points of the same time, only the one that came last counts.
    """
    order = np.lexsort((times, series))  # stable: points of the same time stay in the order in which they came
    series, times, values = series[order], times[order], values[order]
    if len(series) > 1:
        last_of_its_time = np.append((series[1:] != series[:-1]) | (times[1:] != times[:-1]), True)
        if not last_of_its_time.all():
            series, times, values = series[last_of_its_time], times[last_of_its_time], values[last_of_its_time]
    count = len(kinds)
    inside = (times >= start) & (times < end) & ~np.isnan(values)
    within = series[inside]
    with np.errstate(all="ignore"):  # a result that is not finite becomes NaN below
        result: Float64 = np.bincount(within, values[inside], count) / np.bincount(within, minlength=count)
        is_counter = kinds == KIND_CODES[Kind.COUNTER]
        if is_counter.any():
            rates = _find_rates(series, times, values, count, start=start, end=end, longest_gap=longest_gap)
            result[is_counter] = rates[is_counter]
    is_state = kinds == KIND_CODES[Kind.STATE]
    if is_state.any():
        lasts = np.full(count, np.nan)
        lasts[within] = values[inside]  # if an index is repeated, numpy keeps the last value
        result[is_state] = lasts[is_state]
    result[~np.isfinite(result)] = np.nan
    return result


def _find_rates(
    series: SeriesNumbers, times: Float64, values: Float64, count: int, *, start: float, end: float, longest_gap: float
) -> Float64:
    """Return the increase per second of every series, from its points in order of time."""
    seconds = times[1:] - times[:-1]
    covered = np.minimum(times[1:], end) - np.maximum(times[:-1], start)
    before, after = values[:-1], values[1:]
    usable = (series[1:] == series[:-1]) & (covered > 0) & (seconds <= longest_gap)
    usable &= ~(np.isnan(before) | np.isnan(after))
    before, after, seconds, covered = before[usable], after[usable], seconds[usable], covered[usable]
    increase = after - before
    dropped = increase < 0
    if dropped.any():
        since_reset = np.where(-increase < SMALL_DROP * before, 0.0, after)
        increase = np.where(dropped, np.maximum(since_reset, 0.0), increase)
    which = series[1:][usable]
    rates: Float64 = np.bincount(which, increase * covered / seconds, count) / np.bincount(which, covered, count)
    return rates
