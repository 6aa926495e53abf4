"""Windows that stay on a device: the host uploads the rows that are new, the device gathers windows by slot.

The host's mapped store stays the truth, so a lost device costs nothing: what it had is uploaded again. Knows no CUDA:
who moves rows and windows is given.

How lanes share the windows of a device. A batch is staged on the event loop: there the index of what the device has is
read and changed, the new rows are packed into buffers of the lane, and the batch joins a queue. A lane's thread moves
batches from the head of the queue until its own is moved, also those of other lanes, whose buffers are packed already.
So rows and windows are moved in the order in which they were staged, on one stream, and no thread waits for another
one to come by; a lock is held for a few launches. A window that a lane gathers has exactly the rows it had when it was
staged: later rows are moved later.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Float32, Numbers
from streamd.core.contract import ModelContract
from streamd.core.errors import LaneLostError
from streamd.core.state.resident_index import ResidentIndex, WindowNumbers
from streamd.core.unknown_targets import LastValues
from streamd.inference.lane import HostWindows, Inputs, StagedWindows

PACKING_ATTEMPTS = 50
"""How often windows are read that another process changes meanwhile. One is whole again after a microsecond, unless
its writer was killed in the middle of a change."""

MAX_POSITIONS = 2**32
"""Positions of rows have 32 bits."""


class Buffers(Protocol):
    """Makes arrays that the device can read, zeroed."""

    def __call__(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return an array."""
        ...


class Staging:
    """The buffers of a lane for one batch: which windows it gathers, and the rows that the device lacks of them.

    The values of new rows and the calendars lie in the first rows of the lane's `inputs`, which nothing else uses: a
    server lacks at most its window. `count` windows, `rows` new rows.
    """

    def __init__(self, inputs: Inputs, make: Buffers) -> None:
        most, length, features = inputs.encoder_cont.shape
        self.slots: npt.NDArray[np.uint32] = make((most,), np.uint32)
        self.starts: npt.NDArray[np.uint32] = make((most,), np.uint32)
        """The place of each window's oldest row."""
        self.servers: npt.NDArray[np.int32] = make((most,), np.int32)
        """The server's number for the network, 0 if it has none."""
        self.calendar_of: npt.NDArray[np.uint32] = make((most,), np.uint32)
        """The row of `calendars` of each window."""
        self.positions: npt.NDArray[np.uint32] = make((most * length,), np.uint32)
        self.marks: npt.NDArray[np.uint8] = make((most * length,), np.uint8)
        self.values: Float32 = inputs.encoder_cont.reshape(-1, features)
        self.calendars: Float32 = inputs.decoder_cont
        self.count = self.rows = 0
        self.epoch = 0
        self.is_moved = True
        self.error: Exception | None = None

    def pack(
        self,
        windows: HostWindows,
        index: ResidentIndex,
        last_values: LastValues,
        slots: Numbers,
        servers: npt.NDArray[np.int32],
        make_calendar: Callable[[int], Float32],
    ) -> StagedWindows:
        """Pack a batch; arguments and result as `LaneWindows.stage` has them."""
        count = len(slots)
        for _ in range(PACKING_ATTEMPTS):
            host = WindowNumbers(windows.newest[slots], windows.changes[slots], windows.generations[slots])
            missing = index.find_missing(slots, host)
            positions = missing.locate(slots, index.length)
            self._pack_rows(windows, positions)
            torn = (host.changes & 1 != 0) | (windows.changes[slots] != host.changes)
            if not torn.any():
                break
        index.note_moved(slots, host, missing)
        index.forget(slots[torn])
        rows, places = self.values[: len(positions)], positions % index.length
        unknown = last_values.note_rows(slots, host.newest, missing.counts, rows, places)
        self.count = count
        self.slots[:count] = slots
        self.starts[:count] = (host.newest + 1) % index.length
        self.servers[:count] = servers
        self._pack_calendars(host.newest, make_calendar)
        return StagedWindows(host.newest, torn, unknown)

    def _pack_rows(self, windows: HostWindows, positions: Numbers) -> None:
        self.rows = rows = len(positions)
        self.positions[:rows] = positions
        values = windows.values.reshape(-1, windows.values.shape[-1])
        # No position is out of range; with "clip" numpy does not make a copy to check that first.
        values.take(positions, axis=0, out=self.values[:rows], mode="clip")
        windows.marks.reshape(-1).take(positions, out=self.marks[:rows], mode="clip")

    def _pack_calendars(self, steps: Numbers, make_calendar: Callable[[int], Float32]) -> None:
        """Write one calendar for each run of equal steps."""
        begins = np.concatenate(([True], steps[1:] != steps[:-1]))
        self.calendar_of[: len(steps)] = np.cumsum(begins) - 1
        for row, step in enumerate(steps[begins].tolist()):
            self.calendars[row] = make_calendar(step)


