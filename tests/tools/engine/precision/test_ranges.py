"""Tests `streamd/tools/engine/precision/ranges.py`: tensors that do not fit half precision are found by running."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

from streamd.tools.engine.graph.onnx_graph import fold_constants
from streamd.tools.engine.precision.half import BFLOAT16
from streamd.tools.engine.precision.kept_nodes import choose_kept_nodes, convert_to_half
from streamd.tools.engine.precision.ranges import RangeFinder
from tests.support.graph_readers import model, node, raw_windows, run, scaled_network, value, weight


def one_operator(factor: float) -> Any:
    nodes = [node("Mul", "x factor", "m", "mul"), node("Relu", "m", "r", "relu"), node("Neg", "x", "y", "neg")]
    outputs = [value("r", ["b", 4]), value("y", ["b", 4])]
    return model(nodes, [value("x", ["b", 4])], outputs, [weight("factor", factor)])


WINDOWS = {"x": np.array([[1.0, 2.0, -3.0, 4.0], [0.5, 0.1, 0.2, 0.3]], np.float32)}


@pytest.mark.parametrize(
    ("factor", "found"),
    [
        (1.0, set()),
        (4_000.0, set()),  # 16,000: within the margin of 4
        (4_200.0, {"m", "r"}),  # 16,800: other windows may well be four times larger
        (1e6, {"m", "r", "factor"}),
        (1e-7, {"m", "r", "factor"}),  # subnormal: most of its bits are lost
    ],
)
def test_large_and_tiny_tensors_are_found(factor: float, found: set[str]) -> None:
    assert set(RangeFinder().find_misfits(one_operator(factor), WINDOWS)) == found


def test_bfloat16_has_the_range_of_float32() -> None:
    assert RangeFinder(BFLOAT16).find_misfits(one_operator(1e30), WINDOWS) == {}


def test_a_window_that_is_tiny_beside_the_others_does_not_count() -> None:
    quiet = {"x": np.array([[1.0, 2.0, -3.0, 4.0], [1e-9, 1e-9, 2e-9, 1e-9]], np.float32)}
    assert RangeFinder().find_misfits(one_operator(1.0), quiet) == {}
    assert set(RangeFinder().find_misfits(one_operator(1.0), {"x": quiet["x"][1:]})) == {"m", "r", "y"}


@pytest.mark.parametrize("budget_bytes", [1, 10_000, 2**30])
def test_groups_of_any_size_find_the_same(budget_bytes: int) -> None:
    graph, reports = fold_constants(scaled_network()), list[tuple[int, int]]()
    finder = RangeFinder(budget_bytes=budget_bytes)
    found = finder.find_misfits(graph, raw_windows(20), lambda done, total: reports.append((done, total)))
    assert set(found) == {"big", "y"}
    assert [done for done, _ in reports] == list(range(1, reports[-1][1] + 1))
    assert reports[-1][0] == reports[-1][1]
    assert (len(reports) > 3) == (budget_bytes < 2**30), "three batches, and more runs where memory is short"


def test_nodes_that_touch_a_misfit_are_kept_with_the_reason() -> None:
    graph = fold_constants(scaled_network())
    kept = choose_kept_nodes(graph, raw_windows(), prefixes=(), operators=())
    assert set(kept.reasons) == {"/scaler/Div", "/restorer/Mul"}
    assert "big reaches 1e+09" in kept.reasons["/scaler/Div"]
    windows = raw_windows()
    found, expected = run(convert_to_half(graph, kept), windows)[0], run(graph, windows)[0]
    assert np.abs(found - expected).max() / np.abs(expected).max() < 3e-3
    blind = choose_kept_nodes(graph, None, prefixes=(), operators=())
    assert blind.names == []
    pinned = choose_kept_nodes(graph, None)
    assert pinned.reasons["/norm/LayerNormalization"] == "sensitive: LayerNormalization"
    assert pinned.reasons["/scaler/Div"] == "pinned: meets raw units"
