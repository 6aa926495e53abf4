"""TensorRT lanes for forecasting engines: each is one stream with its contexts, pinned buffers and CUDA graphs.

Knows the contract; the executor below it knows only tensors.
"""

from typing import Any

import numpy as np

from streamd.core.arrays import Float32
from streamd.core.contract import ModelContract
from streamd.core.errors import BackendUnavailableError
from streamd.core.names import TENSORRT
from streamd.inference import cuda
from streamd.inference.lane import LANES_PER_DEVICE, Inputs
from streamd.inference.tensorrt.engine import Plan, SharedEngine
from streamd.inference.tensorrt.executor import TensorRtExecutor
from streamd.inference.tensorrt.library import load_tensorrt


class TensorRtBackend:
    """Runs a plan on one or several devices; lane `i` is on device `devices[i % len(devices)]`.

    Without `graphs` a batch is enqueued call by call; with `spin` a lane's thread takes a core while it waits.
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

    def make_lane(self, index: int) -> "TensorRtLane":
        """Make a lane and capture its graphs; the first lane of a device loads the engine."""
        device = self.devices[index % len(self.devices)]
        name = f"cuda:{device}/{index // len(self.devices)}"
        engine = self._engines[device]
        executor = TensorRtExecutor(name, engine, self.buckets, graphs=self._graphs, spin=self._spin)
        try:
            return TensorRtLane(name, f"cuda:{device}", executor, self.contract)
        except BaseException:
            executor.close()
            raise

    def describe(self) -> dict[str, Any]:
        """Return the runtime, the plan and the devices."""
        return {
            "tensorrt": self._library.version,
            "lean": self._library.lean,
            "plan": self.plan.path.name,
            "devices": {f"cuda:{device}": cuda.get_device_name(device) for device in self.devices},
        }


class TensorRtLane:
    """A lane of one stream; a batch runs as the next larger bucket."""

    pads = True

    def __init__(self, name: str, device: str, executor: TensorRtExecutor, contract: ModelContract) -> None:
        self.name = name
        self.device = device
        self.buckets = executor.buckets
        self._executor = executor
        self._shape = (contract.horizon, len(contract.targets), len(contract.quantiles))
        self._check_tensors(contract)
        self.inputs = Inputs(**executor.inputs)
        self._predictions = executor.outputs["predictions"]

    def run(self, count: int) -> Float32:
        """Run the first `count` windows: a graph launch, and one wait with the GIL released."""
        self.start(count)
        return self.wait(count)

    def start(self, count: int) -> None:
        """Put the first `count` windows on the stream; returns at once."""
        self._executor.start(count)

    def wait(self, count: int) -> Float32:
        """Wait for the batch that was started; return as `run` does."""
        self._executor.wait()
        return self._predictions[:count].reshape(count, *self._shape)

    def check(self) -> None:
        """Raise `LaneLostError` if the device reports an error."""
        self._executor.check()

    def describe(self) -> dict[str, Any]:
        """Return how each bucket is launched."""
        return {"graphs": {str(bucket): how for bucket, how in self._executor.graphs.items()}}

    def close(self) -> None:
        """Release the stream and everything on it."""
        self._executor.close()

    def _check_tensors(self, contract: ModelContract) -> None:
        """Raise `BackendUnavailableError` unless the engine's inputs and outputs follow the contract."""
        executor = self._executor
        integers = {"encoder_cat", "decoder_cat"}
        expected = {
            name: (np.dtype(np.int32 if name in integers else np.float32), shape)
            for name, shape in contract.input_shapes.items()
        }
        for kind, specs, wanted in (
            ("inputs", executor.input_specs, expected),
            ("outputs", executor.output_specs, {"predictions": (np.dtype(np.float32), contract.output_shape)}),
        ):
            given = {spec.name: (spec.dtype, spec.shape) for spec in specs}
            if given != wanted:
                raise BackendUnavailableError(f"lane {self.name}: the engine's {kind} are {given}, expected {wanted}")
