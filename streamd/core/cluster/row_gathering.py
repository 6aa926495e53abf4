"""Gathers single rows into one section of a row log, and joins the sections that were read into one batch."""

from collections.abc import Sequence

import numpy as np

from streamd.core.cluster.row_batches import NO_ROW_STATUS, LoggedRows, encode_names, encode_rows
from streamd.core.state.column_frames import NameList

MAX_JOINED_LISTS = 32
"""Lists of names of several sections that are remembered."""


class RowGatherer:
    """Single rows, gathered into one section: each server's name once.

    All of them are of senders that may let new servers evict others, or none.
    """

    def __init__(self, *, may_evict: bool) -> None:
        self.may_evict = may_evict
        self.bytes = 0
        """About the size of the section."""
        self._names: dict[str, int] = {}
        self._places: list[int] = []
        self._times: list[float] = []
        self._statuses: list[int] = []
        self._rows: list[bytes] = []
        self._has_status = False

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, server: str, time: float, row: bytes, status: int | None) -> int:
        """Add the row (float32 bytes) of a server at epoch seconds; returns about how many bytes it takes."""
        names = self._names
        place = names.get(server)
        size = 13 + len(row)
        if place is None:
            place = names[server] = len(names)
            size += len(server) + 3
        self._places.append(place)
        self._times.append(time)
        self._rows.append(row)
        self._statuses.append(NO_ROW_STATUS if status is None else status)
        self._has_status = self._has_status or status is not None
        self.bytes += size
        return size

    def encode(self) -> bytes:
        """Return the rows, at least one, as a section."""
        count = len(self._rows)
        values = np.frombuffer(b"".join(self._rows), np.float32).reshape(count, -1)
        return encode_rows(
            encode_names(list(self._names)),
            np.array(self._times),
            values,
            places=None if len(self._names) == count else np.array(self._places, np.int64),
            statuses=np.array(self._statuses, np.uint8) if self._has_status else None,
            may_evict=self.may_evict,
        )


class RowJoiner:
    """Makes one batch of several without statuses, since a few rows at once take as long as many.

    The same lists of names together are the same list again, at which others remember what they know.
    """

    def __init__(self) -> None:
        self._lists: dict[tuple[int, ...], tuple[NameList, list[NameList]]] = {}

    def join(self, batches: Sequence[LoggedRows]) -> LoggedRows:
        """Return the rows of batches, at least one, in their order; all may evict others, or none."""
        if len(batches) == 1:
            return batches[0]
        return LoggedRows(
            names=self._join_names(batches),
            times=np.concatenate([batch.times for batch in batches]),
            values=np.concatenate([batch.values for batch in batches]),
            may_evict=batches[0].may_evict,
        )

    def _join_names(self, batches: Sequence[LoggedRows]) -> NameList:
        if any(batch.places is not None for batch in batches):
            return NameList([server for batch in batches for server in batch.list_servers()])
        key = tuple(id(batch.names) for batch in batches)
        known = self._lists.get(key)
        if known is None:
            if len(self._lists) >= MAX_JOINED_LISTS:
                self._lists.clear()
            lists = [batch.names for batch in batches]  # kept, so that nothing else gets their ids
            known = self._lists[key] = (NameList([name for each in lists for name in each.names]), lists)
        return known[0]
