"""The one checked way to the CUDA runtime: no status goes unseen, and each error is reported once.

Knows this thread's device and which devices are broken. cuda-python is imported with the first call.
"""

import threading
from types import ModuleType
from typing import Any

from streamd.core.errors import StreamdError

NOT_READY = 600

STICKY = frozenset({214, 220, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 999})
"""Errors after which a device's context answers nothing but the same error: uncorrectable memory, illegal
address, launch timeout, destroyed context, assertion, faults of a kernel, unknown."""


broken: set[int] = set()
"""Devices whose context answers nothing any more."""


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


here = _Here()
"""The device that this thread's calls go to."""


def call(name: str, *arguments: Any) -> Any:
    """Call a function of the CUDA runtime and return its value, if it has one; raises `CudaError`."""
    number, value = attempt(name, *arguments)
    if number:
        raise make_cuda_error(name, number)
    return value


def attempt(name: str, *arguments: Any) -> tuple[int, Any]:
    """Call a function of the CUDA runtime; returns its status and its value, for a caller that judges the status."""
    error, *values = getattr(module(), name)(*arguments)
    value = values[0] if len(values) == 1 else tuple(values)
    return int(error), value if values else None


def make_cuda_error(name: str, number: int) -> CudaError:
    """The error of a call's status, in CUDA's own words; a sticky one marks this thread's device as broken."""
    library = module()
    member = library.cudaError_t(number)
    texts = [getattr(library, function)(member)[1] for function in ("cudaGetErrorName", "cudaGetErrorString")]
    title, text = (each.decode() if isinstance(each, bytes) else str(each) for each in texts)
    error = CudaError(name, number, title, text, here.device)
    if error.sticky:
        broken.add(here.device)
    else:
        library.cudaGetLastError()  # told once, here; a later call must not be blamed for it
    return error


def module() -> ModuleType:
    """cuda-python's module of the CUDA runtime; ImportError where it is not installed."""
    from cuda.bindings import runtime  # type: ignore[import-not-found, unused-ignore]

    return runtime  # type: ignore[no-any-return, unused-ignore]
