"""CUDA through cuda-python: one checked funnel for every call, and owners of what the device lends.

Nothing here knows what the memory is for. cuda-python is imported with the first call.
"""

import ctypes
import threading
import warnings
from collections import Counter
from collections.abc import Callable
from types import ModuleType, TracebackType
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from streamd.core.errors import StreamdError

NOT_READY = 600
_CAPTURE_THREAD_LOCAL = "cudaStreamCaptureModeThreadLocal"

STICKY = frozenset({214, 220, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 999})
"""Errors after which a device's context answers nothing but the same error: uncorrectable memory, illegal
address, launch timeout, destroyed context, assertion, faults of a kernel, unknown."""


class CudaError(StreamdError):
    """A CUDA call failed; `number` and `name` are CUDA's own, `sticky` where its device answers nothing any more."""

    def __init__(self, call: str, number: int, name: str, text: str, device: int) -> None:
        super().__init__(f"{call} on device {device}: {name} ({number}): {text}")
        self.call = call
        self.number = number
        self.name = name
        self.device = device
        self.sticky = number in STICKY


class _Here(threading.local):
    device = 0


_here = _Here()
_lock = threading.Lock()
_live: Counter[tuple[int, str]] = Counter()
_broken: set[int] = set()


# ---------------------------------------------------------------- the funnel
def call(name: str, *arguments: Any) -> Any:
    """Call a function of the CUDA runtime and return its value, if it has one; raises `CudaError`."""
    number, value = _attempt(name, *arguments)
    if number:
        raise _error(name, number)
    return value


def _attempt(name: str, *arguments: Any) -> tuple[int, Any]:
    error, *values = getattr(_runtime(), name)(*arguments)
    value = values[0] if len(values) == 1 else tuple(values)
    return int(error), value if values else None


def _error(name: str, number: int) -> CudaError:
    module = _runtime()
    member = module.cudaError_t(number)
    texts = [getattr(module, function)(member)[1] for function in ("cudaGetErrorName", "cudaGetErrorString")]
    title, text = (each.decode() if isinstance(each, bytes) else str(each) for each in texts)
    error = CudaError(name, number, title, text, _here.device)
    if error.sticky:
        _broken.add(_here.device)
    else:
        module.cudaGetLastError()  # told once, here; a later call must not be blamed for it
    return error


def _runtime() -> ModuleType:
    from cuda.bindings import runtime  # type: ignore[import-not-found, unused-ignore]

    return runtime  # type: ignore[no-any-return, unused-ignore]


# ---------------------------------------------------------------- devices
def device_count() -> int:
    """How many CUDA devices there are: 0 where cuda-python or a usable driver is missing."""
    try:
        number, count = _attempt("cudaGetDeviceCount")
    except (ImportError, RuntimeError):  # cuda-python raises RuntimeError where it finds no driver's library
        return 0
    return 0 if number else int(count)


def why_no_device() -> str:
    """Why `device_count` is 0, in CUDA's own words."""
    try:
        number, _ = _attempt("cudaGetDeviceCount")
    except ImportError:
        return "the package cuda-python is not installed: pip install 'streamd[tensorrt]'"
    except RuntimeError as exc:
        return f"no CUDA driver: {exc}"
    return str(_error("cudaGetDeviceCount", number)) if number else "the driver shows no CUDA device"


def use_device(device: int) -> None:
    """Let this thread's calls go to a device (by index)."""
    _here.device = device
    call("cudaSetDevice", device)


def device_name(device: int) -> str:
    """The device's name, as `NVIDIA H200`."""
    name = call("cudaGetDeviceProperties", device).name
    return name.decode().rstrip("\0") if isinstance(name, bytes) else str(name)


def compute_capability(device: int) -> str:
    """The device's compute capability, as `9.0`."""
    properties = call("cudaGetDeviceProperties", device)
    return f"{properties.major}.{properties.minor}"


def memory_bytes(device: int) -> tuple[int, int]:
    """Bytes of the device's memory: free, and in all."""
    use_device(device)
    free, total = call("cudaMemGetInfo")
    return int(free), int(total)


def live() -> dict[str, int]:
    """How many owners of each kind are open, on all devices."""
    with _lock:
        kinds: Counter[str] = Counter()
        for (_, kind), count in _live.items():
            kinds[kind] += count
        return {kind: count for kind, count in kinds.items() if count}


def hold(device: int, kind: str) -> None:
    """Count something that is held on a device by other than an owner of this module (a TensorRT context)."""
    with _lock:
        _live[device, kind] += 1


def let_go(device: int, kind: str) -> None:
    """Take back one `hold`."""
    with _lock:
        _live[device, kind] -= 1


