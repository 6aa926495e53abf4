"""The open row of every server: it fills with the samples of one step until it is closed.

An open row has a seal too, so that a restart finds out whether all of it was written.
"""

from typing import Any

import numpy as np

from streamd.core.contract import MAX_STATUS
from streamd.core.state.layout import NamedArrays, make_scalar_view
from streamd.core.state.rows import PackedRow, copy_cells
from streamd.core.state.seals import NO_SEAL, Words, compute_seal
from streamd.core.state.window_columns import SEALED_STATUSES, make_step_check


class FillingRows:
    """The open rows of all servers, by slot.

    `arrays` are those of the window store. `masks` has the features that each open row has, `seeds (capacity,)` the
    number of each slot's server, which its row is sealed with.
    """

    __slots__ = (
        "_bytes",
        "_checks",
        "_full",
        "_opened",
        "_row_bytes",
        "_seals",
        "_seeds",
        "_statuses",
        "_steps",
        "_values",
        "masks",
    )

    def __init__(self, arrays: NamedArrays, masks: Any, seeds: Words) -> None:
        self.masks = masks
        """The features that each open row has."""
        self._values = arrays["open_values"]
        self._bytes = make_scalar_view(self._values).cast("B")
        self._steps = make_scalar_view(arrays["open_step"])
        self._checks = make_scalar_view(arrays["open_check"])
        self._statuses = make_scalar_view(arrays["open_status"])
        self._seals = make_scalar_view(arrays["open_seal"])
        self._seeds = make_scalar_view(seeds)
        self._opened: dict[int, float] = {}  # when each open row got its first sample, oldest first
        features = self._values.shape[1]
        self._full = (1 << features) - 1
        self._row_bytes = 4 * features

    def open_row(self, slot: int, step: int, now: float) -> None:
        """Begin an empty row at `now` (monotonic seconds)."""
        # The values are emptied before the step is set: a row that a restart finds open has none of an older row.
        self._seals[slot] = NO_SEAL
        self._values[slot] = np.nan
        self._statuses[slot] = SEALED_STATUSES[0]
        self._checks[slot] = make_step_check(step)
        self._steps[slot] = step
        self.restore_row(slot, 0, now)

    def restore_row(self, slot: int, mask: int, now: float) -> None:
        """Continue to fill a row that a restart found open; its grace begins again at `now`."""
        self.masks[slot] = mask
        self._opened[slot] = now

    def drop_row(self, slot: int) -> None:
        """Forget the open row, if there is one; the caller removes its step from the arrays."""
        self._opened.pop(slot, None)
        self.masks[slot] = 0

    def fill_row(self, slot: int, row: PackedRow, status: int | None) -> None:
        """Add the values and the status of a sample to the open row."""
        # Without a seal while it changes: after a kill in between, the row has some of the cells, and no false seal.
        self._seals[slot] = NO_SEAL
        base = slot * self._row_bytes
        copy_cells(row, self._bytes, base, self._full)
        if status is not None:
            self._statuses[slot] = SEALED_STATUSES[status]
        self.masks[slot] |= row.mask
        data = self._bytes[base : base + self._row_bytes]
        self._seals[slot] = compute_seal(data, self._seeds[slot], self._steps[slot], self._statuses[slot])

    def take_row(self, slot: int) -> tuple[PackedRow, int]:
        """Return the open row and its status, to be closed; what closes it removes its step from the arrays."""
        base = slot * self._row_bytes
        row = PackedRow(bytes(self._bytes[base : base + self._row_bytes]), self.masks[slot])
        del self._opened[slot]
        return row, self._statuses[slot] & MAX_STATUS

    def find_oldest(self) -> tuple[int, float] | None:
        """Return the slot of the row that was opened first and when, or `None` if no row is open."""
        return next(iter(self._opened.items()), None)
