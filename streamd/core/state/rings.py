"""Copies many windows at once out of rings. Knows arrays only, neither servers nor steps.

A window that begins at a place of its ring is two slices: from there to the end, and from the beginning to there.
"""

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Float32, Slots
from streamd.core.state.layout import make_scalar_view

MIN_WINDOWS_PER_RUN = 32
"""Windows that begin at the same place are one run. From this many windows a run on, they are copied run by run."""

MAX_BLOCK_ROWS = 8
"""Rows that are copied as one element of an array. Larger blocks copy faster, but leave more rows to copy again."""


class WindowReader:
    """Reads windows from `values (slots, length, features) float32` and `marks (slots, length) uint8`.

    A window is given by its slot and by the place at which it begins, from 0 to `length` - 1.
    """

    def __init__(self, values: Float32, marks: npt.NDArray[np.uint8]) -> None:
        self._count, self._length, features = values.shape
        self._row_bytes = 4 * features
        self._values = values
        self._marks = marks
        self._block = max(rows for rows in range(1, MAX_BLOCK_ROWS + 1) if self._length % rows == 0)

    def read_windows(self, slots: Slots, places: Slots, values: Float32) -> npt.NDArray[np.uint8]:
        """Copy windows into `values (n, length, features)`, which is contiguous; returns their marks `(n, length)`."""
        if not values.flags.c_contiguous:
            raise ValueError("values are not contiguous")
        count = len(slots)
        cuts = np.flatnonzero(places[1:] != places[:-1]) + 1
        if (len(cuts) + 1) * MIN_WINDOWS_PER_RUN <= count:
            for first, last in pairwise([0, *cuts.tolist(), count]):
                self._read_run(slots[first:last], int(places[first]), values[first:last])
        elif count:
            self._read_each(slots, places, values)
        return self._read_marks(slots, places)

    def _read_each(self, slots: Slots, places: Slots, values: Float32) -> None:
        """Copy window by window. Slices of bytes are copied in less time than numpy needs to find the rows."""
        ring, to = make_scalar_view(self._values).cast("B"), make_scalar_view(values).cast("B")
        size, begin = self._length * self._row_bytes, 0
        for slot, place in zip(slots.tolist(), places.tolist(), strict=True):
            start, cut = slot * size, slot * size + place * self._row_bytes
            split, end = begin + size - (cut - start), begin + size
            to[begin:split] = ring[cut : start + size]
            to[split:end] = ring[start:cut]
            begin = end

    def _read_run(self, slots: Slots, place: int, values: Float32) -> None:
        """Copy windows that begin at the same place, in blocks of rows that numpy takes for one element each.

        The rings lie one after the other in memory. With a length of 8, blocks of 4 and a window that begins at place
        2, blocks are counted from row 2 on:

            slot      0 0 0 0 0 0 0 0 | 1 1 1 1 1 1 1 1 |
            row       0 1 2 3 4 5 6 7 | 0 1 2 3 4 5 6 7 |
            block         <- 0 -> <-- 1 --> <- 2 ->           the window of slot 0 is its rows 2 3 4 5 6 7 0 1

        The block at the end of a ring goes on in the next ring; of it, the rows after the end are copied again. Behind
        the last ring is no other, so its window is copied by itself.
        """
        block, length = self._block, self._length
        shift, blocks = place % block, length // block
        element = np.dtype((np.void, block * self._row_bytes))
        source = np.frombuffer(self._values, element, self._count * blocks - (shift > 0), shift * self._row_bytes)
        order = (place // block + np.arange(blocks)) % blocks
        to = np.frombuffer(values, element).reshape(-1, blocks)
        # No index is out of range but that of the last block; with "clip" numpy does not make a copy to check that.
        source.take(slots[:, None] * blocks + order, out=to, mode="clip")
        if shift:
            split = length - place
            values[:, split : split + shift] = self._values[slots, :shift]
            last = np.flatnonzero(slots == self._count - 1)
            if len(last):
                values[last, :split] = self._values[-1, place:]
                values[last, split:] = self._values[-1, :place]

    def _read_marks(self, slots: Slots, places: Slots) -> npt.NDArray[np.uint8]:
        """Return the marks of windows, `(n, length)`: cut out of rings that stand twice in a row.

        The cut bytes overlap: with strides (1, 1) and a length of 4, row 2 of `windows` is the bytes 2 to 5, row 3 is
        the bytes 3 to 6. Indexing copies whole windows.
        """
        count, length = len(slots), self._length
        rings = self._marks[slots]
        doubled = np.concatenate((rings, rings), axis=1)
        windows = np.ndarray((max(doubled.size - length + 1, 0), length), np.uint8, doubled, strides=(1, 1))
        marks: npt.NDArray[np.uint8] = windows[np.arange(count) * (2 * length) + places]
        return marks
