"""Tests `streamd/tools/engine/plan/stages.py`: stages run in order give the outputs of the graph; each is sound."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx")

from streamd.core.errors import BuildError  # noqa: E402
from streamd.tools.engine.graph.norms import write_out_norms  # noqa: E402
from streamd.tools.engine.graph.onnx_graph import extract_signature, fold_constants, read_graph  # noqa: E402
from streamd.tools.engine.plan.stages import cut_into_stages  # noqa: E402
from streamd.tools.engine.precision.kept_nodes import PINNED_PREFIXES, choose_kept_nodes  # noqa: E402
from streamd.tools.engine.precision.quantize import Quantizer  # noqa: E402
from tests.support.graph_readers import model, node, operators, raw_windows, run, scaled_network, value, weight  # noqa: E402

ROOT = Path(__file__).resolve().parents[4]
GRAPHS = sorted((ROOT / "engines").glob("[!.]*/model.onnx"))


def run_stages(stages: tuple[Any, ...], inputs: dict[str, Any]) -> dict[str, Any]:
    """Run stages as a chain of engines does: tensors pass by name, and those without a later reader are outputs."""
    have, given, read_later = dict(inputs), dict[str, Any](), set[str]()
    last = {output.name for output in stages[-1].graph.output}
    for stage in stages:
        signature = extract_signature(stage, "stage")
        names = [spec.name for spec in signature.inputs]
        read_later |= set(names) & given.keys()
        arrays = run(stage, {name: have[name] for name in names})
        found = dict(zip([spec.name for spec in signature.outputs], arrays, strict=True))
        for spec in signature.outputs:
            assert spec.name not in have, "given twice"
            assert found[spec.name].dtype == spec.dtype
            assert spec.name in last or spec.shape in (found[spec.name].shape[1:], (None,) * len(spec.shape))
        have |= found
        given |= found
    return {name: array for name, array in given.items() if name not in read_later}


def check(graph: Any, inputs: dict[str, Any]) -> tuple[Any, ...]:
    stages = tuple(stage.model for stage in cut_into_stages(graph))
    names = [output.name for output in graph.graph.output]
    whole = dict(zip(names, run(graph, inputs), strict=True))
    found = run_stages(stages, inputs)
    assert found.keys() == whole.keys()
    for name, array in whole.items():
        np.testing.assert_array_equal(found[name], array)
    inputs_of_stages = {spec.name for stage in stages for spec in extract_signature(stage, "stage").inputs}
    assert {spec.name for spec in extract_signature(graph, "whole").inputs} <= inputs_of_stages, "no input is lost"
    return stages


def names(graph: Any) -> list[str]:
    return [each.name for each in graph.graph.node]


@pytest.mark.parametrize("change", [lambda graph: graph, write_out_norms], ids=["as it is", "written out"])
@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: path.parent.name)
def test_the_shipped_graphs_are_three_stages(path: Path, change: Any) -> None:
    graph = change(fold_constants(read_graph(path)))
    random = np.random.default_rng(3)
    inputs = {}
    for spec in extract_signature(graph, path).inputs:
        shape = (3, *(size or 1 for size in spec.shape))
        small, raw = random.integers(0, 3, shape), random.standard_normal(shape) ** 2 * 1e9
        inputs[spec.name] = (raw if spec.dtype == "float32" else small).astype(spec.dtype)
    inputs["encoder_cont"][0, 10:20] = np.nan
    stages = cut_into_stages(graph)
    assert [stage.is_core for stage in stages] == [False, True, False]
    check(graph, inputs)
    for stage in (stages[0], stages[2]):
        assert all(name.startswith(tuple(PINNED_PREFIXES)) for name in names(stage.model))
    assert not any(name.startswith(tuple(PINNED_PREFIXES)) for name in names(stages[1].model))
    assert sum(len(names(stage.model)) for stage in stages) == len(names(graph))


def test_a_scaler_and_a_restorer_are_cut_off() -> None:
    graph = fold_constants(scaled_network())
    before, core, after = check(graph, raw_windows(5))
    assert (names(before), names(after)) == (["/scaler/Div"], ["/restorer/Mul"])
    assert {tensor.name for tensor in core.graph.initializer} == {"first", "scale", "second"}
    assert [tensor.name for tensor in before.graph.initializer] == ["big"]
    dim = core.graph.input[0].type.tensor_type.shape.dim
    assert (core.graph.input[0].name, dim[0].dim_param, dim[1].dim_value) == ("unit", "batch", 6)


@pytest.mark.parametrize("prefixes", [(), ("/nowhere/",), ("/",)])
def test_a_graph_from_which_nothing_can_be_cut_off_is_its_only_stage(prefixes: tuple[str, ...]) -> None:
    graph = fold_constants(scaled_network())
    (stage,) = cut_into_stages(graph, prefixes)
    assert stage.model is graph


def test_quantizers_stay_in_the_core() -> None:
    graph = fold_constants(scaled_network())
    quantized = Quantizer("minmax").quantize(graph, raw_windows(16), choose_kept_nodes(graph, None))
    before, core, after = check(quantized, raw_windows(5))
    assert (operators(before), operators(after)) == (["Div"], ["Mul"])
    assert "QuantizeLinear" in operators(core)


def x_to_y(*nodes: Any, weights: Any = (), outputs: Any = ("y",)) -> Any:
    return model(nodes, [value("x", ["n", 4])], [value(name, ["n", 4]) for name in outputs], weights)


X = {"x": np.random.default_rng(5).standard_normal((5, 4)).astype(np.float32)}


def test_a_shape_is_computed_again_in_the_stage_that_reads_it() -> None:
    graph = x_to_y(
        node("Neg", "x", "u", "/scaler/Neg"),
        node("Shape", "u", "shape", "/scaler/Shape"),
        node("Relu", "x", "v", "/Relu"),
        node("Reshape", "v shape", "w", "/Reshape"),
        node("Reshape", "w shape", "z", "/restorer/Reshape"),
        node("Add", "z u", "y", "/restorer/Add"),
    )
    before, core, after = check(graph, X)
    assert names(before) == ["/scaler/Neg", "/scaler/Shape"]
    assert "/scaler/Shape" in names(core)
    assert names(after) == ["/scaler/Shape", "/restorer/Reshape", "/restorer/Add"]


def test_rows_of_a_batch_folded_into_the_first_axis_do_not_cross() -> None:
    flat = onnx.numpy_helper.from_array(np.array([-1, 2]), "flat")
    back = onnx.numpy_helper.from_array(np.array([-1, 4]), "back")
    nodes = [node("Reshape", "x flat", "u", "/scaler/Reshape"), node("Relu", "u", "v", "/Relu")]
    graph = x_to_y(
        *nodes, node("Reshape", "v back", "w", "/R"), node("Neg", "w", "y", "/restorer/Neg"), weights=[flat, back]
    )
    core, after = check(graph, X)
    assert names(core) == ["/scaler/Reshape", "/Relu", "/R"], "a scaler without other outputs is no stage"
    assert names(after) == ["/restorer/Neg"]


def test_an_output_that_a_later_stage_reads_is_still_an_output() -> None:
    graph = x_to_y(
        node("Neg", "x", "u", "/scaler/Neg"),
        node("Exp", "u", "v", "/Exp"),
        node("Mul", "v u", "y", "/restorer/Mul"),
        outputs=("v", "y", "u"),
    )
    assert len(check(graph, X)) == 3


def test_one_output_of_a_node_may_cross_and_another_not() -> None:
    k = onnx.numpy_helper.from_array(np.array([4]), "k")
    nodes = [
        node("TopK", "x k", "best places", "/scaler/TopK"),
        node("Shape", "places", "shape", "/scaler/Shape"),
        node("Relu", "best", "v", "/Relu"),
        node("Reshape", "v shape", "w", "/Reshape"),
        node("Neg", "w", "y", "/restorer/Neg"),
    ]
    assert len(check(x_to_y(*nodes, weights=[k]), X)) == 3


def test_a_graph_within_a_node_counts_as_a_reader() -> None:
    inner = onnx.helper.make_graph([node("Identity", "u", "t", "then")], "then", [], [value("t", ["n", 4])])
    other = onnx.helper.make_graph([node("Neg", "u", "e", "else")], "else", [], [value("e", ["n", 4])])
    condition = onnx.numpy_helper.from_array(np.array(True), "condition")
    chosen = onnx.helper.make_node("If", ["condition"], ["v"], name="/If", then_branch=inner, else_branch=other)
    nodes = [node("Neg", "x", "u", "/scaler/Neg"), chosen, node("Exp", "v", "y", "/restorer/Exp")]
    _, core, _ = check(x_to_y(*nodes, weights=[condition]), X)
    assert [each.name for each in core.graph.input] == ["u"]
    assert [tensor.name for tensor in core.graph.initializer] == ["condition"]


def test_random_numbers_are_not_computed_again() -> None:
    nodes = [
        onnx.helper.make_node("RandomNormal", [], ["r"], name="/scaler/RandomNormal", shape=[4]),
        node("Add", "x r", "u", "/scaler/Add"),
        node("Mul", "u r", "v", "/Mul"),
        node("Neg", "v", "y", "/restorer/Neg"),
    ]
    with pytest.raises(BuildError, match=re.escape("tensor 'r' of node /scaler/RandomNormal")):
        cut_into_stages(x_to_y(*nodes))


def test_a_graph_that_does_not_run_is_refused() -> None:
    three = onnx.numpy_helper.from_array(np.array([3, 4]), "three")
    nodes = [node("Neg", "x", "u", "/scaler/Neg"), node("Reshape", "u three", "y", "/Reshape")]
    with pytest.raises(BuildError, match="does not run on zeros"):
        cut_into_stages(x_to_y(*nodes, weights=[three]))


@st.composite
def networks(draw: st.DrawFn) -> Any:
    """Draw networks of nodes with one or two inputs, shapes and sums over the batch, any names and some outputs."""
    kinds = ["Neg", "Abs", "Add", "Mul", "Max", "Sub", "Shape", "ReduceMean", "Split", "Transpose"]
    rows, shapes, nodes = ["x", "z"], list[str](), list[Any]()
    totals = ["c"]
    for index in range(draw(st.integers(1, 14))):
        kind, made = draw(st.sampled_from(kinds)), f"t{index}"
        name = f"{draw(st.sampled_from(['/scaler/', '/restorer/', '/core/']))}{kind}_{index}"
        one, two = draw(st.sampled_from(rows)), draw(st.sampled_from(rows + totals))
        if kind == "Shape":
            nodes.append(node("Shape", one, made, name))
            shapes.append(made)
        elif kind == "ReduceMean":
            nodes.append(node(kind, one, made, name, axes=[0], keepdims=0))
            totals.append(made)
        elif kind == "Transpose" and shapes:
            nodes.append(node("Reshape", f"{one} {draw(st.sampled_from(shapes))}", made, name))
            rows.append(made)
        elif kind == "Split":
            nodes.append(node(kind, one, f"{made}a {made}b", name, axis=1))
            nodes.append(node("Concat", f"{made}b {made}a", made, f"{name}_joined", axis=1))
            rows.append(made)
        elif kind in ("Neg", "Abs", "Transpose"):
            nodes.append(node("Neg" if kind == "Transpose" else kind, one, made, name))
            rows.append(made)
        else:
            nodes.append(node(kind, f"{one} {two}", made, name))
            rows.append(made)
    made_rows = [name for name in rows if name not in ("x", "z")]
    if not made_rows:
        nodes.append(node("Neg", "x", "last", "/core/last"))
        made_rows = ["last"]
    outputs = draw(st.lists(st.sampled_from(made_rows), min_size=1, max_size=3, unique=True))
    inputs = [value("x", ["n", 4]), value("z", ["n", 4])]
    return model(nodes, inputs, [value(name, ["n", 4]) for name in outputs], [weight("c", [1.0, 2.0, 3.0, 4.0])])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(networks())
def test_stages_of_any_network_give_the_outputs_of_the_whole(graph: Any) -> None:
    random = np.random.default_rng(9)
    inputs = {name: random.standard_normal((5, 4)).astype(np.float32) for name in ("x", "z")}
    for stage in check(graph, inputs):
        assert sorted(names(stage)) == sorted(set(names(stage)))
