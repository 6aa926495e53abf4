"""Tests `streamd/inference/api/rows.py`.

Outputs whose axes only running shows, and networks whose rows depend on each other.
"""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx
from onnx import TensorProto, helper

from streamd.core.errors import BatchFailedError
from streamd.engine import Ensemble, InferenceEngine
from tests.support.small_networks import ScriptedRunner, linear, save, value

CPU = "onnxruntime-cpu"
X = np.arange(12, dtype=np.float32).reshape(3, 4)


def untold(folder: Path, name: str = "untold.onnx") -> Path:
    """`y = x`, of which nothing tells the number of axes."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Compress", ["shape", "mask"], ["kept"]),
        helper.make_node("Reshape", ["x", "kept"], ["y"]),
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])
    path = save(folder / name, nodes, [value("x", "batch", 4)], [output], mask=np.ones(2, bool))
    model = onnx.load(str(path))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    path.write_bytes(model.SerializeToString())
    return path


def test_an_output_whose_axes_the_graph_does_not_tell_is_what_running_shows(tmp_path: Path) -> None:
    with InferenceEngine.open(untold(tmp_path), backend=CPU, buckets=(1, 2), lanes=2) as engine:
        assert engine.describe()["outputs"] == {"y": "(batch, ...) float32"}
        np.testing.assert_array_equal(engine(X)["y"], X)
        np.testing.assert_array_equal(engine(X[0])["y"], X[0])
        assert engine(X[:0])["y"].shape == (0, 4)
        np.testing.assert_array_equal(engine.slide(np.arange(8.0), length=4, stride=4)["y"], np.arange(8.0))


def test_such_an_engine_can_be_of_an_ensemble(tmp_path: Path) -> None:
    with Ensemble([InferenceEngine.open(untold(tmp_path, f"{each}.onnx"), backend=CPU) for each in "ab"]) as both:
        np.testing.assert_array_equal(both(X)["y"], X)


def test_one_number_for_all_rows_is_told_when_it_comes(tmp_path: Path) -> None:
    nodes = [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)]
    path = save(tmp_path / "sum.onnx", nodes, [value("x", "batch", 4)], [value("y")])
    with (
        InferenceEngine.open(path, backend=CPU) as engine,
        pytest.raises(BatchFailedError, match=r"output 'y' is \(\) for 3 rows, expected a row for each"),
    ):
        engine(X)


def softmax_over_batch(folder: Path) -> Path:
    nodes = [helper.make_node("Softmax", ["x"], ["y"], axis=0)]
    return save(folder / "softmax.onnx", nodes, [value("x", "batch", 4)], [value("y", "batch", 4)])


def test_a_network_whose_rows_depend_on_each_other_is_refused_with_its_first_batch(tmp_path: Path) -> None:
    said = r"output 'y': a row alone and among 3 differ by .* rows depend on each other"
    with InferenceEngine.open(softmax_over_batch(tmp_path), backend=CPU) as engine:
        np.testing.assert_array_equal(engine(X[0])["y"], np.ones(4))
        for _ in range(2):
            with pytest.raises(BatchFailedError, match=said):
                engine(X)
    with InferenceEngine.open(softmax_over_batch(tmp_path), backend=CPU, check_rows=False) as engine:
        assert engine(X)["y"].sum(axis=0) == pytest.approx(np.ones(4))


def test_warming_up_shows_it_too(tmp_path: Path) -> None:
    with (
        InferenceEngine.open(softmax_over_batch(tmp_path), backend=CPU, buckets=(1, 3)) as engine,
        pytest.raises(BatchFailedError, match="rows depend on each other"),
    ):
        engine.warm_up(X)


def test_rows_are_checked_once() -> None:
    runner = ScriptedRunner((4,))
    with InferenceEngine([runner], backend="none", precision="fp32", check_rows=True) as engine:
        for _ in range(2):
            np.testing.assert_array_equal(engine(np.ones((1, 2)))["y"], np.full((1, 2), 2))
        assert runner.sizes == [1, 1]
        for _ in range(2):
            np.testing.assert_array_equal(engine(np.ones((3, 2)))["y"], np.full((3, 2), 2))
        assert runner.sizes == [1, 1, 3, 1, 3]


@pytest.mark.parametrize("rows", [np.full((3, 4), np.nan), np.zeros((3, 4)), np.full((3, 4), 1e30)])
def test_what_is_the_networks_own_affair_is_no_reason(tmp_path: Path, rows: np.ndarray) -> None:
    with InferenceEngine.open(linear(tmp_path), backend=CPU) as engine:
        assert engine(rows)["y"].shape == (3, 3)


def test_a_missing_value_that_spreads_is_seen(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "m"], ["y"]),
    ]
    path = save(tmp_path / "mean.onnx", nodes, [value("x", "batch", 4)], [value("y", "batch", 4)])
    rows = X.copy()
    rows[1] = np.nan
    with (
        InferenceEngine.open(path, backend=CPU) as engine,
        pytest.raises(BatchFailedError, match="differ by inf"),
    ):
        engine(rows)
