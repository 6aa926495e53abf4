"""CUDA devices: which there are, what is held on each, and whether a broken one comes back."""

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
    except (ImportError, RuntimeError):  # cuda-python raises RuntimeError where it finds no driver's library
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
        raise BackendUnavailableError(f"devices {missing} are not there, expected 0 to {count - 1}")


def use_device(device: int) -> None:
    """Let this thread's calls go to a device (by index)."""
    here.device = device
    call("cudaSetDevice", device)


def get_device_name(device: int) -> str:
    """The device's name, as `NVIDIA H200`."""
    name = call("cudaGetDeviceProperties", device).name
    return name.decode().rstrip("\0") if isinstance(name, bytes) else str(name)


def get_compute_capability(device: int) -> str:
    """The device's compute capability, as `9.0`."""
    properties = call("cudaGetDeviceProperties", device)
    return f"{properties.major}.{properties.minor}"


def get_memory_bytes(device: int) -> tuple[int, int]:
    """Bytes of the device's memory: free, and in all."""
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
    """Count something that is held on a device by other than an owner of this module (a TensorRT context)."""
    with _lock:
        _live[device, kind] += 1


def note_released(device: int, kind: str) -> None:
    """Take back one `note_held`."""
    with _lock:
        _live[device, kind] -= 1


def is_broken(device: int) -> bool:
    """Whether a sticky error broke the device for this process, and it did not come back."""
    with _lock:
        return device in broken


def is_unrecoverable(device: int) -> bool:
    """Whether a reset of the broken device was tried, and did not bring it back."""
    with _lock:
        return device in _beyond_repair


def make_unusable_error(device: int, why: str) -> BackendUnavailableError:
    """The error to raise where a lane cannot be made on a device: whether it may ever be, in this process, it says."""
    return (DeviceLostError if is_unrecoverable(device) else BackendUnavailableError)(why)


def revive(device: int) -> None:
    """Make this thread use a device, and bring it back first where a sticky error broke it.

    A broken context is left behind by resetting the device, which is only sound once nothing on it is held any
    more; until then, and where the reset does not help, raises `CudaError`. On an H200 (driver 580.159) it did not
    help after an illegal access: only another process can use the device then.
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
        attempt(name, *arguments)  # they may well say once more what broke the device
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
