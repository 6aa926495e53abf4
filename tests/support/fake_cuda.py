"""A CUDA runtime in ordinary memory, with the names and manners of cuda-python, that fails by script.

Streams do their work at once, or keep it for a graph while they are captured.
"""
# ruff: noqa: N802, N815 - the names are the library's

import ctypes
import enum
import sys
import types
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tests.support.fake_kernels import ARGUMENTS, KERNELS

Work = Callable[[], None]


class CudaErrorT(enum.IntEnum):
    """The errors that tests provoke."""

    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNotReady = 600
    cudaErrorIllegalAddress = 700
    cudaErrorContextIsDestroyed = 709
    cudaErrorStreamCaptureUnsupported = 900


OK = CudaErrorT.cudaSuccess


@dataclass
class FakeStream:
    captured: list[Work] | None = None


@dataclass
class FakeCuda:
    """The device's state, and what goes wrong next."""

    devices: int = 1
    free_bytes: int = 1 << 40
    failures: dict[str, deque[int]] = field(default_factory=dict)
    """By function: the errors that its next calls return."""
    broken: set[int] = field(default_factory=set)
    """Devices after a sticky error: everything but a reset fails."""
    reset_helps: bool = True
    device: int = 0
    calls: list[str] = field(default_factory=list)
    memory: dict[int, Any] = field(default_factory=dict)
    streams: dict[int, FakeStream] = field(default_factory=dict)
    events: dict[int, int] = field(default_factory=dict)
    """Their flags."""
    graphs: dict[int, list[Work]] = field(default_factory=dict)
    executables: dict[int, list[Work]] = field(default_factory=dict)
    modules: dict[int, bytes] = field(default_factory=dict)
    """The PTX of each loaded module."""
    places: dict[int, int] = field(default_factory=dict)
    """The device of each that was ever made."""
    _handle: int = 1000

    def fail(self, function: str, *numbers: int) -> None:
        """Let the next calls of a function return these errors."""
        self.failures.setdefault(function, deque()).extend(numbers)

    def put(self, stream: int, work: Work) -> None:
        """Do work on a stream, or keep it for the graph that is captured."""
        captured = self.streams[stream].captured
        if captured is None:
            work()
        else:
            captured.append(work)

    def handle(self) -> int:
        self._handle += 1
        self.places[self._handle] = self.device
        return self._handle

    def reset(self) -> None:
        """Take all of the current device's, also what could not be freed while it was broken."""
        self.broken.discard(self.device)
        for held in self._held:
            for each in [each for each in held if self.places[each] == self.device]:
                del held[each]

    @property
    def left(self) -> int:
        """What is still allocated, of any kind."""
        return sum(map(len, self._held))

    @property
    def _held(self) -> tuple[dict[int, Any], ...]:
        return self.memory, self.streams, self.events, self.graphs, self.executables, self.modules


