"""Two devices that are fake, all of which is given back."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from streamd.inference import cuda
from streamd.inference.tensorrt.library import load_tensorrt
from tests.support.contracts import make_contract
from tests.support.fake_cuda import FakeCuda, installed
from tests.support.fake_tensorrt_runtime import FakeTensorRt


@pytest.fixture
def device() -> Iterator[FakeCuda]:
    """CUDA with two devices."""
    with installed(FakeCuda(devices=2)) as fake:
        cuda.use_device(0)
        yield fake
        fake.broken.clear()
        for index in range(2):
            cuda.revive(index)
        cuda.use_device(0)
    assert fake.left == 0, "every owner was closed, and gave all back"
    assert cuda.count_live() == {}


@pytest.fixture(params=["8.6.1", "10.9.0.34"])
def library(
    request: pytest.FixtureRequest, device: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeTensorRt]:
    """TensorRT over those devices, as 8.6 and as 10 have it."""
    fake = FakeTensorRt(request.param, device, make_contract())
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    load_tensorrt.cache_clear()
    yield fake
    load_tensorrt.cache_clear()


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What TensorRT lanes keep to the end of the process, noted instead."""
    noted: list[Any] = []
    for module in ("tensorrt.executor", "tensorrt.engine"):
        monkeypatch.setattr(f"streamd.inference.{module}.leak_deliberately", lambda *each: noted.extend(each))
    return noted