class ResidentStore:
    """The windows of a device as its lanes share them: what it has, and the queue of staged batches.

    At first it has nothing of the windows of `capacity` slots.
    """

    def __init__(self, contract: ModelContract, capacity: int) -> None:
        length = contract.context_length
        self.index = ResidentIndex(capacity, length)
        self.last_values = LastValues(capacity, length, contract.target_columns)
        self._index_epoch = 0
        self._epoch = 0
        """Grows when a move fails: what the index counts on then is not so, and batches staged by it are not valid."""
        self._queue: deque[LaneWindows] = deque()
        self._lock = threading.Lock()

    def add(self, lane: "LaneWindows") -> None:
        """Put a staged batch behind the others; on the event loop."""
        self._queue.append(lane)

    def prepare_index(self) -> int:
        """Return the epoch of the index; it is emptied first if a move failed since the last call."""
        if self._index_epoch != self._epoch:
            self._index_epoch = self._epoch
            self.index.clear()
        return self._index_epoch

    def move(self, lane: "LaneWindows") -> None:
        """Move batches in the order in which they were staged until that of `lane` is moved; in a lane's thread.

        Raises `LaneLostError` if that failed, or if a batch before it failed.
        """
        with self._lock:
            while not lane.staging.is_moved:
                self._move_next()
        if lane.staging.error is not None:
            raise lane.staging.error

    def _move_next(self) -> None:
        lane = self._queue.popleft()
        staging = lane.staging
        staging.is_moved = True
        if staging.epoch != self._epoch:
            staging.error = LaneLostError("the windows on the device were lost: a batch before this one failed")
            return
        try:
            lane.move()
        except Exception as error:
            self._epoch += 1
            staging.error = error

    def fail(self) -> None:
        """Note that the device may lack what was moved: everything is uploaded again."""
        with self._lock:
            self._epoch += 1

    def drain(self) -> None:
        """Move all batches that are staged; before a lane's buffers are released."""
        with self._lock:
            while self._queue:
                self._move_next()


class LaneWindows:
    """A lane's part of the resident windows: what the event loop stages a batch with.

    `move_batch` moves the staged batch, in the thread of any lane of the device.
    """

    def __init__(self, store: ResidentStore, staging: Staging, move_batch: Callable[[Staging], None]) -> None:
        self.staging = staging
        self._store = store
        self._move_batch = move_batch
        self._is_staged = False

    def stage(
        self,
        windows: HostWindows,
        slots: Numbers,
        servers: npt.NDArray[np.int32],
        make_calendar: Callable[[int], Float32],
    ) -> StagedWindows:
        """Stage the windows of `slots (n,)`, as `ResidentWindows` has it."""
        staging = self.staging
        staging.epoch = self._store.prepare_index()
        store = self._store
        staged = staging.pack(windows, store.index, store.last_values, slots, servers, make_calendar)
        staging.error, staging.is_moved = None, False
        self._is_staged = True
        self._store.add(self)
        return staged

    def enqueue(self) -> int:
        """Move the staged batch if that was not done; returns the number of its windows, 0 if none was staged.

        In the lane's thread. Raises `LaneLostError` if the windows on the device are lost.
        """
        if not self._is_staged:
            return 0
        self._is_staged = False
        self._store.move(self)
        return self.staging.count

    def move(self) -> None:
        """Move the staged batch."""
        self._move_batch(self.staging)

    def describe(self) -> dict[str, Any]:
        """Return what `/v1/status` shows of the windows on the device."""
        index = self._store.index
        return {"uploaded_rows": index.uploaded_rows, "whole_windows": index.whole_windows}
