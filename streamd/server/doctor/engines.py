"""Checks of what runs networks: GPU, driver, runtimes, and the versions of the repository that fit them."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from streamd.core.errors import RepositoryError
from streamd.core.names import AUTO, ONNXRUNTIME_CPU, ONNXRUNTIME_CUDA, TENSORRT
from streamd.repository.listing import VersionEntry, list_versions
from streamd.repository.plans import Machine
from streamd.repository.versions import EngineRepository
from streamd.server.config import EngineSection
from streamd.server.doctor.findings import Finding, make_error, make_ok, make_warning
from streamd.server.doctor.probing import ProbedRuntimes

NVIDIA_SMI_SECONDS = 10.0

_QUERY = "--query-gpu=index,name,driver_version,memory.used,memory.total"


# ---------------------------------------------------------------- GPUs
def check_gpus(probed: ProbedRuntimes, settings: EngineSection, driver_lines: list[str] | None) -> Iterator[Finding]:
    """Report the GPUs that CUDA shows, and those that only the driver shows; `driver_lines` is `None` without one."""
    if probed.failure:
        yield make_error(
            "gpu", probed.failure, "the driver or a runtime is broken: run `nvidia-smi`, and reinstall the runtimes"
        )
        return
    if driver_lines:
        yield from (make_ok("driver", line) for line in driver_lines)
    missing = [number for number in settings.devices if number >= len(probed.devices)]
    if probed.devices and missing:
        yield make_error(
            "gpu", f"devices = {list(settings.devices)}, and CUDA shows {len(probed.devices)}", "correct `devices`"
        )
    for number, device in enumerate(probed.devices):
        yield make_ok("gpu", f"{number}: {device.name}, compute capability {device.compute_capability}")
    if probed.devices:
        yield make_ok("cuda", f"driver up to {probed.cuda_driver or 'unknown'}, runtime {probed.cuda_runtime or '?'}")
    elif driver_lines:
        yield make_warning(
            "cuda", f"the driver shows GPUs, and Python finds none: {probed.no_device}", _fix_cuda(probed)
        )
    else:
        yield make_ok("gpu", f"none that CUDA can use: {probed.no_device}")


def _fix_cuda(probed: ProbedRuntimes) -> str:
    if probed.cuda_driver and probed.cuda_runtime:
        return f"the driver supports CUDA {probed.cuda_driver}, cuda-python is for {probed.cuda_runtime}: update one"
    return "pip install 'streamd[tensorrt]'; the unit must allow the device files, see systemd/streamd.service"


def read_driver_lines(program: str = "nvidia-smi") -> list[str] | None:
    """Return what the driver's tool says of each GPU; `None` if it is not installed or does not answer."""
    if (path := shutil.which(program)) is None:
        return None
    try:
        ran = subprocess.run(
            [path, _QUERY, "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=NVIDIA_SMI_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return [line.strip() for line in ran.stdout.splitlines() if line.strip()] if ran.returncode == 0 else None


# ---------------------------------------------------------------- backends
def check_backends(probed: ProbedRuntimes, settings: EngineSection) -> Iterator[Finding]:
    """Report the backends that can run here, and whether the one that the settings demand is among them."""
    if probed.failure:
        return
    reasons = explain_unusable_backends(probed)
    usable = [name for name, reason in reasons.items() if not reason]
    versions = {TENSORRT: probed.tensorrt, ONNXRUNTIME_CUDA: probed.onnxruntime, ONNXRUNTIME_CPU: probed.onnxruntime}
    for name, reason in reasons.items():
        if not reason:
            yield make_ok("backend", f"{name} {versions[name]}")
        elif settings.backend == name:
            yield make_error(
                "backend", f"{name} is demanded and cannot run: {reason}", 'repair it, or backend = "auto"'
            )
        elif probed.devices:
            yield make_warning("backend", f"{name} is passed over: {reason}", "the reason names what to install")
        else:
            yield make_ok("backend", f"{name} is passed over: {reason}")
    if not usable:
        yield make_error("backend", "none can run here", "pip install onnxruntime")
    elif settings.backend == AUTO:
        yield make_ok("backend", f"auto tries {', '.join(usable)}")


def explain_unusable_backends(probed: ProbedRuntimes) -> dict[str, str]:
    """Return for each backend, the fastest first, why it cannot run here; empty if it can."""
    without_cuda = "" if "CUDAExecutionProvider" in probed.providers else "ONNX Runtime was built without CUDA"
    without_device = "" if probed.devices else f"no CUDA device: {probed.no_device}"
    return {
        TENSORRT: probed.no_tensorrt,
        ONNXRUNTIME_CUDA: probed.no_onnxruntime or without_device or without_cuda,
        ONNXRUNTIME_CPU: probed.no_onnxruntime,
    }


# ---------------------------------------------------------------- repository
def check_repository(settings: EngineSection, probed: ProbedRuntimes) -> Iterator[Finding]:
    """Check every version of the repository, the one that serves, and the plans that fit this machine."""
    root = Path(settings.engines)
    remedy = "`streamd engine list` shows every version with its reason"
    try:
        listing = list_versions(EngineRepository(root), make_machine(probed, settings))
    except RepositoryError as exc:
        yield make_error("engines", str(exc), "a checkout and a container image have one, `engines`")
        return
    by_name = {entry.name: entry for entry in listing.versions}
    for entry in listing.versions:
        if entry.refused is not None and entry.name not in settings.pinned:
            yield make_warning("engines", entry.refused, f"repair or remove it; {remedy}")
    serving = [by_name.get(name) for name in settings.pinned] or [listing.serving]
    for name, chosen in zip(settings.pinned or ("",), serving, strict=True):
        if chosen is None:
            which = f"{name}, which the settings pin," if name else "a version that can serve"
            yield make_error("engines", f"{root}: {which} is missing", remedy)
        elif chosen.refused is not None:
            yield make_error("engines", f"{chosen.refused} (the settings pin it)", remedy)
        else:
            yield make_ok("engines", f"{chosen.name} serves ({chosen.serves or 'pinned'})")
            yield from _check_plans(chosen, settings)


def make_machine(probed: ProbedRuntimes, settings: EngineSection) -> Machine | None:
    """Return the machine that plans must fit: the first device of the settings; `None` without TensorRT."""
    first = settings.devices[0]
    if not probed.tensorrt or first >= len(probed.devices):
        return None
    device = probed.devices[first]
    return Machine(device.name, device.compute_capability, probed.tensorrt, probed.is_lean)


def _check_plans(entry: VersionEntry, settings: EngineSection) -> Iterator[Finding]:
    if entry.plans_refused:
        yield make_warning("plans", f"{entry.name}: {entry.plans_refused}", "build the version again")
    judged = [plan for plan in entry.plans if plan.fits is not None]
    for plan in judged:
        if plan.fits:
            yield make_ok("plans", f"{entry.name}: {plan.plan.precision} fits this machine")
    if judged and not any(plan.fits for plan in judged):
        reasons = "; ".join(str(plan.why_not) for plan in judged)
        level = make_error if settings.backend == TENSORRT else make_warning
        yield level(
            "plans",
            f"{entry.name}: no plan fits this machine: {reasons}",
            "build plans here: `streamd engine build`",
        )
