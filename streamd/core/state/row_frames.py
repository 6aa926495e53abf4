"""Writes the next row of many servers at once into a window store, with the same order of writes as for one row.

It takes the usual row only: that of the step after the newest row, of a server without an open row, with each feature
that is expected of it. All others are left to `WindowStore.write_sample`.

Each write of `ClosedRows.store_row` is made for all slots before the next one is begun. A process that is killed
in between leaves many slots with a journal, and each of them is in a state that a single row would leave too.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Float32, Slots
from streamd.core.state.layout import NamedArrays
from streamd.core.state.seals import compute_seals_of_step
from streamd.core.state.window_columns import NO_STEP, PRESENT, StepsT, make_step_check
from streamd.core.state.windows import WindowStore

Booleans = npt.NDArray[np.bool_]
Masks = int | npt.NDArray[np.uint64]
"""The features that rows have: the same of all rows, or of each its own."""


_STORED = ("newest", "newest_check", "open_step", "journal", "marks", "seals")
_DERIVED = ("have", "expected", "changes")

_COUNTED_STEPS = 16
"""Whether all windows are full is found out once in so many steps."""


class SlotList:
    """Distinct slots whose rows come together again and again. Make a new one if a slot gets another server.

    `columns[name][index]` are the cells of the slots in an array of the store. Neighbouring slots are a slice, since
    numpy copies slices three times as fast as it follows indices.
    """

    __slots__ = ("columns", "index", "no_open_rows", "seeds", "slots", "written")

    def __init__(self, store: WindowStore, slots: Slots) -> None:
        self.slots = slots
        where = find_slice(slots)
        self.columns = view_columns(store)
        self.index: slice | Slots = where
        if isinstance(where, slice):
            self.columns = {name: array[where] for name, array in self.columns.items()}
            self.index = slice(None)
        self.seeds = store.seeds[slots].astype(np.int64)
        self.no_open_rows = np.full(len(slots), NO_STEP, np.int64).tobytes()
        """The column `open_step` of these slots, if none has an open row."""
        self.written: _Written | None = None
        """The last rows that were written; as long as nothing else changed the slots, the next ones are usual too."""

    def __len__(self) -> int:
        return len(self.slots)


class _Written:
    """The state after the last write of rows: as long as `changes` is the same, each slot is as it was then."""

    __slots__ = ("changes", "is_full", "least", "masks", "most", "step")

    def __init__(self, masks: int | bytes) -> None:
        self.step = NO_STEP
        self.masks = masks
        self.changes = b""
        # While only rows are added, no window gets fewer rows, and each at most one more.
        self.least = 0
        """A number of rows that each window has at least."""
        self.most = 0
        """A number of rows that each window has at most."""
        self.is_full = False
        """Whether no window lacks a row: then none ever does."""


def find_slice(slots: Slots) -> slice | Slots:
    """Return rising neighbours as a slice, and other slots as they are."""
    first, count = int(slots[0]) if len(slots) else 0, len(slots)
    is_run = count > 0 and slots[-1] - first == count - 1 and bool((slots[1:] - slots[:-1] == 1).all())
    return slice(first, first + count) if is_run else slots


def view_columns(store: WindowStore) -> NamedArrays:
    """Return the arrays of a store that rows are written to; `rows (capacity, context_length)` has whole rows."""
    columns = {name: store.arrays[name] for name in _STORED} | {name: store.volatile[name] for name in _DERIVED}
    return columns | {"rows": _view_rows(store.arrays["values"])}


def _view_rows(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return `values (..., features)` with each row as one element, which numpy copies in half the time."""
    row = np.dtype((np.void, values.shape[-1] * values.itemsize))
    return values.view(row)[..., 0]


def find_next_rows(store: WindowStore, slots: SlotList, step: int, masks: Masks) -> Booleans | None:
    """Return for which slots `write_next_rows` may write the row of `step`, `None` if for all of them.

    `masks` has the features of each row, at least one. The store must have its masks in arrays.
    """
    if _is_unchanged(slots, step, masks):
        return None
    slots.written = None
    columns, index = slots.columns, slots.index
    expected = columns["expected"][index]
    expected = np.where(expected == 0, np.uint64((1 << store.features) - 1), expected)
    is_usual: Booleans = expected & ~np.asarray(masks, np.uint64) == 0
    is_usual &= columns["newest"][index] == step - 1
    is_usual &= columns["open_step"][index] == NO_STEP
    return None if is_usual.all() else is_usual


