"""The slots of a batch as an index of arrays by slot: a slice if they are neighbours in rising order.

A slice is copied in one piece, in about half the time: the servers of a sender were admitted one after another.
"""

import numpy as np
import numpy.typing as npt

SlotIndex = slice | npt.NDArray[np.int64]


def make_slot_index(slots: npt.NDArray[np.int64]) -> SlotIndex:
    """Return an index of `slots (n,)` and in their order: a slice if each is the one before plus 1."""
    count = len(slots)
    if count and slots[-1] - slots[0] == count - 1 and (slots[1:] - slots[:-1] == 1).all():
        return slice(int(slots[0]), int(slots[-1]) + 1)
    return slots
