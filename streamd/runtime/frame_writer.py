"""Writes the usual rows of frames of columns with array operations, and names the others.

A usual row is one that need not be looked at alone: of a known server that the caller is known to write, with finite
or missing values, at a present time, in the step after the server's newest row. `Ingest` takes the others one by one.
Senders repeat their lists of servers, so the slots of a list are remembered at it.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from streamd.core.access.caller import Caller
from streamd.core.arrays import Float32, Slots
from streamd.core.state.column_frames import ColumnFrame, NameList
from streamd.core.state.frame_values import MatrixReader
from streamd.core.state.row_frames import Booleans, Masks, SlotList, find_next_rows, find_slice, write_next_rows
from streamd.core.state.samples import Time
from streamd.runtime.state.state import State

FRAME_SLICE = 4_096
"""The rows of a frame that are written before the event loop gets its turn: they take under 1 ms."""

MIN_ROWS = 16
"""Fewer rows are quicker one by one: an array operation takes as long as several of Python's own."""

_MAX_PARTS = 64
"""Parts of one list of servers that are remembered; a usual frame has one, or one each `FRAME_SLICE` rows."""

_MAX_SHARE = 2
"""The rows of these parts, as a multiple of the list's names: parts overlap if a sender cuts its frames otherwise each
time, and what is remembered must not be much more than the lists, which are bounded."""

_NO_SLOTS: Slots = np.empty(0, np.int64)


class FramePart:
    """Neighbouring rows of a frame in one step; `step` is `None` if they must be taken one by one."""

    __slots__ = ("begin", "end", "step")

    def __init__(self, begin: int, end: int, step: int | None) -> None:
        self.begin = begin
        self.end = end
        self.step = step


class _PartServers:
    """Servers of a part of a list, as far as they are known."""

    __slots__ = ("generations", "index", "is_known", "recall", "slot_list", "slots")

    def __init__(self, slots: Slots, generations: npt.NDArray[np.int64]) -> None:
        self.slots = slots
        """The slots by row; -1 for a server without one."""
        self.index = find_slice(slots)
        is_known = slots >= 0
        self.is_known: Booleans | None = None if is_known.all() else is_known
        """Which rows are of servers with a slot; `None` if all are."""
        self.generations: bytes = generations[self.index].tobytes()
        self.slot_list: SlotList | None = None
        """All slots, once they were written together."""
        self.recall: object = None
        """The test (`Caller.recalls_write`) of the last caller that was known to write all of these servers."""


class _RowBatch:
    """Rows that are written together; `places` are their places in the part, `None` if they are all of it."""

    __slots__ = ("masks", "places", "rows", "slots")

    def __init__(self, slots: Slots, rows: Float32, masks: Masks, places: Slots | None = None) -> None:
        self.slots = slots
        self.rows = rows
        self.masks = masks
        self.places = places

    def select(self, is_chosen: Booleans | None) -> "_RowBatch":
        """Return some of the rows, `None` for all of them."""
        if is_chosen is None:
            return self
        chosen = np.flatnonzero(is_chosen)
        masks = self.masks if isinstance(self.masks, int) else self.masks[chosen]
        places = chosen if self.places is None else self.places[chosen]
        return _RowBatch(self.slots[chosen], self.rows[chosen], masks, places)

    def list_others(self, part: FramePart) -> Sequence[int]:
        """Return the places in the frame of the other rows of the part."""
        if self.places is None:
            return ()
        is_other = np.ones(part.end - part.begin, np.bool_)
        is_other[self.places] = False
        others: list[int] = (np.flatnonzero(is_other) + part.begin).tolist()
        return others


