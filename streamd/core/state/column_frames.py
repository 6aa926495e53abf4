"""Frames of columns as agents send them: rows of many servers as arrays, decoded and checked. Decodes nothing itself.

Senders repeat their lists of servers and features, so the lists are objects of their own: the decoder returns the same
object for equal lists, and those who use them remember at the object what they found out about it.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from streamd.core.state.samples import IndexedSamples, Sample, Time


class NameList:
    """A list of names that senders repeat; two are equal only if they are the same object."""

    __slots__ = ("known", "names")

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.known: Any = None
        """What the taker of frames remembers about this list; it is dropped together with the list."""

    def __len__(self) -> int:
        return len(self.names)


class ColumnFrame(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Rows of many servers: `values[row][feature]` of `servers.names[row]`.

    `time` is that of all rows, or has one for each row. `values` is `(rows, features)` of any number type; NaN is a
    missing value. The features are distinct, and all lengths fit.
    """

    servers: NameList
    features: NameList
    time: Time | list[Time]
    values: npt.NDArray[Any]

    def __len__(self) -> int:
        return len(self.servers.names)

    def make_samples(self, rows: Iterable[int] | None = None) -> IndexedSamples:
        """Yield some rows (all by default) as samples, each with its index in the frame."""
        names, features, time = self.servers.names, self.features.names, self.time
        for row in range(len(self)) if rows is None else rows:
            cells = self.values[row].astype(np.float64).tolist()
            at = time[row] if isinstance(time, list) else time
            yield row, Sample(names[row], at, dict(zip(features, cells, strict=True)))
