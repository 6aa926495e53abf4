"""Watched columns of a window store, of which parts are watched too: for writes of many slots at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Slots
from streamd.core.state.row_frames import SlotList
from streamd.core.state.windows import WindowStore
from tests.support.torn_writes import WatchedArray


class WatchedColumn(WatchedArray):
    """A watched array whose slices are watched too."""

    def __getitem__(self, index: Any) -> Any:
        found = self.array[index]
        return WatchedColumn(found, self.record_store) if isinstance(index, slice) and found.ndim else found

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(value, WatchedArray):  # `column[index] += 1`, if the index is a slice
            return
        places = np.arange(self.array.size).reshape(self.array.shape)[index]
        cells = np.broadcast_to(np.asarray(value, self.array.dtype), places.shape)
        for place, cell in zip(places.reshape(-1).tolist(), cells.reshape(-1), strict=True):
            self.array[np.unravel_index(place, self.array.shape)] = cell
            self.record_store()

    def __iadd__(self, value: Any) -> "WatchedColumn":
        self[:] = self.array + value
        return self

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(self.array, dtype)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.array, name)

    def __add__(self, value: Any) -> Any:
        return self.array + value

    def __eq__(self, value: object) -> Any:
        return self.array == value

    def __ge__(self, value: Any) -> Any:
        return self.array >= value

    __hash__ = None  # type: ignore[assignment]

    def view(self, row: np.dtype[Any]) -> "WatchedRows":
        """Return rows that are written as one element each."""
        return WatchedRows(self)


class WatchedRows:
    """The rows `(slots, length)` of watched values; a row is written value by value."""

    def __init__(self, values: WatchedColumn) -> None:
        self._values = values

    def __getitem__(self, index: Any) -> "WatchedRows":
        if isinstance(index, slice):
            return WatchedRows(WatchedColumn(self._values.array[index], self._values.record_store))
        assert index == (..., 0), "the axis of the one element"
        return self

    def __setitem__(self, index: Any, rows: npt.NDArray[np.void]) -> None:
        values = self._values
        values[index] = rows.view(values.array.dtype).reshape(len(rows), -1)


@contextmanager
def watch_columns(store: WindowStore) -> Iterator[None]:
    """Watch what is written to the arrays of a store, cell by cell."""
    arrays, volatile = store.arrays, store.volatile
    try:
        store.arrays, store.volatile = _watch_parts(arrays), _watch_parts(volatile)
        yield
    finally:
        store.arrays, store.volatile = arrays, volatile


def make_watched_list(store: WindowStore, slots: Slots) -> SlotList:
    """Make the list of some slots of a store whose arrays are watched; what is written by it is watched."""
    with watch_columns(store):
        return SlotList(store, slots)


def _watch_parts(arrays: Any) -> Any:
    return {name: WatchedColumn(array.array, array.record_store) for name, array in arrays.items()}
