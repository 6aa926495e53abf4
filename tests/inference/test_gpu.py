"""Tests `streamd/inference`.

The real CUDA, where there is one: what the fake stands in for.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from streamd.core.errors import BackendUnavailableError, RepositoryError
from streamd.inference import cuda
from streamd.inference.cuda import DeviceBuffer, Event, HostBuffer, Stream
from streamd.inference.lane import Inputs
from streamd.inference.onnxruntime.cpu_lane import OnnxRuntimeCpuBackend
from streamd.inference.tensorrt.engine import Plan
from streamd.inference.tensorrt.lane import TensorRtBackend
from streamd.inference.tensorrt.library import load_tensorrt
from streamd.repository.plans import choose_plan
from streamd.repository.versions import EngineVersion, load_version
from streamd.runtime.lanes.warmup import fill_plausibly

ENGINES = Path(__file__).parents[2] / "engines"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not cuda.count_devices(), reason=f"needs a GPU: {cuda.explain_no_device()}"),
]


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    assert cuda.count_live() == {}


def test_a_graph_copies_there_and_back_as_often_as_it_is_launched() -> None:
    cuda.use_device(0)
    with (
        Stream() as stream,
        Event(timing=True) as began,
        Event(timing=True) as ended,
        HostBuffer(4096) as given,
        HostBuffer(4096) as got,
        DeviceBuffer(4096) as there,
    ):
        source, target = given.array(np.int32, (1024,)), got.array(np.int32, (1024,))

        def enqueue() -> None:
            cuda.copy_to_device(there.pointer, source, 4096, stream)
            cuda.copy_to_host(target, there.pointer, 4096, stream)

        with stream.capture(enqueue) as graph:
            for turn in range(3):
                source[:] = np.arange(1024) * (turn + 1)
                target[:] = -1
                began.record(stream)
                graph.launch(stream)
                ended.record(stream)
                ended.synchronize()
                np.testing.assert_array_equal(target, source)
                assert ended.elapsed_ms(began) > 0
        assert stream.is_done()


def test_what_is_released_is_the_device_s_again() -> None:
    cuda.use_device(0)
    DeviceBuffer(1).close()
    before, _ = cuda.get_memory_bytes(0)
    with DeviceBuffer(1 << 30):
        assert cuda.get_memory_bytes(0)[0] <= before - (1 << 30)
    assert cuda.get_memory_bytes(0)[0] >= before - (64 << 20)


def planned_versions() -> list[tuple[EngineVersion, Plan]]:
    """The versions that have a plan for this machine, as `streamd engine build` leaves them."""
    found = []
    for path in sorted(ENGINES.iterdir()):
        try:
            version = load_version(path)
            library = load_tensorrt()
            plan = choose_plan(
                version, "auto", cuda.get_device_name(0), cuda.get_compute_capability(0), library.version
            )
        except (RepositoryError, BackendUnavailableError, NotADirectoryError):
            continue
        found.append((version, Plan(plan.path, plan.precision)))
    return found


def test_lanes_forecast_as_onnxruntime_does_on_the_cpu() -> None:
    planned = planned_versions()
    if not planned:
        pytest.skip("no version has a plan for this GPU: streamd engine build")
    for version, plan in planned:
        buckets = (1, 8)
        cpu = OnnxRuntimeCpuBackend(version.onnx, version.contract, buckets, 2).make_lane(0)
        lanes = [TensorRtBackend(plan, version.contract, buckets).make_lane(index) for index in range(2)]
        fill_plausibly(cpu.inputs)
        cpu.inputs.encoder_cont[:] *= 100
        for lane in lanes:
            copy(cpu.inputs, lane.inputs)
            for count in (1, 5, 8):
                expected, found = cpu.run(count), lane.run(count)
                error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
                assert error <= (1e-3 if plan.precision == "fp32" else 5e-3)
            lane.close()


def copy(given: Inputs, to: Inputs) -> None:
    """Copy all windows."""
    for name, array in given.view_first(8).items():
        getattr(to, name)[:8] = array
