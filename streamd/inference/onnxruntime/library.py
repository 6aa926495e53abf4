"""Imports ONNX Runtime, finds out whether CUDA works in it, and reads the texts of its errors.

Knows nothing of lanes. onnxruntime is imported with the first call.
"""

import ctypes
import io
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from streamd.core.errors import BackendUnavailableError
from streamd.inference import cuda

CUDA_PROVIDER = "CUDAExecutionProvider"
INSTALL_COMMAND = "pip install 'onnxruntime-gpu[cuda,cudnn]' cuda-python"
REINSTALL_COMMANDS = f"pip uninstall onnxruntime, then {INSTALL_COMMAND}"


def import_onnxruntime() -> Any:
    """Import ONNX Runtime, with or without CUDA; raises `BackendUnavailableError`."""
    try:
        import onnxruntime
    except ImportError as exc:
        raise BackendUnavailableError(f"onnxruntime cannot be imported: {exc}") from exc
    return onnxruntime


def load_onnxruntime() -> Any:
    """Import ONNX Runtime, and load CUDA's libraries from where pip installed them.

    Raises `BackendUnavailableError` if it is missing or was built without CUDA.
    """
    try:
        onnxruntime = import_onnxruntime()
    except BackendUnavailableError as exc:
        raise BackendUnavailableError(f"{exc}; {INSTALL_COMMAND}") from exc
    if CUDA_PROVIDER not in onnxruntime.get_available_providers():
        raise BackendUnavailableError(f"the installed ONNX Runtime was built without CUDA: {REINSTALL_COMMANDS}")
    if preload := getattr(onnxruntime, "preload_dlls", None):
        with redirect_stdout(io.StringIO()):  # it prints what it does not find; `explain_missing_provider` reports it
            preload()
    return onnxruntime


def explain_missing_provider(runtime: Any) -> str:
    """Return why a session lacks the CUDA provider: the error of the loader, and the remedy."""
    library = Path(runtime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    try:
        ctypes.CDLL(str(library))
    except OSError as exc:
        reason = f"its library does not load: {exc}"
    else:
        reason = "its library loads, but it found no device that it can use"
    version = getattr(runtime, "cuda_version", "") or "the release it was built for"
    return f"{reason}. It needs an NVIDIA driver, CUDA {version} and cuDNN 9: {INSTALL_COMMAND}"


def count_cpu_nodes(session: Any) -> int | None:
    """Return the number of nodes that ONNX Runtime placed on the CPU; `None` if it is too old to report it."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None
    parts = session.get_provider_graph_assignment_info()
    return sum(len(part.get_nodes()) for part in parts if part.ep_name == "CPUExecutionProvider")


# ---------------------------------------------------------------- texts of errors
_NUMBER = re.compile(r"\bCUDA (?:failure|error):? (\d+)", re.IGNORECASE)
_BROKEN_NUMBERS = cuda.STICKY | {46, 100}  # and those of a device that was removed
_BROKEN_WORDS = re.compile(
    r"illegal memory access|unspecified launch failure|misaligned address|illegal instruction|invalid program counter"
    r"|hardware stack error|device-side assert|launch timed out|uncorrectable (?:ecc|nvlink)|context is destroyed"
    r"|(?:gpu is|device) lost|cudaError(?:IllegalAddress|LaunchFailure|LaunchTimeout|Assert|HardwareStackError"
    r"|IllegalInstruction|MisalignedAddress|InvalidAddressSpace|InvalidPc|ECCUncorrectable|NvlinkUncorrectable"
    r"|ContextIsDestroyed|DevicesUnavailable)",
    re.IGNORECASE,
)
_NO_ROOM = re.compile(r"out of memory|MemoryAllocation|failed to allocate|available memory of", re.IGNORECASE)


def mentions_broken_device(text: str) -> bool:
    """Whether the text of an error names a CUDA error that breaks the device."""
    numbers = {int(number) for number in _NUMBER.findall(text)}
    return bool(numbers & _BROKEN_NUMBERS) or _BROKEN_WORDS.search(text) is not None


def suggest_less_memory(text: str) -> str:
    """Return the remedy to append to the text of an error about memory; empty for other errors."""
    return "; open fewer lanes or smaller buckets" if _NO_ROOM.search(text) else ""
