"""Tests `streamd/tools/engine/gate/proving.py`: networks that cannot be batched are refused."""

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx
from onnx import TensorProto, numpy_helper

from streamd.cli import main
from streamd.core.errors import BuildError
from streamd.inference.api.backends import OPENERS, OpenOptions, Runners
from streamd.inference.api.sources import EngineSource
from streamd.inference.runner import Array, Arrays
from streamd.repository.plans import Machine
from streamd.repository.versions import load_version
from streamd.tools.engine import command
from streamd.tools.engine.gate import runners
from streamd.tools.engine.gate.proving import prove_file
from streamd.tools.engine.gate.runners import open_graph, run_alone_and_batched
from streamd.tools.engine.gate.truth import make_random_windows, read_judged_windows
from streamd.tools.engine.graph.onnx_graph import GraphTensorSpec, extract_signature, read_graph
from tests.support.graph_readers import model, node, value
from tests.support.made_versions import add_plan
from tests.support.small_version import make_fleet, make_version, network

ROOT = Path(__file__).parents[4]
X, Y = value("x", ["batch", 6, 8]), value("y", ["batch", 6, 8])


def saved(path: Path, nodes: list[Any], output: Any = Y, weights: tuple[Any, ...] = (), given: Any = X) -> Path:
    onnx.save(model(nodes, [given], [output], weights), str(path))
    return path


def softmax_over_batch(path: Path) -> Path:
    return saved(path, [node("Softmax", "x", "y", "/Softmax", axis=0)])


def build(graph: Path, *more: str) -> int:
    arguments = ["engine", "build", "--onnx", str(graph), "--backend", "onnxruntime", "--quiet"]
    return main([*arguments, "--plans-only", str(graph.parent / "plans"), *more])


# ---------------------------------------------------------------- graphs that a build refuses
def baked(path: Path) -> Path:
    shape = numpy_helper.from_array(np.array([1, 6, 8]), "shape")
    return saved(path, [node("Reshape", "x shape", "y", "/Reshape")], weights=(shape,))


def hidden(path: Path, *shape: int) -> Path:
    """Save a graph whose `y` is `x` in a shape that shape inference cannot find."""
    nodes = [
        node("Compress", "shape mask", "kept", "/Compress"),
        node("Shape", "x", "size", "/Shape"),
        node("Sub", "size size", "nothing", "/Sub"),
        node("Add", "kept nothing", "all", "/Add"),
        node("Reshape", "x all", "y", "/Reshape"),
    ]
    weights = [numpy_helper.from_array(np.array(shape), "shape"), numpy_helper.from_array(np.ones(3, bool), "mask")]
    return saved(path, nodes, value("y", ["batch", None, 8]), tuple(weights))


def of_strings(path: Path) -> Path:
    given = value("x", ["batch", 6], TensorProto.STRING)
    return saved(path, [node("Identity", "x", "y", "/Id")], value("y", ["batch", 6], TensorProto.STRING), given=given)


def of_bfloat16(path: Path) -> Path:
    given = value("x", ["batch", 6], TensorProto.BFLOAT16)
    return saved(path, [node("Identity", "x", "y", "/Id")], value("y", ["batch", 6], TensorProto.BFLOAT16), given=given)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (baked, "no lane can open the graph: no backend can run"),
        (lambda path: hidden(path, 1, 6, 8), "does not run with a batch of 3: "),
        (lambda path: hidden(path, 1, -1, 8), "output 'y' is (1, 18, 8) for a batch of 3, expected a row for each"),
        (of_strings, "input 'x' has the type string, expected a numeric type of NumPy"),
        (of_bfloat16, "input 'x' has the type bfloat16, expected a numeric type of NumPy"),
    ],
)
def test_a_build_refuses_a_graph_that_cannot_be_opened_or_batched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Any, message: str, precision: str
) -> None:
    assert build(make(tmp_path / "a.onnx"), "--precision", precision) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "a.onnx" in error
    assert not (tmp_path / "plans").exists()


def test_a_graph_is_proven_with_the_calibration_windows(tmp_path: Path) -> None:
    graph = saved(tmp_path / "a.onnx", [node("Relu", "x", "y", "/Relu")])
    signature = extract_signature(read_graph(graph), graph)
    prove_file(graph, signature, {"x": np.ones((1, 6, 8), np.float32)})
    with pytest.raises(BuildError, match="does not run with a batch of 1"):
        prove_file(graph, signature, {"x": np.ones((1, 6, 9), np.float32)})


# ---------------------------------------------------------------- an output whose rank is not in the graph
def unknown_rank(path: Path) -> Path:
    """Save a graph whose `y` is `x` in another shape, which only the values of its nodes determine."""
    nodes = [
        node("Shape", "x", "shape", "/Shape"),
        node("Compress", "shape mask", "kept", "/Compress"),
        node("Reshape", "x kept", "y", "/Reshape"),
    ]
    mask = numpy_helper.from_array(np.array([True, True, True]), "mask")
    return saved(path, nodes, value("y", None), (mask,))


def test_an_output_whose_axes_are_known_only_from_a_run_is_built_and_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = unknown_rank(tmp_path / "a.onnx")
    signature = extract_signature(read_graph(graph), graph)
    assert signature.outputs == (GraphTensorSpec("y", "float32", (None, None)),)
    assert build(graph, "--precision", "fp32,fp16") == 0
    assert main(["engine", "validate", "--onnx", str(graph), "--plans", str(tmp_path / "plans"), "--quiet"]) == 0
    with closing(open_graph(graph).runners[0]) as runner:
        rows = make_random_windows(signature, 3)
        np.testing.assert_array_equal(runner.run(rows)["y"], rows["x"])


