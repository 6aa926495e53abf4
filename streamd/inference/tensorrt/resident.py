"""The windows that lanes of a device keep on it, and what finishes their forecasts there.

Memory, kernels and copies; which rows are new, and in what order they move, is decided in `inference/resident.py`.
"""

import threading
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt

from streamd.core.contract import ModelContract
from streamd.core.errors import BackendUnavailableError
from streamd.core.state.forecast_seals import make_value_multipliers
from streamd.inference import cuda
from streamd.inference.cuda import CudaError, DeviceBuffer, Event, HostBuffer, KernelModule, Stream
from streamd.inference.lane import FinishedBatch, Inputs
from streamd.inference.resident import MAX_POSITIONS, LaneWindows, ResidentStore, Staging

THREADS = 256
"""Of a block."""

SHARED_BYTES = 46 * 1024
"""The shared memory that a block may take for a window's numbers: every device has 48 KiB, the kernel needs some."""

PLACE_OF_ROWS = 5
"""The place of the number of rows among the arguments of `scatter_rows`."""

REPORT_BYTES = 16
"""Of a forecast."""

LARGEST_SHARE = 2
"""The windows take at most one in so many bytes of the free memory of a device: its lanes need the rest."""


class DeviceWindows:
    """The windows of all servers on one device, allocated for the first lane that acquires them.

    All lanes' rows and windows are moved on one stream of high priority: see `inference/resident.py`.
    """

    def __init__(self, device: int, contract: ModelContract, capacity: int) -> None:
        self.device = device
        self.contract = contract
        self.capacity = capacity
        self._lock = threading.Lock()
        self._users = 0
        self._open = ExitStack()

    @property
    def nbytes(self) -> int:
        """The memory that they take."""
        return self.capacity * self.contract.context_length * (4 * len(self.contract.features) + 1)

    def acquire(self) -> None:
        """Allocate them unless a lane did; raises `BackendUnavailableError` with the reason if that is not possible."""
        with self._lock:
            if not self._users:
                self._allocate()
            self._users += 1

    def release(self) -> None:
        """Give up one use; the last one releases them."""
        with self._lock:
            self._users -= 1
            if not self._users:
                self._open.close()

    def _allocate(self) -> None:
        positions = self.capacity * self.contract.context_length
        if positions > MAX_POSITIONS:
            raise BackendUnavailableError(f"{positions} rows, expected at most {MAX_POSITIONS}")
        try:
            with ExitStack() as made:
                cuda.revive(self.device)
                free, _ = cuda.get_memory_bytes(self.device)
                if self.nbytes > free // LARGEST_SHARE:
                    raise BackendUnavailableError(f"{self.nbytes >> 20} MiB of windows, {free >> 20} MiB are free")
                self.kernels = KernelModule(cuda.read_ptx("windows"))
                made.callback(self.kernels.close)
                self.values = made.enter_context(DeviceBuffer(4 * positions * len(self.contract.features)))
                self.marks = made.enter_context(DeviceBuffer(positions))
                self.stream = made.enter_context(Stream(priority=-1))
                self.store = ResidentStore(self.contract, self.capacity)
                self._open = made.pop_all()
        except CudaError as error:
            raise cuda.make_unusable_error(self.device, str(error)) from error


