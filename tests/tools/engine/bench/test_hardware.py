"""Tests `streamd/tools/engine/bench/hardware.py`: what is known with NVML, without it, and without a GPU."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("onnx")


from streamd.inference import cuda
from streamd.tools.engine.bench.hardware import DeviceMonitor, describe_hardware


@pytest.fixture
def device(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "get_memory_bytes", lambda index: (300, 1000))


def test_without_a_device_nothing_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "count_devices", lambda: 0)
    monitor = DeviceMonitor()
    assert monitor.read_used_bytes() is None
    with monitor.sample_utilization() as samples:
        pass
    assert samples == []
    assert monitor.missing == ["GPU memory and utilisation: no CUDA device"]
    assert describe_hardware()["gpu"] is None


def test_without_nvml_memory_is_known_and_missing_values_are_reported(
    device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monitor = DeviceMonitor()
    assert monitor.read_used_bytes() == 700
    assert monitor.missing == ["GPU utilisation: pip install nvidia-ml-py"]
    result = describe_hardware()
    assert result["gpu"] == {"name": "NVIDIA Fake", "compute_capability": "9.0", "memory_bytes": 1000}
    assert result["cores"] >= 1


def test_with_nvml_utilisation_is_sampled(device: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    asked = threading.Event()

    def rates(handle: int) -> Any:
        assert handle == 7
        asked.set()
        return SimpleNamespace(gpu=37)

    module = SimpleNamespace(
        nvmlInit=lambda: None, nvmlDeviceGetHandleByIndex=lambda index: 7, nvmlDeviceGetUtilizationRates=rates
    )
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monitor = DeviceMonitor()
    with monitor.sample_utilization() as samples:
        assert asked.wait(30)
    assert set(samples) == {37.0}
    assert monitor.missing == []