class FrameWriter:
    """Writes frames into the windows of a state. A sample may lie `max_ahead_seconds` ahead of the clock."""

    def __init__(self, state: State, max_ahead_seconds: float) -> None:
        self.can_write = state.windows.has_mask_arrays
        """Whether it can write anything: the contract has few enough features."""
        self.ignored = 0
        """Values of features that the model does not know, in the rows that were written."""
        self._state = state
        self._generations = state.directory.generations
        self._reader = MatrixReader(state.contract.features)
        self._max_ahead_seconds = max_ahead_seconds
        self._step_seconds = state.contract.step_seconds
        self._ahead = state.ahead.contradicted_since

    # ------------------------------------------------------------ parts
    def cut_frame(self, frame: ColumnFrame, wall: float) -> Iterator[FramePart]:
        """Yield the rows of a frame as parts of one step each, in order; `wall` is now, in epoch seconds."""
        count = len(frame)
        if not isinstance(frame.time, list):
            step = self._find_step(frame.time, wall) if count >= MIN_ROWS else None
            for begin in range(0, count, FRAME_SLICE):
                yield FramePart(begin, min(begin + FRAME_SLICE, count), step)
            return
        for begin in range(0, count, FRAME_SLICE):
            yield from self._cut_times(frame.time[begin : begin + FRAME_SLICE], begin, wall)

    def _find_step(self, time: Time, wall: float) -> int | None:
        """Return the step of a time, or `None` if a sample of it would be rejected."""
        seconds = time.timestamp() if isinstance(time, datetime) else time
        return int(seconds // self._step_seconds) if 0 <= seconds <= wall + self._max_ahead_seconds else None

    def _cut_times(self, times: Sequence[Time], first: int, wall: float) -> Iterator[FramePart]:
        seconds = np.array([each.timestamp() if isinstance(each, datetime) else each for each in times], np.float64)
        is_present = (seconds >= 0) & (seconds <= wall + self._max_ahead_seconds)
        steps = (np.where(is_present, seconds, -self._step_seconds) // self._step_seconds).astype(np.int64)
        cuts = [0, *(np.flatnonzero(steps[1:] != steps[:-1]) + 1).tolist(), len(steps)]
        alone = 0  # the first of the rows before this run that are taken one by one
        for begin, end in pairwise(cuts):
            if steps[begin] < 0 or end - begin < MIN_ROWS:
                continue
            if alone < begin:
                yield FramePart(first + alone, first + begin, None)
            yield FramePart(first + begin, first + end, int(steps[begin]))
            alone = end
        if alone < len(steps):
            yield FramePart(first + alone, first + len(steps), None)

    # ------------------------------------------------------------ rows
    def write_part(
        self, frame: ColumnFrame, part: FramePart, caller: Caller, wall: float
    ) -> tuple[Sequence[int], Slots]:
        """Write the usual rows of a part at `wall` (epoch seconds).

        Returns the rows that were not written, by their places in the frame, and the slots that have one more due row.
        """
        state = self._state
        if part.step is not None and not (state.can_run_short and state.find_shortage() is not None):
            servers = self._find_servers(frame.servers, part)
            if servers is not None:
                written = self._write_usual(frame, part, part.step, servers, caller)
                if written is not None:
                    batch, due = written
                    state.directory.touch_many(servers.index if batch.places is None else batch.slots, wall)
                    return batch.list_others(part), due
        return range(part.begin, part.end), _NO_SLOTS

    def _write_usual(
        self, frame: ColumnFrame, part: FramePart, step: int, servers: _PartServers, caller: Caller
    ) -> tuple[_RowBatch, Slots] | None:
        """Write the usual rows of a part; returns them and the slots that became due, `None` if they were too few."""
        windows = self._state.windows
        given = self._reader.read_rows(frame.features, frame.values[part.begin : part.end])
        batch = _RowBatch(servers.slots, given.rows, given.masks)
        is_usual = _both(servers.is_known, self._find_writable(frame.servers, part, servers, caller))
        is_usual = _both(is_usual, None if given.is_odd is None else ~given.is_odd)
        batch = batch.select(is_usual)
        batch = batch.select(self._find_present(batch.slots))
        slots = self._make_slot_list(batch, servers)
        is_next = find_next_rows(windows, slots, step, batch.masks)
        if is_next is not None:
            batch = batch.select(is_next)
            slots = SlotList(windows, batch.slots)
        if len(slots) < MIN_ROWS:
            return None
        self.ignored += given.ignored * len(slots)
        return batch, write_next_rows(windows, slots, step, batch.rows, batch.masks)

    def _make_slot_list(self, batch: _RowBatch, servers: _PartServers) -> SlotList:
        """Return the slots of a batch; those of a whole part are remembered."""
        if batch.places is not None:
            return SlotList(self._state.windows, batch.slots)
        if servers.slot_list is None:
            servers.slot_list = SlotList(self._state.windows, servers.slots)
        return servers.slot_list

    def _find_present(self, slots: Slots) -> Booleans | None:
        """Return which slots do not lie ahead of the clock, `None` if none does: a sample may show that it is wrong."""
        if not self._ahead:
            return None
        is_ahead: Booleans = np.isin(slots, np.fromiter(self._ahead, np.int64, len(self._ahead)))
        return ~is_ahead if is_ahead.any() else None

    def _find_writable(
        self, names: NameList, part: FramePart, servers: _PartServers, caller: Caller
    ) -> Booleans | None:
        """Return which servers the caller is known to write, `None` if all."""
        recall = caller.recalls_write
        if recall is None or servers.recall is recall:
            return None
        is_writable = np.array([recall(name) is True for name in names.names[part.begin : part.end]], np.bool_)
        if not is_writable.all():
            return is_writable
        servers.recall = recall
        return None

    # ------------------------------------------------------------ servers
    def _find_servers(self, names: NameList, part: FramePart) -> _PartServers | None:
        """Return what is known of a part's servers, or `None` if their rows must be taken in their order."""
        key = (part.begin, part.end)
        parts: dict[tuple[int, int], _PartServers | None] | None = names.known
        if parts is None:
            parts = names.known = {}
        elif key in parts:
            found = parts[key]
            if found is None or self._generations[found.index].tobytes() == found.generations:
                return found
        found = self._look_up(names.names[part.begin : part.end])
        if found is not None and found.is_known is not None:
            # To admit a server may evict one of another row, unless there is space for all.
            directory = self._state.directory
            newcomers = len(found.slots) - int(np.count_nonzero(found.is_known))
            return found if newcomers <= directory.capacity - len(directory) else None
        if len(parts) >= _MAX_PARTS or _count_rows(parts) + part.end - part.begin > _MAX_SHARE * len(names):
            parts.clear()
        parts[key] = found
        return found

    def _look_up(self, names: Sequence[str]) -> _PartServers | None:
        """Return what is known of servers, or `None` if one is there twice."""
        if len(set(names)) < len(names):
            return None
        find = self._state.directory.slots.get
        slots = np.array([find(name, -1) for name in names], np.int64)
        return _PartServers(slots, self._generations)


def _count_rows(parts: Iterable[tuple[int, int]]) -> int:
    """Return the number of rows of parts, given by their begin and end."""
    return sum(end - begin for begin, end in parts)


def _both(first: Booleans | None, second: Booleans | None) -> Booleans | None:
    """Return where both hold; `None` holds everywhere."""
    if first is None or second is None:
        return second if first is None else first
    return first & second
