"""Kernels in PTX: loaded and launched by the driver's interface, since the runtime's has none for them.

Calls are checked as those of the runtime are. cuda-python is imported with the first call.
"""

import ctypes
from pathlib import Path
from types import ModuleType
from typing import Any

from streamd.inference.cuda.owners import Stream
from streamd.inference.cuda.runtime import STICKY, CudaError, broken, here
from streamd.regular_files import read_with_timeout

WORD_BYTES = 8


class KernelModule:
    """A module of kernels on this thread's device, until it is closed.

    Raises `CudaError` if the driver cannot load it.
    """

    def __init__(self, ptx: bytes) -> None:
        self.device = here.device
        self._functions: dict[str, Any] = {}
        self._module = call_driver("cuModuleLoadData", ptx + b"\0")

    def get_kernel(self, name: str) -> "Kernel":
        """Return a kernel by its name in the source."""
        return Kernel(call_driver("cuModuleGetFunction", self._module, name.encode()))

    def close(self) -> None:
        """Unload the module; a second call does nothing, nor does one after the device was lost."""
        module, self._module = self._module, None
        if module is not None and self.device not in broken:
            call_driver("cuModuleUnload", module)


class Kernel:
    """A kernel that can be launched."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def allow_shared_bytes(self, nbytes: int) -> None:
        """Let a block have so much shared memory, beyond the 48 KiB that each may have."""
        attribute = driver_module().CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        call_driver("cuFuncSetAttribute", self.function, attribute, nbytes)

    def bind(self, *values: int) -> "BoundKernel":
        """Return the kernel with arguments of its own: integers of up to 64 bits, pointers as such."""
        return BoundKernel(self.function, values)


class BoundKernel:
    """A kernel with its arguments, which stay in place between launches.

    A launch costs a few microseconds of Python; preparing the arguments anew each time would double that.
    """

    def __init__(self, function: Any, values: tuple[int, ...]) -> None:
        self._function = function
        # The driver reads as many bytes of each as the kernel's parameter has; all machines here are little-endian.
        self._cells = (ctypes.c_uint64 * len(values))(*values)
        base = ctypes.addressof(self._cells)
        self._pointers = (ctypes.c_void_p * len(values))(*(base + WORD_BYTES * i for i in range(len(values))))
        self._address = ctypes.addressof(self._pointers)

    def set(self, place: int, value: int) -> None:
        """Change one argument for the launches from now on."""
        self._cells[place] = value

    def launch(self, blocks: int, threads: int, stream: Stream, shared_bytes: int = 0) -> None:
        """Enqueue it on a stream."""
        call_driver(
            "cuLaunchKernel", self._function, blocks, 1, 1, threads, 1, 1, shared_bytes, stream.handle, self._address, 0
        )


def read_ptx(name: str) -> bytes:
    """Return the PTX of the package's kernels of this name."""
    return read_with_timeout(Path(__file__).parent / "kernels" / f"{name}.ptx")


def call_driver(name: str, *arguments: Any) -> Any:
    """Call a function of the CUDA driver and return its value, if it has one; raises `CudaError`."""
    error, *values = getattr(driver_module(), name)(*arguments)
    if int(error):
        raise _make_error(name, int(error))
    return values[0] if values else None


def _make_error(name: str, number: int) -> CudaError:
    """Return the error for a status; the driver's numbers are those of the runtime. A sticky one marks the device."""
    library = driver_module()
    texts = [
        getattr(library, function)(library.CUresult(number))[1] for function in ("cuGetErrorName", "cuGetErrorString")
    ]
    title, text = (each.decode() if isinstance(each, bytes) else str(each) for each in texts)
    if number in STICKY:
        broken.add(here.device)
    return CudaError(name, number, title, text, here.device)


def driver_module() -> ModuleType:
    """Return cuda-python's module of the CUDA driver; raises `ImportError` if it is not installed."""
    from cuda.bindings import driver  # type: ignore[import-not-found, unused-ignore]

    return driver  # type: ignore[no-any-return, unused-ignore]
