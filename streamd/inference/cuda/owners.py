"""Owners of a device's resources: pinned memory, device memory, streams, events and graphs; and copies.

An owner releases its resource once. Knows nothing of networks or lanes.
"""

import ctypes
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from streamd.inference.cuda.devices import note_held, note_released
from streamd.inference.cuda.runtime import NOT_READY, CudaError, attempt, call, here, make_cuda_error, module

_CAPTURE_THREAD_LOCAL = "cudaStreamCaptureModeThreadLocal"


class _Owner:
    """The owner of one resource: `close` releases it, a second call does nothing, and a forgotten one warns."""

    kind: ClassVar[str]
    _open = False

    def _opened(self) -> None:
        self.device = here.device
        self._open = True
        note_held(self.device, self.kind)

    def close(self) -> None:
        """Release the resource; a broken device has lost it already."""
        if not self._open:
            return
        self._open = False
        note_released(self.device, self.kind)
        try:
            self._release()
        except CudaError as error:
            if not error.sticky:
                raise

    def _release(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if self._open:
            warnings.warn(f"{type(self).__name__} was never closed", ResourceWarning, stacklevel=2)


class HostBuffer(_Owner):
    """Pinned host memory, which the device can copy to and from directly.

    Its views are invalid once it is closed.
    """

    kind = "host_buffers"

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        portable = 1  # pinned for every device
        self.pointer = int(call("cudaHostAlloc", max(nbytes, 1), portable))
        self._opened()

    def array(self, dtype: npt.DTypeLike, shape: tuple[int, ...], offset: int = 0) -> npt.NDArray[Any]:
        """Return a view of the memory from byte `offset` on."""
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        if not self._open or offset < 0 or offset + size > self.nbytes:
            raise ValueError(f"a view of {size} bytes at {offset}, expected one within {self.nbytes} open bytes")
        memory: Any = (ctypes.c_uint8 * size).from_address(self.pointer + offset)
        view: npt.NDArray[Any] = np.frombuffer(memory, dtype).reshape(shape)
        return view

    def _release(self) -> None:
        call("cudaFreeHost", self.pointer)


class DeviceBuffer(_Owner):
    """Memory of the device."""

    kind = "device_buffers"

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.pointer = int(call("cudaMalloc", max(nbytes, 1)))
        self._opened()

    def _release(self) -> None:
        call("cudaFree", self.pointer)


class Stream(_Owner):
    """A non-blocking stream; a lower `priority` runs first, and 0 is the lowest rank, as CUDA counts."""

    kind = "streams"

    def __init__(self, priority: int = 0) -> None:
        self.priority = priority
        flags = module().cudaStreamNonBlocking
        self.handle = int(call("cudaStreamCreateWithPriority", flags, priority))
        self._opened()

    def synchronize(self) -> None:
        """Wait until all its work is done, with the GIL released."""
        call("cudaStreamSynchronize", self.handle)

    def wait_for(self, event: "Event") -> None:
        """Let what is enqueued from now on wait until another stream has reached the event's mark."""
        call("cudaStreamWaitEvent", self.handle, event.handle, 0)

    def is_done(self) -> bool:
        """Whether all its work is done; never blocks."""
        number, _ = attempt("cudaStreamQuery", self.handle)
        if number not in (0, NOT_READY):
            raise make_cuda_error("cudaStreamQuery", number)
        return number == 0

    def capture(self, enqueue: Callable[[], None]) -> "CudaGraph":
        """Return a graph of the work that `enqueue` puts on this stream; none of it runs.

        If it fails, the capture is ended, so that the stream can be used as before.
        """
        mode = getattr(module().cudaStreamCaptureMode, _CAPTURE_THREAD_LOCAL)
        call("cudaStreamBeginCapture", self.handle, mode)
        try:
            enqueue()
        except BaseException:
            number, graph = attempt("cudaStreamEndCapture", self.handle)
            if not number and int(graph):
                attempt("cudaGraphDestroy", graph)
            attempt("cudaGetLastError")
            raise
        return CudaGraph(call("cudaStreamEndCapture", self.handle))

    def _release(self) -> None:
        call("cudaStreamDestroy", self.handle)


class Event(_Owner):
    """A mark on a stream. With `blocking` a waiting thread sleeps instead of spinning; `timing` allows `elapsed_ms`."""

    kind = "events"

    def __init__(self, *, blocking: bool = True, timing: bool = False) -> None:
        library = module()
        flags = library.cudaEventBlockingSync if blocking else library.cudaEventDefault
        self.handle = int(call("cudaEventCreateWithFlags", flags | (0 if timing else library.cudaEventDisableTiming)))
        self._opened()

    def record(self, stream: Stream) -> None:
        """Put the mark behind what is on the stream now."""
        call("cudaEventRecord", self.handle, stream.handle)

    def synchronize(self) -> None:
        """Wait until the stream has reached the mark, with the GIL released."""
        call("cudaEventSynchronize", self.handle)

    def is_done(self) -> bool:
        """Whether the stream has reached the mark; never blocks."""
        number, _ = attempt("cudaEventQuery", self.handle)
        if number not in (0, NOT_READY):
            raise make_cuda_error("cudaEventQuery", number)
        return number == 0

    def elapsed_ms(self, since: "Event") -> float:
        """Return the milliseconds on the device from the mark `since` to this one; both need `timing`."""
        return float(call("cudaEventElapsedTime", since.handle, self.handle))

    def _release(self) -> None:
        call("cudaEventDestroy", self.handle)


class CudaGraph(_Owner):
    """A captured graph that can be launched any number of times; it takes over the captured `graph`."""

    kind = "graphs"

    def __init__(self, graph: Any) -> None:
        try:
            self._executable = call("cudaGraphInstantiate", graph, 0)
        finally:
            call("cudaGraphDestroy", graph)
        self._opened()

    def launch(self, stream: Stream) -> None:
        """Run it on a stream."""
        call("cudaGraphLaunch", self._executable, stream.handle)

    def _release(self) -> None:
        call("cudaGraphExecDestroy", self._executable)


# ---------------------------------------------------------------- copies
def copy_to_device(pointer: int, source: npt.NDArray[Any], nbytes: int, stream: Stream) -> None:
    """Enqueue a copy of the first `nbytes` of pinned `source`."""
    kind = module().cudaMemcpyKind.cudaMemcpyHostToDevice
    call("cudaMemcpyAsync", pointer, source.ctypes.data, nbytes, kind, stream.handle)


def copy_to_host(target: npt.NDArray[Any], pointer: int, nbytes: int, stream: Stream) -> None:
    """Enqueue a copy of `nbytes` into pinned `target`."""
    kind = module().cudaMemcpyKind.cudaMemcpyDeviceToHost
    call("cudaMemcpyAsync", target.ctypes.data, pointer, nbytes, kind, stream.handle)
