"""Tests `streamd/tools/engine/gate/blame.py`: nodes that add an error are blamed, not those that pass it on."""

import pytest

pytest.importorskip("onnx")

import numpy as np
from onnx import numpy_helper

from streamd.tools.engine.gate.blame import compare_layers, find_blame
from streamd.tools.engine.graph.onnx_graph import fold_constants
from streamd.tools.engine.precision.kept_nodes import choose_kept_nodes, convert_to_half
from tests.support.graph_readers import raw_windows, scaled_network


def test_a_node_is_blamed_only_for_the_error_that_it_adds() -> None:
    exact = fold_constants(scaled_network())
    lower = fold_constants(scaled_network())
    weight = next(each for each in lower.graph.initializer if each.name == "first")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.3), "first"))
    layers = {layer.node: layer for layer in compare_layers(exact, lower, raw_windows())}
    assert list(layers) == [node.name for node in exact.graph.node]
    assert layers["/scaler/Div"].error == 0.0
    assert layers["/first/MatMul"].added == pytest.approx(0.3, rel=1e-4)
    # The normalisation takes the factor out again, and what follows is right.
    assert layers["/norm/LayerNormalization"].error < 1e-3
    blame = find_blame(exact, lower, raw_windows())
    assert blame.first is not None
    assert (blame.first.node, blame.worst[0].node) == ("/first/MatMul", "/first/MatMul")
    assert str(blame.first).startswith("/first/MatMul (MatMul): 3.0e-01 off, of which it added 3.0e-01")


def test_no_node_is_blamed_if_both_graphs_agree() -> None:
    exact = fold_constants(scaled_network())
    assert find_blame(exact, exact, raw_windows()) == find_blame(exact, exact, raw_windows())
    assert find_blame(exact, exact, raw_windows()).worst == ()
    assert find_blame(exact, exact, raw_windows()).first is None


def test_overflow_is_found_where_it_begins() -> None:
    exact = fold_constants(scaled_network())
    kept = choose_kept_nodes(exact, None, prefixes=("/restorer/",), operators=())
    blame = find_blame(exact, convert_to_half(exact, kept), raw_windows())
    assert blame.first is not None
    assert blame.first.node == "/scaler/Div"
    assert blame.first.error >= 1.0, "nothing is left of it"


def test_every_node_has_a_small_error_in_half_precision() -> None:
    exact = fold_constants(scaled_network())
    layers = compare_layers(exact, convert_to_half(exact, choose_kept_nodes(exact, None)), raw_windows())
    assert 0 < max(layer.error for layer in layers) < 5e-3
