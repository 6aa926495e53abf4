"""Memory that reports every write to it: the state that a process killed after each write would leave.

Replaces the arrays of a window store and the flat views that `make_scalar_view` makes of them. Several cells are
written one by one, as the processor does it: a process may be killed between any two.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt


class WatchedArray:
    """An array that calls `stored` after each write to a cell."""

    def __init__(self, array: npt.NDArray[Any], stored: Callable[[], None]) -> None:
        self.array = array
        self.record_store = stored
        self._places = np.arange(array.size).reshape(array.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def __getitem__(self, index: Any) -> Any:
        return self.array[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        places = self._places[index]
        cells = np.broadcast_to(np.asarray(value, self.array.dtype), places.shape)
        flat = self.array.reshape(-1)
        for place, cell in zip(places.reshape(-1).tolist(), cells.reshape(-1), strict=True):
            flat[place] = cell
            self.record_store()


class WatchedView:
    """A flat view of a watched array. As bytes it is written in whole words: no processor tears an aligned float32."""

    def __init__(self, watched: WatchedArray, *, as_bytes: bool = False) -> None:
        flat = watched.array.reshape(-1)
        self._cells: npt.NDArray[Any] = flat.view(np.uint8) if as_bytes else flat
        self._word = flat.itemsize if as_bytes else 1
        self._watched = watched
        self.record_store = watched.record_store

    def cast(self, code: str) -> "WatchedView":
        assert code == "B"
        return WatchedView(self._watched, as_bytes=True)

    def __getitem__(self, index: Any) -> Any:
        found = self._cells[index]
        return memoryview(found) if isinstance(index, slice) else found.item()

    def __setitem__(self, index: Any, value: Any) -> None:
        if not isinstance(index, slice):
            self._cells[index] = value
            self.record_store()
            return
        cells = np.frombuffer(value, np.uint8) if self._word > 1 else np.asarray(value)
        start, stop, _ = index.indices(len(self._cells))
        assert len(cells) == stop - start, "a memoryview never changes its size"
        for first in range(0, stop - start, self._word):
            self._cells[start + first : start + first + self._word] = cells[first : first + self._word]
            self.record_store()


def make_watched_view(array: Any) -> Any:
    """Return a watched flat view of an array; replaces `layout.make_scalar_view`."""
    assert isinstance(array, WatchedArray), "every array of the store is watched"
    return WatchedView(array)
