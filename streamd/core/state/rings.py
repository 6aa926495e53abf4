"""Many windows at once out of rings in which each row stands twice, so that every window is one contiguous slice."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Float32

MIN_WINDOWS_PER_RUN = 8
"""From so many windows a run on, runs of windows that begin at the same place are read run by run. Alone, three would
do; but each run lets go of the GIL, and waits for it among busy threads."""


class WindowReader:
    """Over `values (slots, 2 x length, features) float32` and `marks (slots, 2 x length) uint8`.

    A window is told by its slot and the place, 0 to `length` - 1, at which it begins.
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
            # Every place is within the ring; clipping only spares numpy a copy of all that it would check first.
            self._values.reshape(-1, self._features).take(rows, axis=0, out=values, mode="clip")
        # Every window of marks by its first place: they overlap, and one of them is copied as a whole.
        windows = np.ndarray((self._marks.size - length + 1, length), np.uint8, self._marks, strides=(1, 1))
        marks: npt.NDArray[np.uint8] = windows[starts]
        return marks

    def _read_runs(
        self,
        slots: npt.NDArray[np.int64],
        places: npt.NDArray[np.int64],
        bounds: list[int],
        values: Float32,
    ) -> None:
        """Read each run of windows that begin at the same place, a window as one element.

        Seen from that place on, the ring is a row of whole windows, and every second of them is a slot's.
        """
        row_bytes = 4 * self._features
        window = np.dtype((np.void, self._length * row_bytes))
        to, doubled = np.frombuffer(values, window), 2 * slots
        for first, last in pairwise(bounds):
            place = int(places[first])
            shifted = np.frombuffer(self._values, window, 2 * self._slots - 1, place * row_bytes)
            shifted.take(doubled[first:last], out=to[first:last], mode="clip")
