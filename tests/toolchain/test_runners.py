"""What runs graphs, plans and networks on arrays; and what watches the device meanwhile."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx

from streamd.core.errors import BackendUnavailableError
from streamd.device import cuda
from streamd.toolchain.hardware import DeviceMonitor, describe_hardware
from streamd.toolchain.runners import GraphRunner, NetworkRunner, PlanRunner, opened, reference, run_all
from tests.toolchain.graphs_of import raw_windows, run, scaled_network


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    onnx.save(scaled_network(), str(tmp_path / "any.onnx"))
    return tmp_path / "any.onnx"


def test_all_windows_run_whatever_the_batch(graph: Path) -> None:
    windows = raw_windows(11)
    (expected,) = run(scaled_network(), windows)
    np.testing.assert_allclose(reference(graph, windows)["y"], expected, rtol=1e-5)
    for batch in (1, 4, 11, 64):
        with opened(GraphRunner(scaled_network().SerializeToString(), threads=1)) as runner:
            found = run_all(runner, windows, batch)
        assert found.keys() == {"y"}
        np.testing.assert_allclose(found["y"], expected, rtol=1e-4, atol=1e3)


def test_what_onnxruntime_cannot_load_is_told(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(BackendUnavailableError, match=r"broken\.onnx: ONNX Runtime cannot load it"):
        GraphRunner(tmp_path / "broken.onnx")


class FakeExecutor:
    """Doubles what is in its pinned buffers, a whole bucket at a time."""

    def __init__(self, name: str, engine: Any, buckets: tuple[int, ...]) -> None:
        self.name, self.buckets, self.closed = name, buckets, False
        self.inputs = {"x": np.full((buckets[-1], 2), -1.0)}
        self.outputs = {"y": np.zeros((buckets[-1], 2))}
        self._started = 0

    def start(self, count: int) -> None:
        self._started = count

    def wait(self) -> None:
        bucket = next(each for each in self.buckets if each >= self._started)
        self.outputs["y"][:bucket] = self.inputs["x"][:bucket] * 2

    def close(self) -> None:
        self.closed = True


def test_a_plan_runs_from_pinned_buffers_and_gives_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamd.device.tensorrt_executor.TensorRtExecutor", FakeExecutor)
    engine = SimpleNamespace(plan=SimpleNamespace(path=Path("model_fp16.engine")))
    runner = PlanRunner(engine, (1, 4))
    executor: Any = runner._executor
    windows = {"x": np.arange(14.0).reshape(7, 2)}
    for batch in (1, 4):
        np.testing.assert_array_equal(run_all(runner, windows, batch)["y"], windows["x"] * 2)
    first = runner.outputs()["y"]
    runner.load({"x": np.zeros((3, 2))})
    runner.run()
    assert first[0, 0] == 16.0, "what was given out does not change"
    assert executor.name == "model_fp16.engine"
    with opened(runner):
        pass
    assert executor.closed


def test_a_network_runs_as_the_graph_does() -> None:
    torch = pytest.importorskip("torch")
    network = torch.nn.Linear(2, 3)
    windows = {"x": np.arange(10, dtype=np.float32).reshape(5, 2)}
    with opened(NetworkRunner(network, ("x", "y"), "cpu")) as runner:
        assert runner.backend == "pytorch-cpu"
        found = run_all(runner, windows, 2)["y"]
    expected = windows["x"] @ network.weight.detach().numpy().T + network.bias.detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.fixture
def device(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "memory_bytes", lambda index: (300, 1000))


def test_without_a_device_nothing_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "device_count", lambda: 0)
    monitor = DeviceMonitor()
    assert monitor.used_bytes() is None
    with monitor.watching() as samples:
        pass
    assert samples == []
    assert monitor.missing == ["GPU memory and utilisation: there is no CUDA device"]
    assert describe_hardware()["gpu"] is None


def test_without_nvml_memory_is_known_and_what_is_missing_is_told(
    device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monitor = DeviceMonitor()
    assert monitor.used_bytes() == 700
    assert monitor.missing == ["GPU utilisation: pip install nvidia-ml-py"]
    said = describe_hardware()
    assert said["gpu"] == {"name": "NVIDIA Fake", "compute_capability": "9.0", "memory_bytes": 1000}
    assert said["cores"] >= 1


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
    with monitor.watching() as samples:
        assert asked.wait(30)
    assert set(samples) == {37.0}
    assert monitor.missing == []


def test_large_inputs_go_in_small_batches(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    class Counting(GraphRunner):
        def load(self, inputs: Any) -> None:
            sizes.append(len(inputs["x"]))
            super().load(inputs)

    monkeypatch.setattr("streamd.toolchain.runners.LARGEST_BATCH_BYTES", 6 * 8 * 4 * 3)
    with opened(Counting(graph)) as runner:
        assert run_all(runner, raw_windows(8), 32)["y"].shape == (8, 6, 8)
    assert sizes == [3, 3, 2]
