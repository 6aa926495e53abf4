"""Two devices that are fake, all of which is given back."""

from collections.abc import Iterator

import pytest

from streamd.device import cuda
from tests.device.fake_cuda import FakeCuda, installed


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
    assert cuda.live() == {}