def test_a_shape_that_follows_from_the_nodes_is_known(tmp_path: Path) -> None:
    graph = saved(tmp_path / "a.onnx", [node("Relu", "x", "y", "/Relu")], value("y", None))
    assert extract_signature(read_graph(graph), graph).outputs == (GraphTensorSpec("y", "float32", (6, 8)),)


def test_a_scalar_for_all_rows_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = saved(tmp_path / "a.onnx", [node("ReduceSum", "x", "y", "/Sum", keepdims=0)], value("y", None))
    assert build(graph, "--precision", "fp32") == 1
    assert "the batch axis of output 'y' is missing (it is a scalar)" in capsys.readouterr().err


# ---------------------------------------------------------------- rows that depend on each other
def test_the_gate_refuses_a_network_whose_rows_depend_on_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = softmax_over_batch(tmp_path / "a.onnx")
    assert main(["engine", "validate", "--onnx", str(graph), "--json", "--quiet"]) == 1
    result = json.loads(capsys.readouterr().out)["validation"]["fp32"]
    assert result["promotable"] is False
    assert result["reasons"][0].startswith(
        "y: rows depend on each other: alone and in a batch, a row's values differ by"
    )
    assert result["blame"] == {"unknown": "the rows of the network itself depend on each other, in any precision"}


@pytest.mark.parametrize("windows", ["1", "2", "40"])
def test_few_windows_show_that_rows_depend_on_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], windows: str
) -> None:
    graph = softmax_over_batch(tmp_path / "a.onnx")
    assert main(["engine", "validate", "--onnx", str(graph), "--windows", windows, "--quiet"]) == 1
    assert "rows depend on each other" in capsys.readouterr().out


def test_large_rows_show_that_rows_depend_on_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runners, "LARGEST_BATCH_BYTES", 1)
    graph = softmax_over_batch(tmp_path / "a.onnx")
    assert main(["engine", "validate", "--onnx", str(graph), "--quiet"]) == 1
    assert "rows depend on each other" in capsys.readouterr().out


def dependent_version(root: Path) -> Path:
    """Make a forecaster whose softmax is over the batch, as after a mistake in an axis."""
    path = make_version(root)
    graph = network()
    slip = next(each for each in graph.graph.node if each.name == "/Relu")
    slip.CopyFrom(node("Softmax", "hidden", "active", "/Softmax", axis=0))
    onnx.save(graph, str(path / "model.onnx"))
    (path / "conversion_info.json").unlink()
    return path


def test_a_forecaster_whose_rows_depend_on_each_other_is_never_promoted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    version = dependent_version(tmp_path / "engines")
    load_version(version)
    arguments = ["--engines", str(version.parent)]
    fleet = ["--data", str(make_fleet(tmp_path)), "--windows", "32"]
    assert main(["engine", "validate", str(version), *fleet, "--quiet"]) == 1
    assert "fp32 fails: net: rows depend on each other" in capsys.readouterr().out
    assert main(["engine", "promote", version.name, *arguments]) == 1
    assert "rows depend on each other" in capsys.readouterr().err


class PlanThatMixes:
    """A plan that mixes a share of the batch's mean into each row, which the graph that it was built from does not."""

    name, device, pads = "fake", "none", True

    def __init__(self, graph: Path, buckets: tuple[int, ...]) -> None:
        self._graph, self.buckets = open_graph(graph).runners[0], buckets
        self.inputs, self.outputs = self._graph.inputs, self._graph.outputs

    def run(self, feeds: Mapping[str, Array]) -> Arrays:
        found = self._graph.run(feeds)["predictions"]
        return {"predictions": found + 0.3 * (found.mean(axis=0) - found) * (len(found) > 1)}

    def close(self) -> None:
        self._graph.close()


def test_a_plan_is_compared_with_single_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    version = make_version(tmp_path / "engines")
    add_plan(version, "fp16", buckets=[8])

    def open_plan(source: EngineSource, options: OpenOptions) -> Runners:
        assert options.buckets is not None
        return Runners([PlanThatMixes(version / "model.onnx", options.buckets)], "fp16")

    monkeypatch.setattr(command, "_probe", lambda: Machine("NVIDIA H200", "9.0", "8.6.1"))
    monkeypatch.setitem(OPENERS, "tensorrt", open_plan)
    arguments = ["engine", "validate", str(version), "--data", str(make_fleet(tmp_path)), "--windows", "16"]
    assert main([*arguments, "--json", "--quiet"]) == 1
    result = json.loads(capsys.readouterr().out)["validation"]
    assert (result["fp32"]["promotable"], result["fp16"]["promotable"]) == (True, False)
    assert (result["fp16"]["batch_sizes"], result["fp16"]["failed_batch_sizes"]) == ([1, 8], [8])


def test_bench_measures_no_network_whose_rows_depend_on_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = softmax_over_batch(tmp_path / "a.onnx")
    arguments = ["engine", "bench", "--onnx", str(graph), "--batches", "1,4", "--lanes", "1", "--turns", "1", "--quiet"]
    assert main(arguments) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert "a.onnx: y: rows depend on each other" in output.err


@pytest.mark.parametrize("name", [path.name for path in sorted((ROOT / "engines").iterdir())])
def test_the_shipped_versions_answer_a_row_alike_in_any_batch(name: str) -> None:
    version = load_version(ROOT / "engines" / name)
    signature = extract_signature(read_graph(version.onnx), version.onnx)
    windows = read_judged_windows(ROOT / "examples/fleet/servers.csv.gz", signature, version.contract, 12).windows
    alone, together = run_alone_and_batched(version.onnx, windows)
    scale = np.abs(alone["predictions"]).max(axis=(1, 2, 3), keepdims=True)
    assert (np.abs(alone["predictions"] - together["predictions"]) / scale).max() < 1e-4