def _is_unchanged(slots: SlotList, step: int, masks: Masks) -> bool:
    """Whether nothing but the step is different from the last rows that were written to these slots."""
    written = slots.written
    if written is None or step != written.step + 1 or _freeze(masks) != written.masks:
        return False
    # An open row is no change of the window. Bytes are compared in a fifth of the time of an array of booleans.
    columns, index = slots.columns, slots.index
    is_unchanged: bool = columns["changes"][index].tobytes() == written.changes
    return is_unchanged and columns["open_step"][index].tobytes() == slots.no_open_rows


def write_next_rows(store: WindowStore, slots: SlotList, step: int, rows: Float32, masks: Masks) -> Slots:
    """Write `rows (slots, features)`, contiguous, as the newest closed rows; returns the slots that become due by it.

    There must be at least one slot, and each must be one of those of `find_next_rows`, with the same step and masks.
    """
    written = slots.written
    changes = write_cells(
        slots.columns,
        slots.index,
        step,
        step % store.context_length,
        rows,
        compute_seals_of_step(rows, slots.seeds, step, PRESENT),
        masks=masks if written is None else None,
        may_grow=written is None or not written.is_full,
    )
    memory = store.memory
    if memory is not None and not (step + 1) % memory.period:
        memory.settle_ended(slots.slots, step // memory.period)
    due = _note_written(store, slots, step, masks, changes.tobytes())
    store.count_closed(len(slots), len(due))
    return due


def write_cells(
    columns: NamedArrays,
    index: slice | Slots,
    steps: StepsT,
    places: StepsT,
    rows: Float32,
    seals: npt.NDArray[np.uint32],
    *,
    masks: Masks | None,
    may_grow: bool,
) -> npt.NDArray[np.uint32]:
    """Write each cell of `rows (n, features)`, contiguous, in the order of `ClosedRows.store_row`; returns `changes`.

    `columns` are those of `view_columns`, `index` the slots; `steps` and `places` are one for all rows, or of each its
    own. Without `masks` the features that are expected stay; without `may_grow` no window has a row more than before.
    """
    changes = columns["changes"][index] + np.uint32(1)
    columns["changes"][index] = changes
    columns["journal"][index] = steps
    if may_grow:
        columns["have"][index] += 1 - (columns["marks"][index, places] >> 7)  # PRESENT is the highest bit
    columns["rows"][index, places] = _view_rows(rows)
    columns["marks"][index, places] = PRESENT
    columns["seals"][index, places] = seals
    columns["newest"][index] = steps
    columns["newest_check"][index] = make_step_check(steps)
    columns["journal"][index] = NO_STEP
    if masks is not None:
        columns["expected"][index] = masks
    changes += np.uint32(1)
    columns["changes"][index] = changes
    return changes


def _note_written(store: WindowStore, slots: SlotList, step: int, masks: Masks, changes: bytes) -> Slots:
    """Record what was written; returns the slots that became due."""
    written = slots.written
    is_first = written is None
    if written is None:
        written = slots.written = _Written(_freeze(masks))
    written.step, written.changes = step, changes
    written.most += 1
    if is_first or written.least < store.need <= written.most or not (written.is_full or step % _COUNTED_STEPS):
        return _count_rows(store, slots, written)
    return slots.slots if written.least >= store.need else slots.slots[:0]


def _count_rows(store: WindowStore, slots: SlotList, written: _Written) -> Slots:
    """Count the rows of the windows; returns the slots that have enough."""
    have = slots.columns["have"][slots.index]
    written.least, written.most = int(have.min()), int(have.max())
    written.is_full = written.least == store.context_length
    return slots.slots if written.least >= store.need else slots.slots[have >= store.need]


def _freeze(masks: Masks) -> int | bytes:
    return masks if isinstance(masks, int) else masks.tobytes()
