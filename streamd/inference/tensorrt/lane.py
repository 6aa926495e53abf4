"""TensorRT lanes for forecasting engines: each is one stream with its contexts, pinned buffers and CUDA graphs.

Knows the contract; the executor below it knows only tensors.
"""

from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np

from streamd.core.arrays import Float32
from streamd.core.contract import INPUT_TYPES, MEMORY_INPUT, ModelContract
from streamd.core.errors import BackendUnavailableError, BatchFailedError, DeviceLostError
from streamd.core.names import TENSORRT
from streamd.inference import cuda
from streamd.inference.lane import LANES_PER_DEVICE, FinishedBatch, Inputs
from streamd.inference.tensorrt.engine import Plan, SharedEngine
from streamd.inference.tensorrt.executor import TensorRtExecutor
from streamd.inference.tensorrt.library import load_tensorrt
from streamd.inference.tensorrt.resident import DeviceWindows, ForecastFinisher, ResidentLane


class TensorRtBackend:
    """Runs a plan on one or several devices; lane `i` is on device `devices[i % len(devices)]`.

    Without `graphs` a batch is enqueued call by call; with `spin` a lane's thread takes a core while it waits. With a
    `capacity` the windows of so many slots stay on each device, if it has room for them.
    """

    name = TENSORRT

    def __init__(
        self,
        plan: Plan,
        contract: ModelContract,
        buckets: tuple[int, ...],
        devices: tuple[int, ...] = (0,),
        *,
        lanes_per_device: int = LANES_PER_DEVICE,
        graphs: bool = True,
        spin: bool = False,
        capacity: int = 0,
    ) -> None:
        library = load_tensorrt()
        cuda.check_devices(devices)
        self.plan = plan
        self.precision = plan.precision
        self.contract = contract
        self.buckets = buckets
        self.devices = devices
        self.default_lanes = lanes_per_device * len(devices)
        self._graphs, self._spin = graphs, spin
        self._library = library
        self._engines = {device: SharedEngine(library, plan, device) for device in devices}
        self._windows = {device: DeviceWindows(device, contract, capacity) for device in devices if capacity}

    def make_lane(self, index: int) -> "TensorRtLane":
        """Make a lane and capture its graphs; the first lane of a device loads the engine."""
        device = self.devices[index % len(self.devices)]
        name = f"cuda:{device}/{index // len(self.devices)}"
        windows, reason = self._acquire_windows(device)
        with ExitStack() as made:
            make_finisher = None
            if windows is not None:
                made.callback(windows.release)
                make_finisher = partial(self._make_finisher, windows)
            executor = TensorRtExecutor(
                name,
                self._engines[device],
                self.buckets,
                graphs=self._graphs,
                spin=self._spin,
                make_finisher=make_finisher,
            )
            made.callback(executor.close)
            lane = TensorRtLane(name, f"cuda:{device}", executor, self.contract, windows, reason)
            made.pop_all()
        return lane

    def _acquire_windows(self, device: int) -> tuple[DeviceWindows | None, str]:
        """Return the device's windows, or `None` and the reason."""
        if (windows := self._windows.get(device)) is None:
            return None, ""
        try:
            windows.acquire()
        except DeviceLostError:
            raise
        except BackendUnavailableError as error:
            return None, str(error)
        return windows, ""

    def _make_finisher(self, windows: DeviceWindows, executor: TensorRtExecutor) -> ForecastFinisher:
        check_tensors(executor, self.contract)
        return ForecastFinisher(windows.kernels, self.contract, self.buckets[-1], executor.pointers["predictions"])

    def describe(self) -> dict[str, Any]:
        """Return the runtime, the plan and the devices."""
        return {
            "tensorrt": self._library.version,
            "lean": self._library.lean,
            "plan": self.plan.path.name,
            "devices": {f"cuda:{device}": cuda.get_device_name(device) for device in self.devices},
        }


