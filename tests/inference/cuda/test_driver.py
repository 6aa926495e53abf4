"""Tests `streamd/inference/cuda/driver.py`.

Kernels through the driver's interface, and the kernels that the package has.
"""

import hashlib
import re
from importlib.resources import files

import pytest

from streamd.inference import cuda
from streamd.inference.cuda import CudaError, KernelModule, Stream
from tests.support.fake_cuda import CudaErrorT, FakeCuda

KERNELS = files("streamd.inference.cuda") / "kernels"


@pytest.mark.parametrize("source", [each for each in KERNELS.iterdir() if each.name.endswith(".cu")], ids=str)
def test_ptx_belongs_to_its_source(source: object) -> None:
    name = source.name.removesuffix(".cu")  # type: ignore[attr-defined]
    ptx = cuda.read_ptx(name).decode()
    digest = hashlib.sha256(source.read_bytes()).hexdigest()  # type: ignore[attr-defined]
    assert ptx.startswith(f"// SHA-256 of {name}.cu: {digest}\n"), "run scripts/compile_kernels.py"
    version = re.search(r"^\.version (\d+)\.(\d+)$", ptx, re.MULTILINE)
    assert version is not None
    assert (int(version[1]), int(version[2])) <= (8, 0), "drivers from 525 on take PTX 8.0"


def test_what_the_driver_refuses_is_reported(device: FakeCuda) -> None:
    device.fail("cuModuleLoadData", CudaErrorT.cudaErrorInvalidValue)
    with pytest.raises(CudaError, match=r"cuModuleLoadData on device 0: cudaErrorInvalidValue \(1\): as scripted"):
        KernelModule(cuda.read_ptx("windows"))
    assert not cuda.is_broken(0)
    module = KernelModule(cuda.read_ptx("windows"))
    bound = module.get_kernel("scatter_rows").bind(0, 0, 0, 0, 0, 0, 3)
    with Stream() as stream:
        device.fail("cuLaunchKernel", CudaErrorT.cudaErrorIllegalAddress)
        with pytest.raises(CudaError) as raised:
            bound.launch(1, 1, stream)
        assert raised.value.sticky
        assert cuda.is_broken(0)
        module.close()  # its memory is gone with the device
    device.modules.clear()


def test_a_module_is_unloaded_once(device: FakeCuda) -> None:
    module = KernelModule(cuda.read_ptx("windows"))
    assert len(device.modules) == 1
    module.close()
    module.close()
    assert device.modules == {}
