"""Memory that is watched at every store: what a killed process leaves behind after each of them.

Stands in for the arrays of a window store and for the flat views that `make_scalar_view` makes of them. A store of several
cells is done cell by cell, as the processor does it: a process may be killed between any two.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt


class Torn:
    """An array whose every store is told to `stored`, after each cell."""

    def __init__(self, array: npt.NDArray[Any], stored: Callable[[], None]) -> None:
        self.array = array
        self._stored = stored
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
            self._stored()


class TornView:
    """A flat memoryview of it. As bytes it is stored by whole words: no processor tears an aligned float32."""

    def __init__(self, torn: Torn, *, as_bytes: bool = False) -> None:
        flat = torn.array.reshape(-1)
        self._cells: npt.NDArray[Any] = flat.view(np.uint8) if as_bytes else flat
        self._word = flat.itemsize if as_bytes else 1
        self._torn = torn
        self._stored = torn._stored

    def cast(self, code: str) -> "TornView":
        assert code == "B"
        return TornView(self._torn, as_bytes=True)

    def __getitem__(self, index: Any) -> Any:
        found = self._cells[index]
        return memoryview(found) if isinstance(index, slice) else found.item()

    def __setitem__(self, index: Any, value: Any) -> None:
        if not isinstance(index, slice):
            self._cells[index] = value
            self._stored()
            return
        cells = np.frombuffer(value, np.uint8) if self._word > 1 else np.asarray(value)
        start, stop, _ = index.indices(len(self._cells))
        assert len(cells) == stop - start, "a memoryview never changes its size"
        for first in range(0, stop - start, self._word):
            self._cells[start + first : start + first + self._word] = cells[first : first + self._word]
            self._stored()


def torn_scalars(array: Any) -> Any:
    """What `layout.make_scalar_view` is patched with: a flat view of whatever it is given."""
    assert isinstance(array, Torn), "every array of the store is watched"
    return TornView(array)
