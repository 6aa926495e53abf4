"""Copies many windows at once out of rings. Knows arrays only, neither servers nor steps.

Each ring stands twice in a row, so that every window of it is one contiguous slice.
"""

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Float32

MIN_WINDOWS_PER_RUN = 8
"""Windows that begin at the same place are one run. From this many windows a run on, the runs are copied one by one. On
one thread, three would be enough; but each run releases the GIL, and busy threads keep it waiting for the GIL."""


class WindowReader:
    """Reads windows from `values (slots, 2 x length, features) float32` and `marks (slots, 2 x length) uint8`.

    A window is given by its slot and by the place at which it begins, from 0 to `length` - 1.
    """

    def __init__(self, values: Float32, marks: npt.NDArray[np.uint8]) -> None:
        self._slots, doubled, self._features = values.shape
        self._length = doubled // 2
        self._values = values
        self._marks = marks

    def read_windows(
        self, slots: npt.NDArray[np.int64], places: npt.NDArray[np.int64], values: Float32
    ) -> npt.NDArray[np.uint8]:
        """Copy windows into `values (n, length, features)`, which is contiguous; returns their marks `(n, length)`."""
        count, length = len(slots), self._length
        cuts = np.flatnonzero(places[1:] != places[:-1]) + 1
        starts = slots * (2 * length) + places
        if (len(cuts) + 1) * MIN_WINDOWS_PER_RUN <= count:
            self._read_runs(slots, places, [0, *cuts.tolist(), count], values)
        else:
            rows = starts[:, None] + np.arange(length)
            # No index is out of range; with "clip" numpy does not make a copy to check that first.
            self._values.reshape(-1, self._features).take(rows, axis=0, out=values, mode="clip")
        # The marks as overlapping windows, one for each byte at which a window can begin: with strides (1, 1) and
        # length 4, row 2 of `windows` is the bytes 2 to 5, row 3 is the bytes 3 to 6. Indexing copies whole windows.
        windows = np.ndarray((self._marks.size - length + 1, length), np.uint8, self._marks, strides=(1, 1))
        marks: npt.NDArray[np.uint8] = windows[starts]
        return marks

    def _read_runs(
        self, slots: npt.NDArray[np.int64], places: npt.NDArray[np.int64], bounds: list[int], values: Float32
    ) -> None:
        """Copy each run of windows, with one window as one element of an array.

        `np.void` of the size of a window makes a window one element, so that `take` copies it in one piece. The rings
        lie one after the other in memory, and each is two windows long. Read from place 2 on, with length 4:

            slot      0 0 0 0 0 0 0 0 | 1 1 1 1 1 1 1 1 |
            row       0 1 2 3 4 5 6 7 | 0 1 2 3 4 5 6 7 |
            element       <- 0 -> <-- 1 --> <- 2 ->         element 2 x slot is the window of the slot

        An element with an odd number lies across two rings, and nothing reads it.
        """
        row_bytes = 4 * self._features
        window = np.dtype((np.void, self._length * row_bytes))
        to, doubled = np.frombuffer(values, window), 2 * slots
        for first, last in pairwise(bounds):
            place = int(places[first])
            shifted = np.frombuffer(self._values, window, 2 * self._slots - 1, place * row_bytes)
            shifted.take(doubled[first:last], out=to[first:last], mode="clip")