class Functions:
    """The runtime's functions; each returns `(error, value...)`."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda

    def cudaGetDeviceCount(self) -> Any:
        return (OK, self.cuda.devices) if self.cuda.devices else (CudaErrorT.cudaErrorInsufficientDriver, None)

    def cudaSetDevice(self, device: int) -> Any:
        self.cuda.device = device
        return (OK,)

    def cudaGetDeviceProperties(self, device: int) -> Any:
        return OK, types.SimpleNamespace(name=b"Fake GPU\0\0", major=9, minor=0)

    def cudaMemGetInfo(self) -> Any:
        return OK, self.cuda.free_bytes, 1 << 40

    def cudaGetErrorName(self, error: int) -> Any:
        return OK, CudaErrorT(error).name.encode()

    def cudaGetErrorString(self, error: int) -> Any:
        return OK, b"as scripted"

    def cudaGetLastError(self) -> Any:
        return (OK,)

    def cudaDeviceReset(self) -> Any:
        if self.cuda.reset_helps:
            self.cuda.reset()
        return (OK,)

    def cudaDeviceSynchronize(self) -> Any:
        return (OK,)

    def _allocate(self, size: int) -> Any:
        if size > self.cuda.free_bytes:
            return CudaErrorT.cudaErrorMemoryAllocation, None
        buffer = (ctypes.c_uint8 * size)()
        pointer = ctypes.addressof(buffer)
        self.cuda.memory[pointer] = buffer
        self.cuda.places[pointer] = self.cuda.device
        return OK, pointer

    def cudaHostAlloc(self, size: int, flags: int) -> Any:
        return self._allocate(size)

    def cudaMalloc(self, size: int) -> Any:
        return self._allocate(size)

    def cudaFree(self, pointer: int) -> Any:
        if pointer:
            del self.cuda.memory[pointer]
        return (OK,)

    cudaFreeHost = cudaFree

    def cudaStreamCreateWithPriority(self, flags: int, priority: int) -> Any:
        handle = self.cuda.handle()
        self.cuda.streams[handle] = FakeStream()
        return OK, handle

    def cudaStreamDestroy(self, stream: int) -> Any:
        del self.cuda.streams[stream]
        return (OK,)

    def cudaStreamSynchronize(self, stream: int) -> Any:
        return (OK,)

    def cudaStreamQuery(self, stream: int) -> Any:
        return (OK,)

    def cudaStreamWaitEvent(self, stream: int, event: int, flags: int) -> Any:
        assert event in self.cuda.events
        return (OK,)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> Any:
        assert self.cuda.streams[stream].captured is None, "captured twice"
        self.cuda.streams[stream].captured = []
        return (OK,)

    def cudaStreamEndCapture(self, stream: int) -> Any:
        work, self.cuda.streams[stream].captured = self.cuda.streams[stream].captured, None
        assert work is not None, "no capture to end"
        handle = self.cuda.handle()
        self.cuda.graphs[handle] = work
        return OK, handle

    def cudaGraphInstantiate(self, graph: int, flags: int) -> Any:
        handle = self.cuda.handle()
        self.cuda.executables[handle] = self.cuda.graphs[graph]
        return OK, handle

    def cudaGraphDestroy(self, graph: int) -> Any:
        del self.cuda.graphs[graph]
        return (OK,)

    def cudaGraphExecDestroy(self, executable: int) -> Any:
        del self.cuda.executables[executable]
        return (OK,)

    def cudaGraphLaunch(self, executable: int, stream: int) -> Any:
        for work in self.cuda.executables[executable]:
            work()
        return (OK,)

    def cudaEventCreateWithFlags(self, flags: int) -> Any:
        handle = self.cuda.handle()
        self.cuda.events[handle] = flags
        return OK, handle

    def cudaEventRecord(self, event: int, stream: int) -> Any:
        return (OK,)

    def cudaEventSynchronize(self, event: int) -> Any:
        return (OK,)

    def cudaEventQuery(self, event: int) -> Any:
        return (OK,)

    def cudaEventElapsedTime(self, begin: int, end: int) -> Any:
        return OK, 1.5

    def cudaEventDestroy(self, event: int) -> Any:
        del self.cuda.events[event]
        return (OK,)

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: int, stream: int) -> Any:
        self.cuda.put(stream, partial(_copy, to, source, size))
        return (OK,)


def _copy(to: int, source: int, size: int) -> None:
    ctypes.memmove(to, source, size)


_WORKS_WHEN_BROKEN = {"cudaGetErrorName", "cudaGetErrorString", "cudaGetDeviceProperties", "cudaGetDeviceCount"}
_WORKS_WHEN_BROKEN |= {"cudaDeviceReset", "cudaGetLastError", "cuGetErrorName", "cuGetErrorString"}


class Runtime(types.ModuleType):
    """`cuda.bindings.runtime` over a `FakeCuda`."""

    cudaError_t = CudaErrorT
    cudaStreamNonBlocking = 1
    cudaEventDefault = 0
    cudaEventBlockingSync = 1
    cudaEventDisableTiming = 2
    cudaStreamCaptureMode = types.SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
    cudaMemcpyKind = types.SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)

    def __init__(self, cuda: FakeCuda) -> None:
        super().__init__("cuda.bindings.runtime")
        self._cuda = cuda
        self._functions = Functions(cuda)

    def __getattr__(self, name: str) -> Any:
        return _make_function(self._cuda, self._functions, name)


class DriverFunctions:
    """The driver's functions for kernels, which do their work in numpy."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda

    def cuModuleLoadData(self, ptx: bytes) -> Any:
        handle = self.cuda.handle()
        self.cuda.modules[handle] = ptx
        return OK, handle

    def cuModuleUnload(self, module: int) -> Any:
        del self.cuda.modules[module]
        return (OK,)

    def cuModuleGetFunction(self, module: int, name: bytes) -> Any:
        assert b".entry " + name + b"(" in self.cuda.modules[module], "not in the PTX"
        return OK, name.decode()

    def cuLaunchKernel(self, function: str, *rest: Any) -> Any:
        blocks, _, _, threads, _, _, _, stream, parameters, _ = rest
        pointers = (ctypes.c_void_p * ARGUMENTS[function]).from_address(parameters)
        values = [ctypes.c_uint64.from_address(int(pointer or 0)).value for pointer in pointers]
        self.cuda.put(stream, partial(KERNELS[function], blocks, threads, values))
        return (OK,)

    def cuGetErrorName(self, error: int) -> Any:
        return OK, CudaErrorT(error).name.encode()

    def cuGetErrorString(self, error: int) -> Any:
        return OK, b"as scripted"


class Driver(types.ModuleType):
    """`cuda.bindings.driver` over a `FakeCuda`."""

    CUresult = CudaErrorT

    def __init__(self, cuda: FakeCuda) -> None:
        super().__init__("cuda.bindings.driver")
        self._cuda = cuda
        self._functions = DriverFunctions(cuda)

    def __getattr__(self, name: str) -> Any:
        return _make_function(self._cuda, self._functions, name)


def _make_function(cuda: FakeCuda, functions: object, name: str) -> Callable[..., Any]:
    """A function that notes the call and fails by script, or because its device is broken."""
    if name.startswith("__"):
        raise AttributeError(name)
    function = getattr(functions, name)

    def run(*arguments: Any) -> Any:
        cuda.calls.append(name)
        if (scripted := cuda.failures.get(name)) and (number := scripted.popleft()):
            return CudaErrorT(number), None
        if name == "cudaSetDevice":
            cuda.device = arguments[0]
        if cuda.device in cuda.broken and name not in _WORKS_WHEN_BROKEN:
            return CudaErrorT.cudaErrorIllegalAddress, None
        return function(*arguments)

    return run


@contextmanager
def installed(cuda: FakeCuda) -> Iterator[FakeCuda]:
    """Let `cuda.bindings.runtime` be the fake while the block runs."""
    package, bindings = types.ModuleType("cuda"), types.ModuleType("cuda.bindings")
    runtime, driver = Runtime(cuda), Driver(cuda)
    bindings.runtime, bindings.driver = runtime, driver  # type: ignore[attr-defined]
    modules = {
        "cuda": package, "cuda.bindings": bindings, "cuda.bindings.runtime": runtime, "cuda.bindings.driver": driver,
    }  # fmt: skip
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield cuda
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
