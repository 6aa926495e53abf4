"""Tests `streamd/tools/engine/graph/onnx_graph.py`: sound graphs give a signature, and errors are named."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from streamd.core.errors import BuildError  # noqa: E402
from streamd.tools.engine.graph.onnx_graph import (  # noqa: E402
    GraphTensorSpec,
    Signature,
    extract_signature,
    fold_constants,
    read_graph,
)
from tests.support.graph_readers import INT32, model, node, operators, raw_windows, run, scaled_network, value, weight  # noqa: E402


def saved(tmp_path: Path, graph: Any) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(graph, str(path))
    return path


def test_a_sound_graph_gives_its_signature(tmp_path: Path) -> None:
    graph = model(
        [node("Identity", "x", "y", "a"), node("Identity", "n", "m", "b")],
        [value("x", ["batch", 3, 2]), value("n", ["batch"], INT32)],
        [value("y", ["batch", 3, 2]), value("m", ["batch"], INT32)],
    )
    read = read_graph(saved(tmp_path, graph))
    assert extract_signature(read, "there") == Signature(
        (GraphTensorSpec("x", "float32", (3, 2)), GraphTensorSpec("n", "int32", ())),
        (GraphTensorSpec("y", "float32", (3, 2)), GraphTensorSpec("m", "int32", ())),
    )


@pytest.mark.parametrize(
    ("inputs", "outputs", "reason"),
    [
        (["x", [4, 2]], ["y", ["batch", 2]], "the batch axis of input 'x' is fixed at 4"),
        (["x", ["batch", 2]], ["y", [4, 2]], "the batch axis of output 'y' is fixed at 4"),
        (["x", ["batch", "length"]], ["y", ["batch", "length"]], "'x' has a dynamic axis besides the batch (batch, ?)"),
        (["x", []], ["y", []], "the batch axis of input 'x' is missing"),
    ],
)
def test_a_wrong_axis_is_named(tmp_path: Path, inputs: list[Any], outputs: list[Any], reason: str) -> None:
    graph = model([node("Identity", "x", "y", "a")], [value(*inputs)], [value(*outputs)])
    with pytest.raises(BuildError, match=re.escape(reason)) as caught:
        extract_signature(graph, tmp_path / "model.onnx")
    assert "model.onnx" in str(caught.value)
    assert "expected" in str(caught.value)


def test_an_unknown_opset_and_foreign_operators_are_refused(tmp_path: Path) -> None:
    graph = model([node("Identity", "x", "y", "a")], [value("x", ["b", 2])], [value("y", ["b", 2])])
    graph.opset_import[0].version = 9
    with pytest.raises(BuildError, match="opset 9; expected 13 to"):
        read_graph(saved(tmp_path, graph))
    graph.opset_import[0].version = 17
    graph.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    graph.graph.node[0].domain = "com.example"
    with pytest.raises(BuildError, match=r"operators of com\.example"):
        read_graph(saved(tmp_path, graph))


def test_a_file_that_is_no_graph_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"none\.onnx: no such file"):
        read_graph(tmp_path / "none.onnx")
    (tmp_path / "junk.onnx").write_bytes(b"\x08junk that is no protobuf message")
    with pytest.raises(BuildError, match=r"junk\.onnx: not a sound ONNX model: \S"):
        read_graph(tmp_path / "junk.onnx")
    unsound = model([node("Identity", "nowhere", "y", "a")], [value("x", ["b", 2])], [value("y", ["b", 2])])
    with pytest.raises(BuildError, match="not a sound ONNX model"):
        read_graph(saved(tmp_path, unsound))


def test_folding_makes_weights_of_constants_and_changes_no_number() -> None:
    graph = scaled_network()
    folded = fold_constants(graph)
    assert "Constant" in operators(graph)
    assert "Constant" not in operators(folded)
    np.testing.assert_array_equal(run(folded, raw_windows())[0], run(graph, raw_windows())[0])


def test_folding_gives_every_node_a_unique_name() -> None:
    nodes = [node("Identity", "x", "a", ""), node("Identity", "a", "b", "same"), node("Identity", "b", "y", "same")]
    folded = fold_constants(model(nodes, [value("x", ["b", 2])], [value("y", ["b", 2])]))
    names = [each.name for each in folded.graph.node]
    assert len(set(names)) == 3
    assert "" not in names
    assert names[1] == "same"


def test_a_node_that_reads_only_constants_becomes_a_constant() -> None:
    weights = [weight("w", np.arange(6.0).reshape(2, 3)), weight("mask", np.array([[1.0, 0.0, 1.0]] * 2))]
    nodes = [
        node("Mul", "w mask", "masked", "mask_it"),
        node("Transpose", "masked", "turned", "turn", perm=[1, 0]),
        node("MatMul", "x turned", "y", "product"),
    ]
    graph = model(nodes, [value("x", ("batch", 3), 1)], [value("y", ("batch", 2), 1)], weights)
    folded = fold_constants(graph)
    assert operators(folded) == ["MatMul"]
    assert [tensor.name for tensor in folded.graph.initializer] == ["turned"]
    x = np.array([[1.0, 2.0, 3.0]], np.float32)
    assert run(folded, {"x": x})[0].tolist() == run(graph, {"x": x})[0].tolist() == [[6.0, 18.0]]


def test_quantizers_of_weights_are_not_folded() -> None:
    weights = [weight("w", np.ones((3, 2))), weight("scale", np.array(0.5))]
    nodes = [
        node("QuantizeLinear", "w scale", "q", "quantize"),
        node("DequantizeLinear", "q scale", "d", "dequantize"),
        node("MatMul", "x d", "y", "product"),
    ]
    graph = model(nodes, [value("x", ("batch", 3), 1)], [value("y", ("batch", 2), 1)], weights)
    assert operators(fold_constants(graph)) == ["QuantizeLinear", "DequantizeLinear", "MatMul"]
