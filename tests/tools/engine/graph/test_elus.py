"""Tests `streamd/tools/engine/graph/elus.py`: graphs without the operator give the same numbers."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

from streamd.tools.engine.graph.elus import write_out_elus
from streamd.tools.engine.graph.onnx_graph import fold_constants
from streamd.tools.engine.precision.half import FLOAT16
from streamd.tools.engine.precision.kept_nodes import choose_kept_nodes, convert_to_half
from tests.support.graph_readers import model, node, operators, run, value

VALUES = np.array([0.0, -0.0, 1e-30, -1e-30, 1e-3, -1e-3, 0.5, -0.5, 3.0, -3.0, 90.0, -200.0, 1e30, -1e30], np.float32)


def elus(kind: int = 1, **attributes: float) -> Any:
    nodes = [node("Elu", "x", "inner", "/first/Elu", **attributes), node("Elu", "inner", "y", "/second/Elu")]
    shape: list[int | str | None] = ["batch", len(VALUES)]
    return fold_constants(model(nodes, [value("x", shape, kind)], [value("y", shape, kind)]))


@pytest.mark.parametrize("attributes", [{}, {"alpha": 1.0}, {"alpha": 0.3}, {"alpha": 2.5}])
def test_the_numbers_are_the_same_to_rounding(attributes: dict[str, float]) -> None:
    graph = elus(1, **attributes)
    written = write_out_elus(graph)
    assert "Elu" not in operators(written)
    assert operators(graph) == ["Elu", "Elu"], "the given graph is not changed"
    given = {"x": VALUES[None]}
    np.testing.assert_allclose(run(written, given)[0], run(graph, given)[0], rtol=1e-6, atol=2e-7)


def test_other_graphs_and_other_types_are_returned_as_they_are() -> None:
    plain = fold_constants(model([node("Relu", "x", "y", "/r")], [value("x", ["n", 2])], [value("y", ["n", 2])]))
    assert write_out_elus(plain) is plain
    double = elus(11)
    assert write_out_elus(double) is double


def test_half_precision_loses_little_near_zero() -> None:
    small = {"x": np.linspace(-0.02, 0.0, len(VALUES), dtype=np.float32)[None]}
    graph = elus()
    written = write_out_elus(graph)
    kept = choose_kept_nodes(written, None, FLOAT16)
    assert {"/first/Elu/exponential_node", "/first/Elu/below_node"} <= set(kept.names)
    half = convert_to_half(written, kept, FLOAT16)
    error = float(np.abs(run(half, small)[0] - run(graph, small)[0]).max())
    assert 0 < error < 2e-5, "an exponential that is rounded before 1 is subtracted would be 5e-4 off"