def revive(device: int) -> None:
    """Make this thread use a device, and bring it back first where a sticky error broke it.

    A broken context is left behind by resetting the device, which is only sound once nothing on it is held any
    more; until then, and where the reset does not help, raises `CudaError`.
    """
    _here.device = device
    with _lock:
        broken = device in _broken
        held = {kind: count for (where, kind), count in _live.items() if where == device and count}
    if broken:
        if held:
            raise CudaError(
                "reset", 709, "cudaErrorContextIsDestroyed", f"lanes still hold parts of it: {held}", device
            )
        for name, arguments in (("cudaSetDevice", (device,)), ("cudaDeviceReset", ()), ("cudaGetLastError", ())):
            _attempt(name, *arguments)  # they may well say once more what broke the device
    use_device(device)
    if broken:
        call("cudaFree", 0)
        call("cudaDeviceSynchronize")
        with _lock:
            _broken.discard(device)


# ---------------------------------------------------------------- owners
class _Owner:
    """Holds one resource of a device: `close` releases it, twice is harmless, and a forgotten close warns."""

    kind: ClassVar[str]
    _open = False

    def _opened(self) -> None:
        self.device = _here.device
        self._open = True
        hold(self.device, self.kind)

    def close(self) -> None:
        """Release it. A device that is broken has lost it already."""
        if not self._open:
            return
        self._open = False
        let_go(self.device, self.kind)
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
    """Pinned host memory, which the device copies to and from without a detour.

    Its views are dead once it is closed.
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
    """A non-blocking stream; `priority` as CUDA counts: lower goes first, 0 is the least."""

    kind = "streams"

    def __init__(self, priority: int = 0) -> None:
        self.priority = priority
        flags = _runtime().cudaStreamNonBlocking
        self.handle = int(call("cudaStreamCreateWithPriority", flags, priority))
        self._opened()

    def synchronize(self) -> None:
        """Wait until all its work is done, with the GIL released."""
        call("cudaStreamSynchronize", self.handle)

    def done(self) -> bool:
        """Whether all its work is done; never blocks."""
        number, _ = _attempt("cudaStreamQuery", self.handle)
        if number not in (0, NOT_READY):
            raise _error("cudaStreamQuery", number)
        return number == 0

    def capture(self, enqueue: Callable[[], None]) -> "Graph":
        """Return a graph of what `enqueue` puts on this stream; nothing of it runs.

        However it fails, the capture is ended, so that the stream can be used as before.
        """
        mode = getattr(_runtime().cudaStreamCaptureMode, _CAPTURE_THREAD_LOCAL)
        call("cudaStreamBeginCapture", self.handle, mode)
        try:
            enqueue()
        except BaseException:
            number, graph = _attempt("cudaStreamEndCapture", self.handle)
            if not number and int(graph):
                _attempt("cudaGraphDestroy", graph)
            _attempt("cudaGetLastError")
            raise
        return Graph(call("cudaStreamEndCapture", self.handle))

    def _release(self) -> None:
        call("cudaStreamDestroy", self.handle)


class Event(_Owner):
    """A mark on a stream. `blocking`: who waits sleeps, and does not spin; `timing`: it can tell times."""

    kind = "events"

    def __init__(self, *, blocking: bool = True, timing: bool = False) -> None:
        module = _runtime()
        flags = module.cudaEventBlockingSync if blocking else module.cudaEventDefault
        self.handle = int(call("cudaEventCreateWithFlags", flags | (0 if timing else module.cudaEventDisableTiming)))
        self._opened()

    def record(self, stream: Stream) -> None:
        """Put the mark behind what is on the stream now."""
        call("cudaEventRecord", self.handle, stream.handle)

    def synchronize(self) -> None:
        """Wait until the stream has come to the mark, with the GIL released."""
        call("cudaEventSynchronize", self.handle)

    def done(self) -> bool:
        """Whether the stream has come to the mark; never blocks."""
        number, _ = _attempt("cudaEventQuery", self.handle)
        if number not in (0, NOT_READY):
            raise _error("cudaEventQuery", number)
        return number == 0

    def elapsed_ms(self, since: "Event") -> float:
        """Milliseconds on the device from the mark `since` to this one; both with `timing`."""
        return float(call("cudaEventElapsedTime", since.handle, self.handle))

    def _release(self) -> None:
        call("cudaEventDestroy", self.handle)


class Graph(_Owner):
    """A captured graph, ready to be launched as often as one likes; takes the captured `graph` over."""

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
    kind = _runtime().cudaMemcpyKind.cudaMemcpyHostToDevice
    call("cudaMemcpyAsync", pointer, source.ctypes.data, nbytes, kind, stream.handle)


def copy_to_host(target: npt.NDArray[Any], pointer: int, nbytes: int, stream: Stream) -> None:
    """Enqueue a copy of `nbytes` into pinned `target`."""
    kind = _runtime().cudaMemcpyKind.cudaMemcpyDeviceToHost
    call("cudaMemcpyAsync", target.ctypes.data, pointer, nbytes, kind, stream.handle)
