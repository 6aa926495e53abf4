"""Finds the runtimes and GPUs of this machine, in a process of its own: a broken driver may crash or hang it.

Runs as `python -m streamd.server.doctor.probing` and prints JSON. TensorRT is loaded only once CUDA has found a device:
without one its objects crash the process.
"""

import json
import os
import subprocess
import sys
from typing import Any

import msgspec

PROBE_SECONDS = 60.0
"""The time that loading the runtimes may take; the first load after a boot reads gigabytes."""


class ProbedDevice(msgspec.Struct, frozen=True):
    """A GPU as CUDA shows it."""

    name: str
    compute_capability: str


class ProbedRuntimes(msgspec.Struct, frozen=True, kw_only=True):
    """The runtimes that this Python can load, with their versions; each has a text that says why it cannot be used."""

    devices: tuple[ProbedDevice, ...] = ()
    no_device: str = ""
    cuda_driver: str = ""
    """The newest CUDA that the driver supports."""
    cuda_runtime: str = ""
    """The CUDA of the package cuda-python."""
    onnxruntime: str = ""
    providers: tuple[str, ...] = ()
    no_onnxruntime: str = ""
    tensorrt: str = ""
    is_lean: bool = False
    no_tensorrt: str = ""
    failure: str = ""
    """The end of the probe itself, if it could not report."""


def probe_runtimes(timeout_seconds: float = PROBE_SECONDS, command: tuple[str, ...] = ()) -> ProbedRuntimes:
    """Probe in a child process; a child that crashes or hangs is a `failure`."""
    # The child finds the package where this process found it, also outside of the folder that it was started in.
    program = command or (sys.executable, "-m", "streamd.server.doctor.probing")
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    try:
        ran = subprocess.run(program, capture_output=True, timeout=timeout_seconds, check=False, env=environ)
    except subprocess.TimeoutExpired:
        return ProbedRuntimes(failure=f"loading the runtimes did not end within {timeout_seconds:g} s")
    except OSError as exc:
        return ProbedRuntimes(failure=f"cannot start {program[0]}: {exc.strerror or exc}")
    if ran.returncode:
        how = f"by signal {-ran.returncode}" if ran.returncode < 0 else f"with status {ran.returncode}"
        last = ran.stderr.decode(errors="replace").strip().splitlines()[-1:]
        return ProbedRuntimes(failure=": ".join([f"loading the runtimes ended {how}", *last]))
    try:
        return msgspec.json.decode(ran.stdout.splitlines()[-1] if ran.stdout else b"", type=ProbedRuntimes)
    except msgspec.DecodeError as exc:
        return ProbedRuntimes(failure=f"loading the runtimes printed something else: {exc}")


def collect_runtimes() -> dict[str, Any]:
    """Load each runtime and return the fields of `ProbedRuntimes`; only in a process that may crash."""
    found = _collect_cuda()
    found |= _collect_onnxruntime()
    found |= _collect_tensorrt()
    return found


def _collect_cuda() -> dict[str, Any]:
    from streamd.inference.cuda.devices import (
        count_devices,
        explain_no_device,
        get_compute_capability,
        get_device_name,
    )
    from streamd.inference.cuda.runtime import attempt

    found: dict[str, Any] = {"devices": []}
    for field, call in (("cuda_driver", "cudaDriverGetVersion"), ("cuda_runtime", "cudaRuntimeGetVersion")):
        try:
            number, version = attempt(call)
        except (ImportError, RuntimeError):
            continue
        if not number and version:
            found[field] = f"{version // 1_000}.{version % 1_000 // 10}"
    count = count_devices()
    for device in range(count):
        found["devices"].append({"name": get_device_name(device), "compute_capability": get_compute_capability(device)})
    return found if count else {**found, "no_device": explain_no_device()}


def _collect_onnxruntime() -> dict[str, Any]:
    from streamd.core.errors import BackendUnavailableError
    from streamd.inference.onnxruntime.library import import_onnxruntime

    try:
        runtime = import_onnxruntime()
    except BackendUnavailableError as exc:
        return {"no_onnxruntime": str(exc)}
    return {"onnxruntime": runtime.__version__, "providers": list(runtime.get_available_providers())}


def _collect_tensorrt() -> dict[str, Any]:
    from streamd.core.errors import BackendUnavailableError
    from streamd.inference.tensorrt.library import load_tensorrt

    try:
        library = load_tensorrt()
    except BackendUnavailableError as exc:
        return {"no_tensorrt": str(exc)}
    return {"tensorrt": library.version, "is_lean": library.lean}


if __name__ == "__main__":
    sys.stdout.write(f"{json.dumps(collect_runtimes())}\n")
