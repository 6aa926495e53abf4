"""Splits frames of columns among the owners of their servers, with one array operation for each owner.

The owners are workers of one daemon, or shards of a cluster.
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from streamd.core.state.column_frames import ColumnFrame, NameList

Places = npt.NDArray[np.int64]

FindOwners = Callable[[Sequence[str]], Places]
"""Returns the number of each server's owner, `(n,)`."""

_encode_names = msgspec.msgpack.Encoder().encode


class FramePiece:
    """The rows of a list of servers that have one owner: their `places`, and their names as an own list."""

    __slots__ = ("encoded_names", "known_at", "names", "places")

    def __init__(self, names: Sequence[str], places: Places) -> None:
        self.places = places
        self.names = NameList(names)
        self.encoded_names = _encode_names(names)
        self.known_at = -1
        """The version of the servers at which all of these had a slot."""

    def cut(self, frame: ColumnFrame) -> ColumnFrame:
        """Return the rows of a frame that belong to this piece."""
        time = frame.time
        if isinstance(time, list):
            time = [time[place] for place in self.places.tolist()]
        is_whole = len(self.places) == len(frame)
        values = frame.values if is_whole else frame.values[self.places]
        return ColumnFrame(servers=self.names, features=frame.features, time=time, values=values)


class FrameSplit:
    """A list of servers, split by their owners; remembered at the list."""

    __slots__ = ("pieces",)

    def __init__(self, servers: NameList, owners: Places) -> None:
        self.pieces: Mapping[int, FramePiece] = {
            owner: _make_piece(servers.names, np.flatnonzero(owners == owner)) for owner in np.unique(owners).tolist()
        }


def _make_piece(names: Sequence[str], places: Places) -> FramePiece:
    return FramePiece([names[place] for place in places.tolist()], places)


def split_frame(frame: ColumnFrame, find_owners: FindOwners) -> Mapping[int, FramePiece]:
    """Return the pieces of a frame by the number of their owner; raises what `find_owners` raises."""
    known = frame.servers.known
    if not isinstance(known, FrameSplit):
        known = frame.servers.known = FrameSplit(frame.servers, find_owners(frame.servers.names))
    return known.pieces
