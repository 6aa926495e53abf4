"""Tests `streamd/tools/engine/graph/norms.py`: norms and sums written out give the same numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx")

from streamd.tools.engine.graph.norms import MAX_SUMMANDS, write_out_norms  # noqa: E402
from streamd.tools.engine.graph.onnx_graph import fold_constants  # noqa: E402
from tests.support.graph_readers import model, node, operators, run, value, weight  # noqa: E402


def normed(rank: int, **attributes: Any) -> Any:
    """Return an `InstanceNormalization` of 3 channels between two other nodes."""
    row = [3, *range(4, 2 + rank)]
    nodes = [
        node("Neg", "x", "u", "/Neg"),
        node("InstanceNormalization", "u scale bias", "v", "/norm", **attributes),
        node("Relu", "v", "y", "/Relu"),
    ]
    weights = [weight("scale", [0.5, 1.0, 2.0]), weight("bias", [0.1, -0.2, 0.3])]
    return fold_constants(model(nodes, [value("x", ["batch", *row])], [value("y", ["batch", *row])], weights))


@pytest.mark.parametrize("attributes", [{}, {"epsilon": 0.1}])
@pytest.mark.parametrize("rank", [3, 5])
def test_an_instance_norm_written_out_gives_the_same(rank: int, attributes: dict[str, float]) -> None:
    graph = normed(rank, **attributes)
    before = graph.SerializeToString()
    changed = write_out_norms(graph)
    assert "InstanceNormalization" not in operators(changed)
    assert graph.SerializeToString() == before
    shape = (2, 3, *range(4, 2 + rank))
    x = np.random.default_rng(7).standard_normal(shape).astype(np.float32) * 3 + 1
    np.testing.assert_allclose(run(changed, {"x": x})[0], run(graph, {"x": x})[0], rtol=1e-5, atol=1e-5)


def test_a_graph_without_norms_or_of_a_later_opset_is_returned_as_it_is() -> None:
    plain = model([node("Relu", "x", "y", "/Relu")], [value("x", ["b", 2])], [value("y", ["b", 2])])
    assert write_out_norms(plain) is plain
    later = normed(3)
    later.opset_import[0].version = 18
    assert write_out_norms(later) is later


SHIPPED = Path(__file__).resolve().parents[4] / "engines"
RANDOM = np.random.default_rng(4)


def one_node(made: Any, shape: tuple[Any, ...], out: tuple[Any, ...], *weights: Any) -> Any:
    """Return a graph of one node from `x` to `y`."""
    return model([made], [value("x", shape, 1)], [value("y", out, 1)], weights)


def axis_zero() -> Any:
    """Return the axes of a sum over the first."""
    return onnx.numpy_helper.from_array(np.array([0]), "axes")


@pytest.mark.parametrize("axis", [-1, 2])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_a_layer_norm_written_out_gives_the_same(axis: int, offset: float, *, biased: bool) -> None:
    factors = [weight(name, RANDOM.standard_normal(16)) for name in ("scale", "bias")[: 1 + biased]]
    made = node("LayerNormalization", "x scale bias" if biased else "x scale", "y", "norm", axis=axis)
    graph = one_node(made, ("batch", 5, 16), ("batch", 5, 16), *factors)
    written = write_out_norms(graph)
    assert "LayerNormalization" not in operators(written)
    x = RANDOM.standard_normal((3, 5, 16)).astype(np.float32) + offset
    np.testing.assert_allclose(run(written, {"x": x})[0], run(graph, {"x": x})[0], rtol=2e-3, atol=2e-3)


def test_a_row_of_one_value_has_no_negative_variance() -> None:
    made = node("LayerNormalization", "x scale", "y", "norm")
    graph = one_node(made, ("batch", 16), ("batch", 16), weight("scale", np.ones(16)))
    x = np.linspace(0.1, 9e3, 400, dtype=np.float32)[:, None] * np.ones(16, np.float32)
    assert np.isfinite(run(write_out_norms(graph), {"x": x})[0]).all()


@settings(deadline=None, max_examples=40)
@given(count=st.integers(1, MAX_SUMMANDS + 2), keepdims=st.booleans())
def test_sums_over_the_first_axis_give_the_same(count: int, *, keepdims: bool) -> None:
    """A sum of one summand or of very many is not changed."""
    made = [
        node("Transpose", "x", "turned", "turn", perm=[1, 0, 2]),
        node("ReduceSum", "turned axes", "y", "sum", keepdims=int(keepdims)),
    ]
    out = (1, "batch", 3) if keepdims else ("batch", 3)
    graph = model(made, [value("x", ("batch", count, 3), 1)], [value("y", out, 1)], [axis_zero()])
    written = write_out_norms(graph)
    assert ("ReduceSum" in operators(written)) == (not 2 <= count <= MAX_SUMMANDS)
    x = RANDOM.standard_normal((4, count, 3)).astype(np.float32)
    np.testing.assert_allclose(run(written, {"x": x})[0], run(graph, {"x": x})[0], rtol=1e-5, atol=1e-5)


def test_nodes_that_cannot_be_written_out_stay() -> None:
    made = node("LayerNormalization", "x scale", "y", "norm")
    graph = model([made], [value("x", ("batch", 4), 1), value("scale", (4,), 1)], [value("y", ("batch", 4), 1)])
    assert operators(write_out_norms(graph)) == ["LayerNormalization"]
    batch_sum = one_node(node("ReduceSum", "x axes", "y", "sum", keepdims=1), ("batch", 4), (1, 4), axis_zero())
    assert operators(write_out_norms(batch_sum)) == ["ReduceSum"]
    plain = one_node(node("Relu", "x", "y", "relu"), ("batch", 4), ("batch", 4))
    assert write_out_norms(plain) is plain


@pytest.mark.parametrize("name", ["patch", "tft"])
def test_the_shipped_graphs_give_the_same_forecasts(name: str) -> None:
    (path,) = SHIPPED.glob(f"{name}_*/model.onnx")
    written = write_out_norms(fold_constants(onnx.load(path)))
    assert "LayerNormalization" not in operators(written)
    inputs = {
        "encoder_cont": RANDOM.random((3, 288, 14), np.float32) * 1e5,
        "encoder_cat": np.zeros((3, 288, 2), np.int32),
        "decoder_cont": RANDOM.random((3, 96, 4), np.float32),
        "decoder_cat": np.zeros((3, 96, 2), np.int32),
    }
    found, expected = run(written, inputs)[0], run(onnx.load(path), inputs)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
