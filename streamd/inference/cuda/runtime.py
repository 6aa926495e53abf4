"""Calls the CUDA runtime and checks the status of each call; each error is reported once.

Knows this thread's device and which devices are broken. cuda-python is imported with the first call.
"""

import threading
from types import ModuleType
from typing import Any

from streamd.core.errors import StreamdError

NOT_READY = 600

STICKY = frozenset({214, 220, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 999})
"""Errors after which each call on a device returns the same error: uncorrectable memory, illegal address, launch
timeout, destroyed context, assertion, faults of a kernel, unknown."""

broken: set[int] = set()
"""Devices that had a sticky error and were not reset since."""


class CudaError(StreamdError):
    """A CUDA call failed; `number` and `name` are CUDA's own, and after a `sticky` error the device is broken."""

    def __init__(self, call: str, number: int, name: str, text: str, device: int) -> None:
        super().__init__(f"{call} on device {device}: {name} ({number}): {text}")
        self.call = call
        self.number = number
        self.name = name
        self.device = device
        self.sticky = number in STICKY


class _Here(threading.local):
    device = 0


here = _Here()
"""The device that the calls of this thread use."""


def call(name: str, *arguments: Any) -> Any:
    """Call a function of the CUDA runtime and return its value, if it has one; raises `CudaError`."""
    number, value = attempt(name, *arguments)
    if number:
        raise make_cuda_error(name, number)
    return value


def attempt(name: str, *arguments: Any) -> tuple[int, Any]:
    """Call a function of the CUDA runtime; return its status and its value, for a caller that checks the status."""
    error, *values = getattr(module(), name)(*arguments)
    value = values[0] if len(values) == 1 else tuple(values)
    return int(error), value if values else None


def make_cuda_error(name: str, number: int) -> CudaError:
    """Return the error for a status, with CUDA's own text; a sticky error marks this thread's device as broken."""
    library = module()
    member = library.cudaError_t(number)
    texts = [getattr(library, function)(member)[1] for function in ("cudaGetErrorName", "cudaGetErrorString")]
    title, text = (each.decode() if isinstance(each, bytes) else str(each) for each in texts)
    error = CudaError(name, number, title, text, here.device)
    if error.sticky:
        broken.add(here.device)
    else:
        library.cudaGetLastError()  # CUDA would report it again, as the error of a later call
    return error


def module() -> ModuleType:
    """Return cuda-python's module of the CUDA runtime; raises `ImportError` if it is not installed."""
    from cuda.bindings import runtime  # type: ignore[import-not-found, unused-ignore]

    return runtime  # type: ignore[no-any-return, unused-ignore]
