"""Copies of windows that another process may write at the same moment. Has no clock: who gets none asks again later."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Float32
from streamd.core.state.windows import WindowStore

COPY_ATTEMPTS = 20
"""A change takes microseconds, so that all attempts fail only if the process that writes was stopped in the middle."""


class CopiedWindow(NamedTuple):
    """The step of the newest row of a copied window, and the number of its rows."""

    newest: int
    have: int


def copy_window(windows: WindowStore, slot: int, values: Float32, status: npt.NDArray[np.int32]) -> CopiedWindow | None:
    """Copy a window as `WindowStore.gather_window` does; returns what belongs to the copy.

    `None`, and anything in `values` and `status`, if the window is being changed.
    """
    slots = np.array([slot])
    for _ in range(COPY_ATTEMPTS):
        changes = windows.read_changes(slots)
        copied = CopiedWindow(windows.get_newest_step(slot), windows.have[slot])
        windows.gather_window(slot, values, status)
        if not windows.find_torn(slots, changes)[0]:
            return copied
    return None
