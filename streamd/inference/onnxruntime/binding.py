"""Copies batches into a CUDA session and forecasts out of it, on a stream of this process or on ONNX Runtime's own.

Knows sessions and buffers; the lane decides what an error means.
"""

from collections.abc import Callable
from contextlib import ExitStack
from traceback import clear_frames
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Float32
from streamd.core.contract import INPUT_TYPES, ModelContract
from streamd.inference import cuda
from streamd.inference.cuda import DeviceBuffer, Event, HostBuffer, Stream
from streamd.inference.lane import Inputs

OpenSession = Callable[[int | None], Any]
"""Opens a session on the stream with this handle, or if it is `None` on a stream of ONNX Runtime's own."""


class Binding(Protocol):
    """A session and its buffers."""

    inputs: Inputs
    session: Any
    stream: str
    """The owner of its stream, as `/v1/status` shows it."""

    def run(self, count: int) -> Float32:
        """Run the first `count` windows of `inputs`; blocks. Raises `CudaError` and all errors of ONNX Runtime."""
        ...

    def wait_idle(self) -> None:
        """Wait until nothing runs any more; raises `CudaError` if the device reports an error."""
        ...

    def check(self) -> None:
        """Raise `CudaError` if the device is known to be broken; never blocks."""
        ...

    def close(self) -> None:
        """Drop the session and release the buffers; a second call does nothing."""
        ...


class BoundSession:
    """A session on a stream of its own: copies in, the graph, the copy out, and one wait in which the thread sleeps.

    All buffers are pinned or on the device, and bound by address, so that ONNX Runtime copies nothing. `options` are
    `onnxruntime.RunOptions`. Raises `CudaError` if the device has too little memory, and what `open_session` raises.
    """

    stream = "its own"

    def __init__(
        self, device: int, open_session: OpenSession, options: Any, contract: ModelContract, max_batch: int
    ) -> None:
        # ONNX Runtime itself would wait by spinning, which takes a core for each lane.
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self._device = device
        self._options = options
        self._bound = 0
        self._open = ExitStack()
        try:
            cuda.revive(device)
            self._allocate(open_session, contract, max_batch)
        except BaseException as error:
            # The traceback's frames hold the session, which has not run: it must be destroyed before its stream.
            clear_frames(error.__traceback__)
            self.close()
            raise

    def _allocate(self, open_session: OpenSession, contract: ModelContract, max_batch: int) -> None:
        own = self._open
        self._stream = own.enter_context(Stream())
        self._finished = own.enter_context(Event(blocking=True))
        self.session = open_session(self._stream.handle)
        cuda.note_held(self._device, "sessions")
        own.callback(self._drop_session)
        self._binding = self.session.io_binding()
        shapes = contract.input_shapes
        self._host = {
            name: self._pinned(np.dtype(INPUT_TYPES[name]), (max_batch, *shape)) for name, shape in shapes.items()
        }
        self.inputs = Inputs(**self._host)
        self._predictions = self._pinned(np.float32, (max_batch, *contract.output_shape))
        tensors = {**self._host, "predictions": self._predictions}
        self._buffers = {name: own.enter_context(DeviceBuffer(array.nbytes)) for name, array in tensors.items()}

    def _pinned(self, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        buffer = self._open.enter_context(HostBuffer(int(np.prod(shape)) * np.dtype(dtype).itemsize))
        array = buffer.array(dtype, shape)
        array[:] = 0
        return array

    # ------------------------------------------------------------ running
    def run(self, count: int) -> Float32:
        """Return `(count, *output_shape) float32`, a view that the next run overwrites."""
        cuda.use_device(self._device)
        self._bind(count)
        for name, array in self._host.items():
            cuda.copy_to_device(self._buffers[name].pointer, array, array[:count].nbytes, self._stream)
        self.session.run_with_iobinding(self._binding, self._options)
        predictions: Float32 = self._predictions[:count]
        cuda.copy_to_host(predictions, self._buffers["predictions"].pointer, predictions.nbytes, self._stream)
        self._finished.record(self._stream)
        self._finished.synchronize()
        return predictions

    def wait_idle(self) -> None:
        """Wait for the stream: work of a failed run may still read the inputs."""
        cuda.use_device(self._device)
        self._stream.synchronize()

    def check(self) -> None:
        """Query the stream with its device selected, so that an error is assigned to the right device."""
        cuda.use_device(self._device)
        self._stream.is_done()

    def close(self) -> None:
        """Release everything, the session first: unless it has run, and so stays, it frees memory on the stream."""
        self._open.close()

    def _bind(self, count: int) -> None:
        """Bind the addresses and shapes of a batch of this size."""
        if count == self._bound:
            return
        self._bound = 0
        for name, array in self._host.items():
            place = ("cuda", self._device, array.dtype.type, array[:count].shape, self._buffers[name].pointer)
            self._binding.bind_input(name, *place)
        output = self._predictions
        place = ("cuda", self._device, np.float32, output[:count].shape, self._buffers["predictions"].pointer)
        self._binding.bind_output("predictions", *place)
        self._bound = count

    def _drop_session(self) -> None:
        self._binding = self.session = None
        cuda.note_released(self._device, "sessions")


class PlainSession:
    """A session that copies inputs and outputs itself, from and to ordinary memory, on a stream of ONNX Runtime.

    For machines without cuda-python, on which the state of the device cannot be queried.
    """

    stream = "ONNX Runtime's own: the package cuda-python is not installed"

    def __init__(self, open_session: OpenSession, contract: ModelContract, max_batch: int) -> None:
        self.inputs = Inputs.allocate(contract, max_batch)
        self.session = open_session(None)

    def run(self, count: int) -> Float32:
        """Return `(count, *output_shape) float32`."""
        (predictions,) = self.session.run(["predictions"], self.inputs.view_first(count))
        return np.asarray(predictions, np.float32)

    def wait_idle(self) -> None:
        """Do nothing: a run waits for its work, even if it fails."""

    def check(self) -> None:
        """Do nothing: between runs the state of the device is not known."""

    def close(self) -> None:
        """Drop the session."""
        self.session = None
