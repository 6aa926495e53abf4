"""The unknown targets of forecasts as a message has them: their names, and null in place of their values.

Knows arrays and names only, no frame.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from streamd.core.unknown_targets import TargetFlags, list_unknown

UNKNOWN_FIELD = "unknown"
"""The field with the names of the unknown targets; a message without any has no such field."""


def describe_unknown(names: Sequence[str], unknown: TargetFlags) -> dict[str, Any]:
    """Return the field of one forecast, `unknown (targets,)`, or of `(n, targets)`; empty if no target is unknown."""
    if not unknown.any():
        return {}
    if unknown.ndim == 1:
        return {UNKNOWN_FIELD: list_unknown(names, unknown)}
    # Servers of a fleet send alike: the names of each kind are listed once, in a tenth of the time.
    flags, count = unknown.tobytes(), unknown.shape[1]
    kinds = [flags[begin : begin + count] for begin in range(0, len(flags), count)]
    lists = {kind: list_unknown(names, np.frombuffer(kind, np.bool_)) for kind in set(kinds)}
    return {UNKNOWN_FIELD: [lists[kind] for kind in kinds]}


def list_values(values: npt.NDArray[np.floating], unknown: TargetFlags) -> Any:
    """Return what JSON is encoded from: `values (..., targets, step, quantile)`, or lists of parts of it.

    `unknown (..., targets)` has one axis, or two for several forecasts; each target that is unknown is `None`.
    """
    if not unknown.any():
        return values
    if unknown.ndim > 1:
        return [list_values(each, flags) for each, flags in zip(values, unknown, strict=True)]
    return [None if is_unknown else each for each, is_unknown in zip(values, unknown.tolist(), strict=True)]
