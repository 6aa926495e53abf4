"""The simple ways to alert that a forecast must beat: the last value, and a straight line through the last hours.

Arrays only. Each judges a series as a rule judges a forecast: whether it breaches the threshold, and whether it is
clear of it by more than the hysteresis.
"""

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Float32
from streamd.tools.alerts.damping import Verdicts
from streamd.tools.alerts.limits import ValueLimits


def judge_values(values: npt.NDArray[np.floating], limits: ValueLimits) -> Verdicts:
    """Judge one value for each origin, NaN without one."""
    is_judged = np.isfinite(values)
    return Verdicts(is_judged, limits.find_wrong(values), ~limits.find_unsafe(values), np.zeros_like(is_judged))


def read_last_values(series: Float32, origins: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """Return the value of the step before each origin, `(origins,)`, from one server's `(steps,)`."""
    return series[origins - 1].astype(np.float64)


def extrapolate_lines(
    series: Float32, origins: npt.NDArray[np.intp], *, past_steps: int, ahead_steps: float
) -> npt.NDArray[np.float64]:
    """Return the value of a straight line `ahead_steps` after each origin, `(origins,)`, NaN without one.

    The line is the least-squares one through the values of the last `past_steps` steps of one server's `(steps,)`, as
    PromQL's `predict_linear` draws it; it needs two values.
    """
    padded = np.concatenate([np.full(past_steps, np.nan), series.astype(np.float64)])
    values = np.lib.stride_tricks.sliding_window_view(padded, past_steps)[origins]
    known = np.isfinite(values)
    count = known.sum(axis=1)
    x = np.where(known, np.arange(-past_steps, 0.0), 0.0)
    y = np.where(known, values, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_x, mean_y = x.sum(axis=1) / count, y.sum(axis=1) / count
        from_mean = np.where(known, x - mean_x[:, None], 0.0)
        slope = (from_mean * y).sum(axis=1) / (from_mean**2).sum(axis=1)
        line: npt.NDArray[np.float64] = mean_y + slope * (ahead_steps - mean_x)
    line[count < 2] = np.nan
    return line
