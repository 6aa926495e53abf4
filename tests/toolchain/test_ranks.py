"""Graphs without reshaping layers compute what they computed before, to the bit."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from streamd.toolchain.graphs import fold_constants, read_graph
from streamd.toolchain.precision import choose_kept
from streamd.toolchain.ranks import ELEMENT_WISE, without_reshapes
from tests.toolchain.graphs_of import model, node, run, value, weight

ENGINES = Path(__file__).parents[2] / "engines"


def small() -> Any:
    nodes = [
        node("Where", "there x bound", "bounded", "/scaler/Where"),
        node("Mul", "bounded row", "scaled", "/Mul"),
        node("ReduceMax", "scaled", "largest", "/scaler/ReduceMax", axes=[1], keepdims=1),
        node("Unsqueeze", "largest last", "wide", "/restorer/Unsqueeze"),
        node("Unsqueeze", "scaled last", "other", "/other/Unsqueeze"),
        node("Add", "wide other", "sum", "/restorer/Add"),
        node("Reshape", "sum shape", "y", "/restorer/Reshape"),
    ]
    weights = [
        weight("bound", 1e30),
        weight("row", np.arange(1, 9)),
        onnx.numpy_helper.from_array(np.array([3]), "last"),
        onnx.numpy_helper.from_array(np.array([-1, 6, 8, 1]), "shape"),
    ]
    inputs = [value("there", ["batch", 6, 8], onnx.TensorProto.BOOL), value("x", ["batch", 6, 8])]
    return model(nodes, inputs, [value("y", ["batch", 6, 8, 1])], weights)


def test_constants_rise_unsqueezes_gather_and_needless_reshapes_go() -> None:
    graph = small()
    before = graph.SerializeToString()
    changed = without_reshapes(graph, ["/scaler/Where", "/restorer/Unsqueeze", "/restorer/Add", "/restorer/Reshape"])
    assert graph.SerializeToString() == before
    operators = {each.name: each.op_type for each in changed.graph.node}
    assert operators["/restorer/Unsqueeze"] == "Gather"
    assert operators["/other/Unsqueeze"] == "Unsqueeze"
    assert "/restorer/Reshape" not in operators
    shapes = {tensor.name: tuple(tensor.dims) for tensor in changed.graph.initializer}
    assert shapes == {
        "bound_rank_3": (1, 1, 1),
        "row_rank_3": (1, 1, 8),
        "last": (1,),
        "/restorer/Unsqueeze_index": (8, 1),
    }
    random = np.random.default_rng(3)
    inputs = {"there": random.random((5, 6, 8)) < 0.5, "x": random.standard_normal((5, 6, 8)).astype(np.float32)}
    np.testing.assert_array_equal(run(changed, inputs)[0], run(graph, inputs)[0])


def test_a_reshape_that_changes_something_stays() -> None:
    nodes = [node("Reshape", "x shape", "y", "/restorer/Reshape")]
    shape = onnx.numpy_helper.from_array(np.array([-1, 8, 6]), "shape")
    graph = model(nodes, [value("x", ["batch", 6, 8])], [value("y", ["batch", 8, 6])], [shape])
    assert [each.op_type for each in without_reshapes(graph, ["/restorer/Reshape"]).graph.node] == ["Reshape"]


@pytest.mark.parametrize("folder", sorted(path.name for path in ENGINES.iterdir() if (path / "model.onnx").is_file()))
def test_of_the_shipped_graphs_no_raw_unit_passes_a_reshaping_layer(folder: str) -> None:
    graph = fold_constants(read_graph(ENGINES / folder / "model.onnx"))
    kept = [name for name in choose_kept(graph, None).names if name.startswith(("/scaler/", "/restorer/"))]
    changed = without_reshapes(graph, kept)
    inferred = onnx.shape_inference.infer_shapes(changed).graph
    ranks = {each.name: len(each.type.tensor_type.shape.dim) for each in (*inferred.value_info, *inferred.output)}
    weights = {tensor.name: len(tensor.dims) for tensor in changed.graph.initializer}
    for each in changed.graph.node:
        if each.name in kept:
            assert each.op_type not in {"Unsqueeze", "Reshape", "Squeeze", "Flatten"}, each.name
        if each.op_type in ELEMENT_WISE:
            assert all(weights[name] == ranks[each.output[0]] for name in each.input if name in weights), each.name
    random = np.random.default_rng(4)
    shapes = {each.name: [dim.dim_value for dim in each.type.tensor_type.shape.dim[1:]] for each in graph.graph.input}
    inputs = {
        name: np.zeros((3, *shape), np.int32)
        if name.endswith("_cat")
        else random.random((3, *shape)).astype(np.float32)
        for name, shape in shapes.items()
    }
    inputs["encoder_cont"] *= np.float32(1e6)
    inputs["encoder_cont"][random.random(inputs["encoder_cont"].shape) < 0.2] = np.nan
    np.testing.assert_array_equal(run(changed, inputs)[0], run(graph, inputs)[0])
