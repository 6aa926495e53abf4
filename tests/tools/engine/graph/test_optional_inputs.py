"""Tests `streamd/tools/engine/graph/optional_inputs.py`: inputs with a default, with and without them in the graph."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx

from streamd.core.errors import BuildError
from streamd.tools.engine.graph.onnx_graph import extract_signature
from streamd.tools.engine.graph.optional_inputs import (
    add_default_input,
    read_defaults,
    require_inputs,
    restore_defaults,
)
from tests.support.graph_readers import INT32, model, node, run, value, weight

NOTHING = np.full((1, 4, 3), np.nan, np.float32)


def remembering(inputs: Any = None) -> Any:
    """Return a graph that joins the memory to the other input, so that both must have as many rows."""
    nodes = [
        node("IsNaN", "memory", "missing", "/scaler/IsNaN"),
        node("Where", "missing zero memory", "known", "/scaler/Where"),
        node("Concat", "x known", "joined", "/Concat", axis=1),
        node("Cast", "ids", "numbers", "/Cast", to=1),
        node("Unsqueeze", "numbers one", "wide", "/Unsqueeze"),
        node("Add", "joined wide", "y", "/Add"),
    ]
    given = inputs or [
        value("x", ["batch", 2, 3]),
        value("ids", ["batch", 1], INT32),
        value("memory", ["batch", 4, 3]),
    ]
    made = model(nodes, given, [value("y", ["batch", 6, 3])], [weight("zero", np.float32(0))])
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1], np.int64), "one"))
    return made


def feeds(count: int) -> dict[str, Any]:
    random = np.random.default_rng(count)
    return {
        "x": random.standard_normal((count, 2, 3)).astype(np.float32),
        "ids": random.integers(0, 2**30, (count, 1)).astype(np.int32),
        "memory": random.standard_normal((count, 4, 3)).astype(np.float32),
    }


def without(given: dict[str, Any]) -> dict[str, Any]:
    return {name: values for name, values in given.items() if name != "memory"}


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_left_out_input_counts_as_its_default_at_any_batch_size(count: int) -> None:
    plain, given = remembering(), feeds(count)
    made = add_default_input(plain, "memory", NOTHING, like="ids")
    np.testing.assert_array_equal(run(made, given)[0], run(plain, given)[0])
    nothing = np.repeat(NOTHING, count, axis=0)
    np.testing.assert_array_equal(run(made, without(given))[0], run(plain, {**given, "memory": nothing})[0])


def test_sessions_that_reuse_memory_take_the_default_too() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    made = add_default_input(remembering(), "memory", NOTHING, like="ids")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == ["x", "ids"]
    for count in (4, 1, 3, 4):
        given = feeds(count)
        found = session.run(None, without(given))[0]
        np.testing.assert_array_equal(found, run(made, without(given))[0])


def test_the_added_nodes_stay_in_float32_and_the_graph_of_a_plan_has_one_batch_axis() -> None:
    plain = remembering()
    made = add_default_input(plain, "memory", NOTHING, like="ids")
    added = {each.name for each in made.graph.node} - {each.name for each in plain.graph.node}
    assert added
    assert all(name.startswith("/scaler/memory/") for name in added)
    assert read_defaults(plain) == {}
    defaults = read_defaults(made)
    assert list(defaults) == ["memory"]
    np.testing.assert_array_equal(defaults["memory"], NOTHING)
    assert [each.name for each in extract_signature(made, "small").inputs] == ["x", "ids"]
    required = require_inputs(made, ["memory"])
    assert [each.name for each in extract_signature(required, "small").inputs] == ["x", "ids", "memory"]
    axes = {each.name: each.type.tensor_type.shape.dim[0].dim_param for each in required.graph.input}
    assert axes == dict.fromkeys(("x", "ids", "memory"), "batch")
    given = feeds(3)
    np.testing.assert_array_equal(run(required, given)[0], run(made, given)[0])
    again = restore_defaults(required, defaults)
    np.testing.assert_array_equal(run(again, without(given))[0], run(made, without(given))[0])
    assert read_defaults(made), "the given graph is not changed"


def test_graphs_without_such_inputs_are_returned_as_they_are() -> None:
    plain = remembering()
    assert require_inputs(plain, ()) is plain
    assert restore_defaults(plain, {}) is plain


def test_weights_that_old_exporters_list_as_inputs_are_no_optional_inputs() -> None:
    inputs = [value("x", ["batch", 2]), value("w", [2, 2])]
    made = model([node("MatMul", "x w", "y", "/m")], inputs, [value("y", ["batch", 2])], [weight("w", np.eye(2))])
    assert read_defaults(made) == {}
    optional = restore_defaults(remembering(), {"memory": NOTHING})
    optional.ir_version = 3
    assert read_defaults(optional) == {}, "before version 4 each initializer is an input"


@pytest.mark.parametrize(
    ("name", "default", "like", "message"),
    [
        ("other", NOTHING, "ids", r"the graph has the inputs \['x', 'ids', 'memory'\], expected 'other'"),
        ("memory", NOTHING[:, :3], "ids", r"'memory' has rows of \(4, 3\), its default is \(1, 3, 3\) float32"),
        ("memory", NOTHING.astype(np.float64), "ids", "its default is .* float64"),
        ("memory", NOTHING, "rows", "input 'rows' is missing, expected an input with the rows"),
    ],
)
def test_a_default_that_does_not_fit_is_refused(name: str, default: Any, like: str, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        add_default_input(remembering(), name, default, like=like)
