"""Parts of frames of columns as messages to the workers that own their servers, and back."""

import msgspec
import numpy as np

from streamd.core.state.column_frames import ColumnFrame, NameList
from streamd.runtime.frame_splits import FramePiece
from streamd.runtime.workers.messages import HandOnFrame

MAX_KNOWN_LISTS = 1_024
"""Lists of servers of other workers' frames that are remembered."""


def pack_frame(number: int, frame: ColumnFrame, piece: FramePiece, *, may_evict: bool) -> HandOnFrame:
    """Return the rows of a piece, `frame`, as a message."""
    values = np.ascontiguousarray(frame.values)
    return HandOnFrame(
        number,
        piece.places.tobytes(),
        piece.encoded_names,
        list(frame.features.names),
        frame.time,
        values.tobytes(),
        values.dtype.str,
        may_evict,
    )


class FrameUnpacker:
    """Reads frames out of messages; equal lists of names are the same object, at which slots are remembered."""

    def __init__(self) -> None:
        self._lists: dict[bytes, NameList] = {}

    def unpack(self, message: HandOnFrame) -> ColumnFrame:
        """Return the frame that `pack_frame` packed."""
        servers, features = self._recall(message.servers), self._recall(msgspec.msgpack.encode(message.features))
        values = np.frombuffer(message.values, np.dtype(message.dtype)).reshape(len(servers), len(features))
        return ColumnFrame(servers=servers, features=features, time=message.times, values=values)

    def _recall(self, encoded: bytes) -> NameList:
        known = self._lists.get(encoded)
        if known is None:
            if len(self._lists) >= MAX_KNOWN_LISTS:
                self._lists.clear()
            known = self._lists[encoded] = NameList(msgspec.msgpack.decode(encoded, type=list[str]))
        return known