class ResidentLane:
    """The part of a lane in the windows of its device: staging buffers, and the kernels bound to its tensors."""

    def __init__(self, windows: DeviceWindows, inputs: Inputs, pointers: dict[str, int], stream: Stream) -> None:
        self._windows = windows
        self._stream = stream
        self._pinned = ExitStack()
        try:
            staging = Staging(inputs, self._make_pinned)
            self._moved = self._pinned.enter_context(Event())
        except BaseException:
            self._pinned.close()
            raise
        self.windows = LaneWindows(windows.store, staging, self._move)
        self._bind(inputs, pointers, staging)

    def _make_pinned(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        buffer = self._pinned.enter_context(HostBuffer(int(np.prod(shape)) * np.dtype(dtype).itemsize))
        array = buffer.array(dtype, shape)
        array[:] = 0
        return array

    def _bind(self, inputs: Inputs, pointers: dict[str, int], staging: Staging) -> None:
        windows, contract = self._windows, self._windows.contract
        values, marks = windows.values.pointer, windows.marks.pointer
        features, horizon = len(contract.features), contract.horizon
        new = (staging.positions, staging.values, staging.marks)
        self._scatter = windows.kernels.get_kernel("scatter_rows").bind(
            values, marks, *(each.ctypes.data for each in new), 0, features
        )
        which = (staging.slots, staging.starts, staging.servers, staging.calendar_of, staging.calendars)
        into = [pointers[name] for name in ("encoder_cont", "encoder_cat", "decoder_cont", "decoder_cat")]
        calendar = horizon * inputs.decoder_cont.shape[2]
        self._gather = windows.kernels.get_kernel("gather_windows").bind(
            values, marks, *(each.ctypes.data for each in which), *into,
            contract.context_length, features, horizon, calendar,
        )  # fmt: skip

    def _move(self, staging: Staging) -> None:
        """Enqueue the batch's new rows and its windows, and let the lane's stream wait for them."""
        stream = self._windows.stream
        if staging.rows:
            self._scatter.set(PLACE_OF_ROWS, staging.rows)
            threads = staging.rows * staging.values.shape[1]
            self._scatter.launch(-(-threads // THREADS), THREADS, stream)
        self._gather.launch(staging.count, THREADS, stream)
        self._moved.record(stream)
        self._stream.wait_for(self._moved)

    def wait_moved(self) -> None:
        """Wait until the staged batch has moved, so that its buffers may be filled again."""
        self._moved.synchronize()

    def close(self) -> None:
        """Release the buffers, after all that was staged has moved."""
        store = self._windows.store
        try:
            cuda.use_device(self._windows.device)
            store.drain()
            self._windows.stream.synchronize()
        except CudaError:  # the device is lost
            store.fail()
        self._pinned.close()


class ForecastFinisher:
    """Sorts quantiles, puts targets first, finds forecasts that are not finite and computes checksums, on a device.

    `forecasts (batch, targets, horizon, quantiles) float32` and `reports (batch, 2) uint64` (the checksum, and whether
    a number is not finite) are pinned.
    """

    def __init__(self, kernels: KernelModule, contract: ModelContract, most: int, predictions: int) -> None:
        horizon, targets, quantiles = contract.horizon, len(contract.targets), len(contract.quantiles)
        self._window_bytes = 4 * horizon * targets * quantiles
        with ExitStack() as made:
            forecasts = made.enter_context(HostBuffer(most * self._window_bytes))
            reports = made.enter_context(HostBuffer(REPORT_BYTES * most))
            self.forecasts = forecasts.array(np.float32, (most, targets, horizon, quantiles))
            self.reports = reports.array(np.uint64, (most, 2))
            self._forecasts = made.enter_context(DeviceBuffer(most * self._window_bytes))
            self._reports = made.enter_context(DeviceBuffer(REPORT_BYTES * most))
            multipliers = make_value_multipliers(horizon * targets * quantiles)
            factors = made.enter_context(DeviceBuffer(multipliers.nbytes))
            _upload(factors, multipliers)
            self._in_place = self._window_bytes > SHARED_BYTES
            self._finish = kernels.get_kernel("finish_forecasts").bind(
                predictions, self._forecasts.pointer, self._reports.pointer, factors.pointer,
                horizon, targets, quantiles, int(self._in_place),
            )  # fmt: skip
            self._open = made.pop_all()

    def enqueue(self, bucket: int, stream: Stream) -> None:
        """Enqueue the kernel and the copies of its results for a batch of a bucket's size."""
        self._finish.launch(bucket, THREADS, stream, 0 if self._in_place else self._window_bytes)
        cuda.copy_to_host(self.forecasts, self._forecasts.pointer, bucket * self._window_bytes, stream)
        cuda.copy_to_host(self.reports, self._reports.pointer, REPORT_BYTES * bucket, stream)

    def read(self, count: int) -> FinishedBatch:
        """Return the first `count` forecasts of the batch that is finished."""
        reports = self.reports[:count]
        bad_rows = tuple(np.flatnonzero(reports[:, 1]).tolist())
        return FinishedBatch(self.forecasts[:count], bad_rows, reports[:, 0].copy())

    def close(self) -> None:
        """Release its buffers."""
        self._open.close()


def _upload(buffer: DeviceBuffer, content: npt.NDArray[Any]) -> None:
    """Copy an array to the device and wait for it."""
    with HostBuffer(content.nbytes) as pinned, Stream() as stream:
        array = pinned.array(content.dtype, content.shape)
        array[:] = content
        cuda.copy_to_device(buffer.pointer, array, content.nbytes, stream)
        stream.synchronize()
