"""Tests `streamd/tools/engine/plan/attention.py`: joined sets give the same numbers; other graphs are not changed."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from streamd.tools.engine.graph.onnx_graph import fold_constants
from streamd.tools.engine.plan.attention import MAX_JOINED_TOKENS, join_attention
from tests.support.graph_readers import run

SHIPPED = Path(__file__).resolve().parents[4] / "engines"


def attention(sets: int, tokens: int, heads: int = 2, size: int = 4, *, factor: bool = True, spoil: str = "") -> Any:
    """Return self-attention over `(batch, set, token, width)`, as PyTorch's exporter writes it."""
    width = heads * size
    random = np.random.default_rng(3)
    weights = {
        "flat": np.array([-1, tokens, width]),
        "split": np.array([-1, tokens, heads, size]),
        "back": np.array([-1, sets, tokens, width]),
        "factor": np.array(size**-0.5, np.float32),
        **{f"w{name}": random.standard_normal((width, width)).astype(np.float32) for name in "qkv"},
    }
    nodes = [helper.make_node("Reshape", ["x", "flat"], ["rows"], "rows")]
    for name in "qkv":
        perm = [0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]
        nodes += [
            helper.make_node("MatMul", ["rows", f"w{name}"], [f"p{name}"], f"p{name}"),
            helper.make_node("Reshape", [f"p{name}", "split"], [f"r{name}"], f"r{name}"),
            helper.make_node("Transpose", [f"r{name}"], [f"t{name}"], f"t{name}", perm=perm),
        ]
    nodes += [helper.make_node("MatMul", ["tq", "tk"], ["products"], "products")]
    nodes += [helper.make_node("Mul", ["products", "factor"], ["scores"], "scores")] if factor else []
    nodes += [
        helper.make_node("Softmax", ["scores" if factor else "products"], ["shares"], "softmax", axis=-1),
        helper.make_node("MatMul", ["shares", "tv"], ["seen"], "seen"),
        helper.make_node("Transpose", ["seen"], ["by_token"], "by_token", perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["by_token", "flat"], ["out_rows"], "out_rows"),
        helper.make_node("Reshape", ["out_rows", "back"], ["y"], "y"),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", sets, tokens, width])]
    if spoil:  # Another reader needs the original layout.
        outputs.append(helper.make_tensor_value_info(spoil, TensorProto.FLOAT, ["rows", None, None, None]))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", sets, tokens, width])]
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "attention", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def joined_length(model: Any) -> int:
    """Return the tokens of a joined set, or 0 if nothing was joined."""
    masks = [tensor for tensor in model.graph.initializer if tensor.name.endswith("own_set_mask")]
    return int(masks[0].dims[-1]) if masks else 0


@pytest.mark.parametrize("factor", [True, False])
@pytest.mark.parametrize(
    ("sets", "tokens", "length"), [(7, 16, 112), (3, 5, 15), (12, 16, 96), (64, 2, 128), (5, 32, 32 * 1)]
)
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_joined_sets_give_the_same_numbers(sets: int, tokens: int, length: int, batch: int, *, factor: bool) -> None:
    model = attention(sets, tokens, factor=factor)
    joined = join_attention(model)
    assert joined_length(joined) == (length if length > tokens else 0)
    assert length <= MAX_JOINED_TOKENS
    x = np.random.default_rng(batch).standard_normal((batch, sets, tokens, 8)).astype(np.float32) * 5
    expected, found = run(model, {"x": x})[0], run(joined, {"x": x})[0]
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("spoil", ["shares", "rk", "products", "seen"])
def test_a_tensor_with_another_reader_is_not_changed(spoil: str) -> None:
    model = attention(7, 16, spoil=spoil)
    assert join_attention(model) is model


def test_a_single_set_and_long_sets_are_not_changed() -> None:
    for model in (attention(1, 16), attention(7, 33)):
        assert join_attention(model) is model


def test_of_the_shipped_graphs_the_patch_model_has_such_sets() -> None:
    (path,) = SHIPPED.glob("patch_*/model.onnx")
    model = fold_constants(onnx.load(path))
    assert joined_length(join_attention(model)) == 56
