"""Decides which rows of the windows a device lacks. Pure: knows steps and changes, neither a device nor values.

A device keeps a copy of the windows. For each slot this index has what the copy was made of: the newest step, the
generation of the server, and the number of changes of the host's window at that time. The host counts 2 for a row that
is amended or emptied, and 2 for each step by which the newest row moves on. So if the count has grown by twice the
steps, rows were appended and nothing else happened, and the rows of these steps are all that the device lacks. In any
other case it lacks the whole window.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Numbers

UNKNOWN = -1
"""The step of a slot of which the device has nothing; as that of a window without a row."""

CHANGES_A_STEP = 2
"""How much the host counts for each step and for each other change; it is odd while a window is being changed."""


@dataclass(frozen=True, slots=True)
class WindowNumbers:
    """The host's numbers of windows, each `(n,)`: the newest step, the count of changes, the server's generation."""

    newest: Numbers
    changes: npt.NDArray[np.uint32]
    generations: Numbers


@dataclass(frozen=True, slots=True)
class MissingRows:
    """The rows that a device lacks: of slot i the `counts[i]` steps from `first_steps[i]` on, both `(n,) int64`.

    `whole_windows` is the number of slots of which it lacks all.
    """

    first_steps: Numbers
    counts: Numbers
    whole_windows: int

    def locate(self, slots: Numbers, length: int) -> Numbers:
        """Return the position of each row, `slot * length + step % length`, `(sum of counts,) int64`."""
        if (self.counts == 1).all():  # the usual case: one row a server
            return slots * length + self.first_steps % length
        counts = self.counts
        begins = np.cumsum(counts) - counts
        offsets = np.arange(int(counts.sum())) - np.repeat(begins, counts)
        return np.repeat(slots * length, counts) + (np.repeat(self.first_steps, counts) + offsets) % length


class ResidentIndex:
    """The windows that a device has, by slot."""

    def __init__(self, capacity: int, length: int) -> None:
        self.length = length
        self.uploaded_rows = 0
        """The rows that the device was found to lack, ever."""
        self.whole_windows = 0
        """How often it lacked a whole window."""
        self._steps = np.full(capacity, UNKNOWN, np.int64)
        self._changes = np.zeros(capacity, np.uint32)
        self._generations = np.zeros(capacity, np.int64)

    def find_missing(self, slots: Numbers, host: WindowNumbers) -> MissingRows:
        """Return what the device lacks of the windows of `slots (n,)`, whose numbers `host` has."""
        before = self._steps[slots]
        behind = host.newest - before
        grown = (host.changes - self._changes[slots]).astype(np.int64)  # modulo 2^32, as the count
        is_whole = (
            (before == UNKNOWN)
            | (behind < 0)
            | (behind >= self.length)
            | (grown != CHANGES_A_STEP * behind)
            | (host.generations != self._generations[slots])
        )
        if not is_whole.any():  # the usual case
            return MissingRows(before + 1, behind, 0)
        counts = np.where(is_whole, self.length, behind)
        return MissingRows(np.where(is_whole, 0, before + 1), counts, int(np.count_nonzero(is_whole)))

    def note_moved(self, slots: Numbers, host: WindowNumbers, missing: MissingRows) -> None:
        """Count on it from now on that the device has these windows. One that was being changed is lacked next time."""
        self._steps[slots] = np.where(host.changes & 1, UNKNOWN, host.newest)
        self._changes[slots] = host.changes
        self._generations[slots] = host.generations
        self.whole_windows += missing.whole_windows
        self.uploaded_rows += int(missing.counts.sum())

    def forget(self, slots: Numbers) -> None:
        """Note that the device has nothing of these slots."""
        self._steps[slots] = UNKNOWN

    def clear(self) -> None:
        """Note that the device has nothing."""
        self._steps[:] = UNKNOWN
