"""Tests `streamd/tools/engine/gate/runners.py`: graphs, plans and networks run on arrays."""

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx

from streamd.core.errors import BackendUnavailableError
from streamd.inference.api.backends import OPENERS, OpenOptions, Runners
from streamd.inference.api.sources import EngineSource
from streamd.tools.engine.gate.runners import (
    NetworkRunner,
    open_candidate,
    open_graph,
    open_separate_lanes,
    run_graph,
    run_windows,
)
from streamd.tools.engine.gate.targets import GateTarget
from streamd.tools.engine.graph.onnx_graph import GraphTensorSpec, Signature
from tests.support.graph_readers import raw_windows, run, scaled_network
from tests.support.small_networks import ScriptedRunner


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    onnx.save(scaled_network(), str(tmp_path / "any.onnx"))
    return tmp_path / "any.onnx"


def test_all_windows_run_with_any_batch_size(graph: Path) -> None:
    windows = raw_windows(11)
    (expected,) = run(scaled_network(), windows)
    np.testing.assert_allclose(run_graph(graph, windows, optimized=False)["y"], expected, rtol=1e-5)
    for batch in (1, 4, 11, 64):
        with closing(open_graph(graph, threads=1).runners[0]) as runner:
            found = run_windows(runner, windows, batch)
        assert found.keys() == {"y"}
        np.testing.assert_allclose(found["y"], expected, rtol=1e-4, atol=1e3)


def test_the_reference_runs_without_optimizations(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    made: list[Any] = []
    session = onnxruntime.InferenceSession

    def watched(path: str, options: Any, **more: Any) -> Any:
        made.append(options.graph_optimization_level)
        return session(path, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", watched)
    for optimized in (False, True):
        run_graph(graph, raw_windows(1), optimized=optimized)
    levels = onnxruntime.GraphOptimizationLevel
    assert made == [levels.ORT_DISABLE_ALL, levels.ORT_ENABLE_ALL]


def test_a_graph_that_onnxruntime_cannot_load_is_reported(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(BackendUnavailableError, match=r"broken\.onnx: ONNX Runtime cannot load it"):
        open_graph(tmp_path / "broken.onnx")


def test_separate_lanes_are_all_open_or_all_closed(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runners: list[ScriptedRunner] = []

    def opener(source: EngineSource, options: OpenOptions) -> Runners:
        assert (options.threads, options.lanes) == (3, 1)
        if len(runners) == 5:
            raise BackendUnavailableError("no room")
        runners.append(ScriptedRunner())
        return Runners([runners[-1]], "fp32")

    monkeypatch.setitem(OPENERS, "onnxruntime-cuda", opener)
    assert open_separate_lanes(graph, "onnxruntime-cuda", 3, threads=3) == runners
    with pytest.raises(BackendUnavailableError, match="no room"):
        open_separate_lanes(graph, "onnxruntime-cuda", 3, threads=3)
    assert [runner.closed for runner in runners] == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(("compatible", "used"), [(True, Path("lean.so")), (False, None)])
def test_a_plan_opens_at_its_buckets_and_in_the_lean_runtime_if_compatible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compatible: bool, used: Path | None
) -> None:
    asked: list[OpenOptions] = []

    def opener(source: EngineSource, options: OpenOptions) -> Runners:
        asked.append(options)
        return Runners([ScriptedRunner()], "fp16")

    monkeypatch.setitem(OPENERS, "tensorrt", opener)
    plan = tmp_path / "model_fp16.engine"
    plan.write_bytes(b"a plan")
    candidate = GateTarget(
        precision="fp16", kind="plan", path=plan, entry={"version_compatible": compatible}, buckets=(1, 4)
    )
    opened = open_candidate(candidate, lean_runtime=Path("lean.so"))
    assert (opened.backend, opened.precision) == ("tensorrt", "fp16")
    open_candidate(candidate, device=1, lanes=2, buckets=(4,))
    assert [(each.buckets, each.devices, each.lanes) for each in asked] == [((1, 4), (0,), 1), ((4,), (1,), 2)]
    assert [each.lean_runtime for each in asked] == [used, None]


def test_a_network_runs_as_the_graph_does() -> None:
    torch = pytest.importorskip("torch")
    network = torch.nn.Linear(2, 3)
    windows = {"x": np.arange(10, dtype=np.float32).reshape(5, 2)}
    signature = Signature((GraphTensorSpec("x", "float32", (2,)),), (GraphTensorSpec("y", "float32", (3,)),))
    with closing(NetworkRunner(network, signature, "cpu")) as runner:
        assert runner.name == "pytorch-cpu"
        found = run_windows(runner, windows, 2)["y"]
    expected = windows["x"] @ network.weight.detach().numpy().T + network.bias.detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_large_inputs_run_in_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamd.tools.engine.gate.runners.LARGEST_BATCH_BYTES", 2 * 4 * 3)
    rows = np.arange(16, dtype=np.float32).reshape(8, 2)
    for pads, sizes in ((False, [3, 3, 2]), (True, [8])):
        runner = ScriptedRunner((32,), pads)
        np.testing.assert_array_equal(run_windows(runner, {"x": rows}, 32)["y"], rows * 2)
        assert runner.sizes == sizes
