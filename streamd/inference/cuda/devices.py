"""Lists CUDA devices, counts the resources that are held on each, and resets a broken one.

Knows nothing of networks or lanes.
"""

import threading
from collections import Counter
from collections.abc import Iterable

from streamd.core.errors import BackendUnavailableError, DeviceLostError
from streamd.inference.cuda.runtime import CudaError, attempt, broken, call, here, make_cuda_error

_lock = threading.Lock()
_live: Counter[tuple[int, str]] = Counter()
_beyond_repair: set[int] = set()


def count_devices() -> int:
    """Return the number of CUDA devices: 0 if cuda-python or a usable driver is missing."""
    try:
        number, count = attempt("cudaGetDeviceCount")
    except (ImportError, RuntimeError):  # cuda-python raises RuntimeError if it finds no library of the driver
        return 0
    return 0 if number else int(count)


def explain_no_device() -> str:
    """Return why `count_devices` is 0, in CUDA's own words."""
    try:
        number, _ = attempt("cudaGetDeviceCount")
    except ImportError:
        return "the package cuda-python is not installed: pip install 'streamd[tensorrt]'"
    except RuntimeError as exc:
        return f"no CUDA driver: {exc}"
    return str(make_cuda_error("cudaGetDeviceCount", number)) if number else "the driver shows no CUDA device"


def check_devices(devices: Iterable[int]) -> None:
    """Raise `BackendUnavailableError` with the devices that do not exist, or the reason why no device does."""
    count = count_devices()
    if not count:
        raise BackendUnavailableError(f"there is no CUDA device: {explain_no_device()}")
    if missing := [device for device in devices if not 0 <= device < count]:
        raise BackendUnavailableError(f"devices {missing} do not exist, expected 0 to {count - 1}")


def use_device(device: int) -> None:
    """Make the calls of this thread use a device (by index)."""
    here.device = device
    call("cudaSetDevice", device)


def get_device_name(device: int) -> str:
    """Return the name of a device, as `NVIDIA H200`."""
    name = call("cudaGetDeviceProperties", device).name
    return name.decode().rstrip("\0") if isinstance(name, bytes) else str(name)


def get_compute_capability(device: int) -> str:
    """Return the compute capability of a device, as `9.0`."""
    properties = call("cudaGetDeviceProperties", device)
    return f"{properties.major}.{properties.minor}"


def get_memory_bytes(device: int) -> tuple[int, int]:
    """Return the free and the total memory of a device, in bytes."""
    use_device(device)
    free, total = call("cudaMemGetInfo")
    return int(free), int(total)


def count_live() -> dict[str, int]:
    """Return the number of open owners of each kind, over all devices."""
    with _lock:
        kinds: Counter[str] = Counter()
        for (_, kind), count in _live.items():
            kinds[kind] += count
        return {kind: count for kind, count in kinds.items() if count}


def note_held(device: int, kind: str) -> None:
    """Count one resource that is held on a device; owners count themselves, callers count TensorRT contexts."""
    with _lock:
        _live[device, kind] += 1


def note_released(device: int, kind: str) -> None:
    """Take back one `note_held`, when the resource is released."""
    with _lock:
        _live[device, kind] -= 1


def is_broken(device: int) -> bool:
    """Whether a sticky error broke the device for this process, and no reset repaired it."""
    with _lock:
        return device in broken


def is_unrecoverable(device: int) -> bool:
    """Whether the broken device was reset and is still broken."""
    with _lock:
        return device in _beyond_repair


def make_unusable_error(device: int, why: str) -> BackendUnavailableError:
    """Return the error for a lane that cannot be made on a device.

    It is a `DeviceLostError` if no lane can be made on the device in this process any more.
    """
    return (DeviceLostError if is_unrecoverable(device) else BackendUnavailableError)(why)


def revive(device: int) -> None:
    """Make this thread use a device, and reset the device first if a sticky error broke it.

    1. A device that is not broken is only selected.
    2. While resources on a broken device are held, a reset is not sound: raises `CudaError`.
    3. Otherwise the device is reset; raises `CudaError` if it is still broken. On an H200 (driver 580.159) a reset did
       not help after an illegal access: only another process could use the device then.
    """
    here.device = device
    with _lock:
        is_broken = device in broken
        held = {kind: count for (where, kind), count in _live.items() if where == device and count}
    if not is_broken:
        use_device(device)
        return
    if held:
        raise CudaError("reset", 709, "cudaErrorContextIsDestroyed", f"lanes still hold parts of it: {held}", device)
    for name, arguments in (("cudaSetDevice", (device,)), ("cudaDeviceReset", ()), ("cudaGetLastError", ())):
        attempt(name, *arguments)  # they may report the error again that broke the device
    try:
        use_device(device)
        call("cudaFree", 0)
        call("cudaDeviceSynchronize")
    except CudaError:
        with _lock:
            _beyond_repair.add(device)
        raise
    with _lock:
        _beyond_repair.discard(device)
        broken.discard(device)
