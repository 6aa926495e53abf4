"""The machine of a benchmark: processor, memory, GPU; and how busy the GPU is during a measurement.

NVML gives the utilisation if the package nvidia-ml-py is installed; without it only CUDA's figure of memory is known.
"""

import os
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SAMPLE_SECONDS = 0.02
"""Interval between two samples of the GPU's utilisation."""


class DeviceMonitor:
    """Watches one GPU; without a GPU it measures nothing. `missing` lists what cannot be measured here, and why."""

    def __init__(self, device: int = 0) -> None:
        from streamd.inference import cuda

        self.device, self._cuda = device, cuda
        self.missing: list[str] = []
        self.is_present = cuda.count_devices() > device
        self._nvml: Any
        self._handle: Any
        self._nvml, self._handle = self._open_nvml() if self.is_present else (None, None)
        if not self.is_present:
            self.missing.append("GPU memory and utilisation: no CUDA device")

    def read_used_bytes(self) -> int | None:
        """Return the bytes of device memory that are in use, by all processes; None without a GPU."""
        if not self.is_present:
            return None
        free, total = self._cuda.get_memory_bytes(self.device)
        return total - free

    @contextmanager
    def sample_utilization(self) -> Iterator[list[float]]:
        """Yield a list into which a thread samples the utilisation (percent) until the context ends."""
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
        except Exception as exc:  # NVML's errors have no common base class but Exception
            self.missing.append(f"GPU utilisation: NVML: {exc}")
        return None, None


def describe_hardware(device: int = 0) -> dict[str, Any]:
    """Return the processor, the cores that this process may use, the memory, and the GPU or None."""
    from streamd.inference import cuda

    hardware: dict[str, Any] = {
        "processor": _read_processor_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "gpu": None,
    }
    if cuda.count_devices() > device:
        _, total = cuda.get_memory_bytes(device)
        capability = cuda.get_compute_capability(device)
        hardware["gpu"] = {
            "name": cuda.get_device_name(device),
            "compute_capability": capability,
            "memory_bytes": total,
        }
    return hardware


def _read_processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
