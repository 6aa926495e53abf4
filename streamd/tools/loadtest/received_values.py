"""The values of received forecasts as arrays, also of targets that are unknown: null in JSON, NaN in tensors.

Written from the wire contract; shares no code with the daemon.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamd.tools.loadtest.wire import ClientTensor, ForecastFrame


def read_values(frame: ForecastFrame) -> NDArray[Any]:
    """Return the values of a `forecast` or `forecasts` frame, `(n, target, step, quantile)`.

    A target that the frame states as unknown is 0 if it has no values, and NaN if it has some; so any NaN is a fault.
    Raises `ValueError` or `TypeError` for what is not of the contract.
    """
    values, unknown = frame.values, frame.unknown
    if frame.type == "forecast":
        found = values.view_array()[None] if isinstance(values, ClientTensor) else _read_lists([values])
        return _fill_unknown(found, frame.targets, [unknown] if unknown else [])
    found = values.view_array() if isinstance(values, ClientTensor) else _read_lists(values or [])
    return _fill_unknown(found, frame.targets, unknown)


def _read_lists(forecasts: list[Any]) -> NDArray[Any]:
    """Return nested lists as an array, with NaN for a target that is null."""
    known = (target for forecast in forecasts for target in forecast if target is not None)
    first = next(known, [[0.0]])  # without any, the numbers of steps and quantiles do not matter
    missing = np.full((len(first), len(first[0])), np.nan)
    return np.array([[missing if target is None else target for target in each] for each in forecasts], np.float64)


def _fill_unknown(values: NDArray[Any], targets: Sequence[str], unknown: Sequence[Sequence[str]]) -> NDArray[Any]:
    """Fill what is stated as unknown by name, a list for each forecast; an empty list if nothing is unknown."""
    if not unknown:
        return values
    if len(unknown) != len(values):
        raise ValueError(f"{len(values)} forecasts with {len(unknown)} lists of unknown targets")
    is_stated = np.zeros(values.shape[:2], np.bool_)
    for number, names in enumerate(unknown):
        is_stated[number, [targets.index(name) for name in names]] = True
    has_none = np.isnan(values[is_stated]).all(axis=(1, 2))
    filled = values.copy()
    filled[is_stated] = np.where(has_none, 0.0, np.nan)[:, None, None]
    return filled
