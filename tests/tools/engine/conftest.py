"""A machine with a GPU and a TensorRT, both fake: what is built and told is real but for the plan's bytes."""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from streamd.inference import cuda
from streamd.inference.tensorrt.library import load_tensorrt

MakeLibrary = Callable[[str], Any]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """One device."""
    monkeypatch.setattr(cuda, "count_devices", lambda: 1)
    monkeypatch.setattr(cuda, "use_device", lambda device: None)
    monkeypatch.setattr(cuda, "get_device_name", lambda device: "NVIDIA Fake")
    monkeypatch.setattr(cuda, "get_compute_capability", lambda device: "9.0")


@pytest.fixture
def install(gpu: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeLibrary]:
    """Install a TensorRT of a version; returns its module, with a `recorder`."""
    pytest.importorskip("onnx")
    from tests.support.fake_tensorrt_builder import make_tensorrt

    def made(version: str) -> Any:
        module = make_tensorrt(version)
        monkeypatch.setitem(sys.modules, "tensorrt", module)
        load_tensorrt.cache_clear()
        return module

    yield made
    load_tensorrt.cache_clear()
