"""Tests `streamd/tools/engine/precision/half.py`: casts only at borders, and nothing rounded between kept nodes."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

onnx = pytest.importorskip("onnx")

from streamd.tools.engine.graph.onnx_graph import fold_constants, infer_element_types  # noqa: E402
from streamd.tools.engine.precision.half import BFLOAT16, FLOAT, FLOAT16, HalfConverter, round_to  # noqa: E402
from tests.support.graph_readers import (  # noqa: E402
    by_name,
    model,
    node,
    operators,
    raw_windows,
    run,
    scaled_network,
    value,
    weight,
)

PINNED = ["/scaler/Div", "/restorer/Mul", "/norm/LayerNormalization"]


def convert(graph: Any, kept: list[str], element: int = FLOAT16) -> Any:
    converted = HalfConverter(fold_constants(graph), kept, element).convert()
    onnx.checker.check_model(converted, full_check=element == FLOAT16)
    return converted


def test_raw_units_stay_exact_and_the_rest_is_close() -> None:
    graph, windows = scaled_network(), raw_windows()
    expected = run(graph, windows)[0]
    found = run(convert(graph, PINNED), windows)[0]
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() / np.abs(expected).max() < 2e-3
    assert np.abs(found - expected).max() > 0, "something is in half precision"
    unpinned = run(convert(graph, []), windows)[0]
    assert not np.isfinite(unpinned).all(), "1e9 does not fit float16, so the pins are what keeps it finite"


def test_weights_and_products_are_in_half_precision() -> None:
    converted = convert(scaled_network(), PINNED)
    types = infer_element_types(converted)
    assert types["hidden"] == types["out"] == types["active"] == FLOAT16
    assert types["unit"] == types["normal"] == types["y"] == FLOAT
    stored = {tensor.name: tensor.data_type for tensor in converted.graph.initializer}
    assert stored == {"first_as_float16": 10, "second_as_float16": 10, "scale": 1, "big": 1}


def test_bfloat16_is_rounded_once_from_the_original() -> None:
    converted = convert(scaled_network(), PINNED, BFLOAT16)
    stored = {tensor.name: tensor for tensor in converted.graph.initializer}
    bits = np.frombuffer(stored["first_as_bfloat16"].raw_data, np.uint16).reshape(8, 16)
    original = onnx.numpy_helper.to_array(scaled_network().graph.initializer[0])
    np.testing.assert_array_equal((bits.astype(np.uint32) << 16).view(np.float32), round_to(original, BFLOAT16))
    assert infer_element_types(converted)["hidden"] == BFLOAT16


@given(arrays.arrays(np.float32, 8, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_bfloat16_takes_the_nearer_neighbour(values: Any) -> None:
    rounded = round_to(values, BFLOAT16)
    bits = values.view(np.uint32)
    with np.errstate(over="ignore", invalid="ignore"):
        below = (bits & 0xFFFF0000).view(np.float32).astype(np.float64)
        above = ((bits & 0xFFFF0000) + np.uint32(0x10000)).view(np.float32).astype(np.float64)
        nearer = np.minimum(np.abs(values - below), np.abs(values - above))
        # Beyond the largest bfloat16 the neighbour above is infinite; a float32 so large rounds to it.
        exact = np.isfinite(above) & np.isfinite(rounded)
        np.testing.assert_array_equal(np.abs(values - rounded.astype(np.float64))[exact], nearer[exact])
        assert (np.isin(rounded, below) | np.isin(rounded, above)).all()


def test_values_that_are_not_finite_survive_rounding() -> None:
    values = np.array([np.nan, np.inf, -np.inf, 0.0], np.float32)
    for element in (FLOAT16, BFLOAT16):
        np.testing.assert_array_equal(round_to(values, element), values)
    assert np.isinf(round_to(np.array([1e6], np.float32), FLOAT16)).all()


UNARY = ("Relu", "Sigmoid", "Tanh", "Abs", "Neg", "Identity")


@st.composite
def graphs(draw: Any) -> tuple[Any, list[str]]:
    """Draw a graph whose nodes read any earlier tensors, with several outputs, and some nodes to keep."""
    tensors, nodes = ["x"], []
    for number in range(draw(st.integers(1, 8))):
        sources = st.sampled_from(tensors)
        name = f"t{number}"
        if draw(st.booleans()):
            operator, read = draw(st.sampled_from(UNARY)), draw(sources)
        else:
            operator, read = "Add", f"{draw(sources)} {draw(st.sampled_from([*tensors, 'w']))}"
        nodes.append(node(operator, read, name, f"n{number}"))
        tensors.append(name)
    outputs = draw(st.lists(st.sampled_from(tensors[1:]), min_size=1, max_size=3, unique=True))
    kept = draw(st.lists(st.sampled_from([each.name for each in nodes]), unique=True))
    shapes = [value(name, ["batch", 3]) for name in outputs]
    return model(nodes, [value("x", ["batch", 3])], shapes, [weight("w", [0.1, 0.7, -2.3])]), kept


@given(graphs())
def test_any_graph_with_any_nodes_kept_is_sound_and_close(given_graph: tuple[Any, list[str]]) -> None:
    graph, kept = given_graph
    windows = {"x": np.linspace(-2, 2, 12, dtype=np.float32).reshape(4, 3)}
    expected = run(graph, windows)
    converted = convert(graph, kept)
    types = infer_element_types(converted)
    for each in converted.graph.node:
        if each.name in kept:
            assert {types[name] for name in (*each.input, *each.output)} == {FLOAT}
    makers = {name: each for each in converted.graph.node for name in each.output}
    for each in converted.graph.node:
        if each.op_type == "Cast":
            assert each.input[0] not in makers or makers[each.input[0]].op_type != "Cast", "cast there and back"
    for found, right in zip(run(converted, windows), expected, strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, right, rtol=0, atol=0.01 * max(1.0, float(np.abs(right).max())))
    everything = convert(graph, [each.name for each in graph.graph.node])
    assert "Cast" not in operators(everything)
    for found, right in zip(run(everything, windows), expected, strict=True):
        np.testing.assert_array_equal(found, right)


def test_a_cast_to_float_becomes_one_to_half_unless_it_is_kept() -> None:
    nodes = [node("Cast", "n", "f", "cast", to=FLOAT), node("Relu", "f", "y", "relu")]
    graph = model(nodes, [value("n", ["b", 2], 6)], [value("y", ["b", 2])])
    assert by_name(convert(graph, []), "cast").attribute[0].i == FLOAT16
    assert by_name(convert(graph, ["cast"]), "cast").attribute[0].i == FLOAT


def test_tensors_that_a_graph_within_a_node_reads_stay_in_float32() -> None:
    inner = onnx.helper.make_graph([node("Neg", "h", "o", "neg")], "then", [], [value("o", ["b", 2])])
    other = onnx.helper.make_graph([node("Abs", "h", "p", "abs")], "else", [], [value("p", ["b", 2])])
    nodes = [
        node("Relu", "x", "h", "relu"),
        node("Sigmoid", "h", "s", "sigmoid"),
        node("If", "truth", "i", "choose", then_branch=inner, else_branch=other),
        node("Add", "i s", "y", "add"),
    ]
    truth = onnx.helper.make_tensor("truth", onnx.TensorProto.BOOL, [], [True])
    graph = model(nodes, [value("x", ["b", 2])], [value("y", ["b", 2])], [truth])
    windows = {"x": np.array([[1.0, 3.0]], np.float32)}
    converted = convert(graph, [])
    assert infer_element_types(converted)["h"] == FLOAT
    assert infer_element_types(converted)["s"] == FLOAT16
    np.testing.assert_allclose(run(converted, windows)[0], run(graph, windows)[0], atol=2e-3)