class TensorRtResident:
    """The windows of a lane's device: stages batches, and runs them with their forecasts finished on the device."""

    def __init__(self, executor: TensorRtExecutor, lane: ResidentLane, finisher: ForecastFinisher) -> None:
        self._executor = executor
        self._lane = lane
        self._finisher = finisher
        self.stage = lane.windows.stage
        self.describe = lane.windows.describe
        self.close = lane.close

    def run(self, count: int) -> FinishedBatch:
        """Run the staged windows and the callers' behind them."""
        self.start(count)
        return self.wait(count)

    def start(self, count: int) -> None:
        """Put the staged windows, and the callers' behind them, on the stream; returns at once."""
        try:
            self._executor.start(count, partial(self._prepare, count))
        except BatchFailedError:
            self._lane.wait_moved()
            raise

    def wait(self, count: int) -> FinishedBatch:
        """Wait for the batch that was started."""
        self._executor.wait()
        return self._finisher.read(count)

    def _prepare(self, count: int) -> None:
        staged = self._lane.windows.enqueue()
        self._executor.copy_rows(0, staged, MEMORY_INPUT)  # the device keeps windows, and no memory
        self._executor.copy_rows(staged, count)


class TensorRtLane:
    """A lane of one stream; a batch runs as the next larger bucket.

    If its device keeps windows, `resident` runs staged batches, and `run` copies all windows to the device.
    """

    pads = True

    def __init__(
        self,
        name: str,
        device: str,
        executor: TensorRtExecutor,
        contract: ModelContract,
        windows: DeviceWindows | None = None,
        why_not_resident: str = "",
    ) -> None:
        self.name = name
        self.device = device
        self.buckets = executor.buckets
        self.resident: TensorRtResident | None = None
        self.executor = executor
        self._why_not_resident = why_not_resident
        self._shape = (contract.horizon, len(contract.targets), len(contract.quantiles))
        check_tensors(executor, contract)
        self.inputs = Inputs(**executor.inputs)
        self._open = ExitStack()
        if windows is not None:
            self._open.callback(windows.release)
        self._open.callback(executor.close)
        if windows is not None:
            lane = ResidentLane(windows, self.inputs, executor.pointers, executor.stream)
            assert isinstance(executor.finisher, ForecastFinisher)
            self.resident = TensorRtResident(executor, lane, executor.finisher)
            self._open.callback(lane.close)

    def run(self, count: int) -> Float32:
        """Run the first `count` windows: a graph launch, and one wait with the GIL released."""
        self.start(count)
        return self.wait(count)

    def start(self, count: int) -> None:
        """Put the first `count` windows on the stream; returns at once."""
        if self.resident is not None:
            self.resident.start(count)
        else:
            self.executor.start(count)

    def wait(self, count: int) -> Float32:
        """Wait for the batch that was started; return as `run` does."""
        if self.resident is not None:
            return self.resident.wait(count).forecasts.transpose(0, 2, 1, 3)
        self.executor.wait()
        return self.executor.outputs["predictions"][:count].reshape(count, *self._shape)

    def check(self) -> None:
        """Raise `LaneLostError` if the device reports an error."""
        self.executor.check()

    def describe(self) -> dict[str, Any]:
        """Return how each bucket is launched, and what of the windows is on the device."""
        graphs = {str(bucket): how for bucket, how in self.executor.graphs.items()}
        if self.resident is not None:
            return {"graphs": graphs, "resident": self.resident.describe()}
        return {"graphs": graphs, **({"resident": self._why_not_resident} if self._why_not_resident else {})}

    def close(self) -> None:
        """Release the stream and everything on it; a second call does nothing."""
        self._open.close()


def check_tensors(executor: TensorRtExecutor, contract: ModelContract) -> None:
    """Raise `BackendUnavailableError` unless the engine's inputs and outputs follow the contract."""
    expected = {name: (np.dtype(INPUT_TYPES[name]), shape) for name, shape in contract.input_shapes.items()}
    for kind, specs, wanted in (
        ("inputs", executor.input_specs, expected),
        ("outputs", executor.output_specs, {"predictions": (np.dtype(np.float32), contract.output_shape)}),
    ):
        given = {spec.name: (spec.dtype, spec.shape) for spec in specs}
        if given != wanted:
            raise BackendUnavailableError(f"lane {executor.name}: the engine's {kind} are {given}, expected {wanted}")
