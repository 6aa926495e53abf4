"""What a benchmark ran on: processor, memory, GPU, package versions; and how busy the GPU is meanwhile.

NVML gives utilisation where the package nvidia-ml-py is installed; without it only CUDA's own figure of memory is had.
"""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SAMPLE_SECONDS = 0.02


class DeviceMonitor:
    """Watches one GPU; on a machine without any it gives nothing. `missing` says what cannot be measured here."""

    def __init__(self, device: int = 0) -> None:
        from streamd.inference import cuda

        self.device, self._cuda = device, cuda
        self.missing: list[str] = []
        self.there = cuda.device_count() > device
        self._nvml: Any
        self._handle: Any
        self._nvml, self._handle = self._open_nvml() if self.there else (None, None)
        if not self.there:
            self.missing.append("GPU memory and utilisation: there is no CUDA device")

    def used_bytes(self) -> int | None:
        """Bytes of the device's memory that are taken, by anyone."""
        if not self.there:
            return None
        free, total = self._cuda.memory_bytes(self.device)
        return total - free

    @contextmanager
    def sample_utilization(self) -> Iterator[list[float]]:
        """Sample utilisation (percent) into the list until the end."""
        samples: list[float] = []
        if self._nvml is None:
            yield samples
            return
        done = threading.Event()

        def watch() -> None:
            while not done.wait(SAMPLE_SECONDS):
                samples.append(float(self._nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu))

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield samples
        finally:
            done.set()
            thread.join()

    def _open_nvml(self) -> tuple[Any, Any]:
        try:
            import pynvml  # type: ignore[import-not-found, unused-ignore]

            pynvml.nvmlInit()
            return pynvml, pynvml.nvmlDeviceGetHandleByIndex(self.device)
        except ImportError:
            self.missing.append("GPU utilisation: pip install nvidia-ml-py")
        except Exception as exc:  # NVML's errors have no root but Exception
            self.missing.append(f"GPU utilisation: NVML: {exc}")
        return None, None


def describe_hardware(device: int = 0) -> dict[str, Any]:
    """Processor, cores that may be used, memory, and the GPU where there is one."""
    from streamd.inference import cuda

    said: dict[str, Any] = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "gpu": None,
    }
    if cuda.device_count() > device:
        _, total = cuda.memory_bytes(device)
        capability = cuda.compute_capability(device)
        said["gpu"] = {"name": cuda.device_name(device), "compute_capability": capability, "memory_bytes": total}
    return said


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
