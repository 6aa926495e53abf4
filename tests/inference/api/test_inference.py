"""Tests `streamd/inference/api/inference.py`.

An engine on ONNX Runtime and on scripted runners, against the same rows one by one.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from streamd.core.errors import (
    BackendUnavailableError,
    BatchFailedError,
    ConfigError,
    InferenceError,
    InvalidTensorError,
    LaneLostError,
    RepositoryError,
)
from streamd.engine import InferenceEngine
from streamd.inference.api.backends import OpenOptions, Runners
from streamd.inference.api.batches import make_unmeasured_costs, measure_buckets, split_rows
from streamd.inference.api.sources import EngineSource
from streamd.inference.runner import Array
from tests.support.small_networks import WEIGHTS, ScriptedRunner, linear, save, shifted, two_inputs, value

CPU = "onnxruntime-cpu"


def rows_of(count: int) -> Array:
    return np.arange(count * 2, dtype=np.float32).reshape(count, 2)


def engine_of(*runners: ScriptedRunner) -> InferenceEngine:
    return InferenceEngine(runners, backend="scripted", precision="fp32")


# ---------------------------------------------------------------- rows
@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(0, 70),
    buckets=st.sets(st.integers(1, 17), min_size=1, max_size=4),
    lanes=st.integers(1, 3),
    pads=st.booleans(),
)
def test_any_number_of_rows_on_any_buckets_gives_each_row_its_own_result(
    count: int, buckets: set[int], lanes: int, pads: bool
) -> None:
    runners = [ScriptedRunner(tuple(sorted(buckets)), pads) for _ in range(lanes)]
    with engine_of(*runners) as engine:
        rows = rows_of(count)
        for _ in range(2):
            outputs = engine(rows)
            assert outputs["y"].shape == (count, 2)
            np.testing.assert_array_equal(outputs["y"], rows * 2)
    assert all(runner.closed == 1 for runner in runners)


@settings(max_examples=15, deadline=None)
@given(count=st.integers(0, 40), buckets=st.sets(st.integers(1, 9), min_size=1, max_size=3), lanes=st.integers(1, 2))
def test_onnxruntime_in_batches_gives_what_numpy_does(
    tmp_path_factory: pytest.TempPathFactory, count: int, buckets: set[int], lanes: int
) -> None:
    path = linear(tmp_path_factory.mktemp("linear"))
    rows = np.random.default_rng(count).integers(-9, 9, (count, 4)).astype(np.float32)
    with InferenceEngine.open(path, backend=CPU, buckets=sorted(buckets), lanes=lanes, threads=1) as engine:
        np.testing.assert_array_equal(engine({"x": rows})["y"], rows @ WEIGHTS)


def test_an_input_with_a_default_value_may_be_left_out(tmp_path: Path) -> None:
    with InferenceEngine.open(shifted(tmp_path), backend=CPU, lanes=2, buckets=[1, 4]) as engine:
        assert [spec.optional for spec in engine.inputs] == [False, True]
        rows = np.arange(22, dtype=np.float32).reshape(11, 2)
        shifts = np.arange(11, dtype=np.float32)[:, None] * np.ones(2, np.float32)
        np.testing.assert_array_equal(engine(rows)["y"], rows + 5)
        np.testing.assert_array_equal(engine({"x": rows, "shift": shifts})["y"], rows + shifts)
        np.testing.assert_array_equal(engine({"x": rows[0], "shift": shifts[3]})["y"], rows[0] + 3)
        assert set(engine.warm_up()) == {1, 4}
        assert engine.describe()["inputs"]["shift"] == "(batch, 2) float32 (optional)"
        with pytest.raises(InvalidTensorError, match="different numbers of rows"):
            engine({"x": rows, "shift": shifts[:3]})
        with pytest.raises(InvalidTensorError, match=r"missing \['x'\]"):
            engine({"shift": shifts})
        with pytest.raises(InvalidTensorError, match=r"'shift' is \(11, 3\), expected \(batch, 2\) float32"):
            engine({"x": rows, "shift": np.zeros((11, 3), np.float32)})


def test_a_row_without_the_batch_axis_gives_outputs_without_it(tmp_path: Path) -> None:
    with InferenceEngine.open(two_inputs(tmp_path), backend=CPU) as engine:
        outputs = engine({"a": [0.5, 0, 0, 0, 0], "b": [1, 2, 3, 9, 5]})
        np.testing.assert_array_equal(outputs["y"], [1.5, 2, 3, 9, 5])
        assert outputs["place"] == 3
        assert outputs["place"].dtype == np.int64
        with pytest.raises(InvalidTensorError, match=r"'a': '2 rows'.*'b': 'no batch axis'"):
            engine({"a": np.zeros((2, 5)), "b": np.zeros(5, int)})


def test_no_rows_give_no_rows_even_where_the_graph_leaves_a_shape_open(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    path = save(tmp_path / "open.onnx", nodes, [value("x", "batch", "any")], [value("y", "batch", "any")])
    with InferenceEngine.open(path, backend=CPU) as engine:
        assert engine.outputs[0].shape == (None,)
        assert engine(np.zeros((0, 6)))["y"].shape == (0, 6)


def test_nan_is_the_networks_own_affair(tmp_path: Path) -> None:
    with InferenceEngine.open(linear(tmp_path), backend=CPU) as engine:
        found = engine(np.array([[1, np.nan, 0, 0], [1, 0, 0, 0]]))["y"]
        assert np.isnan(found[0]).any()
        np.testing.assert_array_equal(found[1], [1, 0, 2])


# ---------------------------------------------------------------- what is refused
@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ({"a": np.zeros((2, 5))}, r"missing \['b'\]; expected .*'b': '\(batch, 5\) int64'"),
        ({"a": np.zeros((2, 5)), "b": np.zeros((2, 5), int), "c": 1}, r"unknown \['c'\]"),
        ({"a": np.zeros((2, 4)), "b": np.zeros((2, 5), int)}, r"'a' is \(2, 4\), expected \(batch, 5\) float32"),
        ({"a": np.zeros((2, 5)), "b": np.zeros((3, 5), int)}, "'a': '2 rows', 'b': '3 rows'"),
        ({"a": np.zeros((2, 5)), "b": np.zeros((2, 5))}, "'b' is float64, expected int64"),
        ({"a": np.zeros((2, 5), complex), "b": np.zeros((2, 5), int)}, "'a' is complex128, expected float32"),
        ({"a": np.full((2, 5), "x"), "b": np.zeros((2, 5), int)}, "'a' is <U1, expected float32"),
        ({"a": [[0, 1], [2]], "b": np.zeros((2, 5), int)}, "input 'a': .*expected"),
        ({"a": np.eye(5) * 1e39, "b": np.eye(5, dtype=int)}, r"'a' at \(0, 0\) is 1e\+39 \(float64\), which float32"),
        ({"a": np.full((1, 5), 2**24 + 1), "b": np.ones((1, 5), int)}, r"'a' at \(0, 0\) is 16777217"),
        ({"a": np.ones((1, 5)), "b": np.full((1, 5), 2**63, np.uint64)}, r"'b' at \(0, 0\) is 9223372036854775808"),
        (np.zeros((2, 5)), "one array was given for 2 inputs"),
    ],
)
def test_what_does_not_fit_is_refused_with_name_place_and_expectation(tmp_path: Path, inputs: Any, told: str) -> None:
    with (
        InferenceEngine.open(two_inputs(tmp_path), backend=CPU) as engine,
        pytest.raises(InvalidTensorError, match=told),
    ):
        engine(inputs)


def test_numbers_whose_value_survives_are_converted(tmp_path: Path) -> None:
    with InferenceEngine.open(two_inputs(tmp_path), backend=CPU) as engine:
        given_values: dict[str, Array] = {"a": np.full((1, 5), 0.1, np.float64), "b": np.full((1, 5), 255, np.uint8)}
        np.testing.assert_array_equal(engine(given_values)["y"], np.full((1, 5), np.float32(0.1) + np.float32(255)))
        exact = {"a": np.full((1, 5), 2**40), "b": np.zeros((1, 5), bool)}
        assert engine(exact)["y"][0, 0] == 2.0**40
        infinite = {"a": np.full((1, 5), np.inf), "b": np.zeros((1, 5), ">i4")}
        assert np.isinf(engine(infinite)["y"]).all()


# ---------------------------------------------------------------- opening
def test_what_cannot_be_opened_says_why(tmp_path: Path) -> None:
    path = linear(tmp_path)
    for options, told in (
        ({"backend": "tpu"}, "backend is 'tpu', expected auto or one of"),
        ({"precision": "fp8"}, "precision is 'fp8'"),
        ({"buckets": []}, "buckets are"),
        ({"lanes": 0}, "lanes is 0"),
        ({"devices": []}, "devices are"),
    ):
        with pytest.raises(ConfigError, match=told):
            InferenceEngine.open(path, **options)
    with pytest.raises(RepositoryError, match="no such file or folder"):
        InferenceEngine.open(tmp_path / "none.onnx")
    with pytest.raises(RepositoryError, match=r"has no config.json, no plans.json and no model.onnx"):
        InferenceEngine.open(tmp_path)
    with pytest.raises(BackendUnavailableError, match="no graph in fp16: expected fp32"):
        InferenceEngine.open(path, backend=CPU, precision="fp16")
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    with pytest.raises(BackendUnavailableError, match="ONNX Runtime cannot load it"):
        InferenceEngine.open(tmp_path / "bad.onnx", backend=CPU)


def test_a_fixed_batch_axis_is_refused_with_the_way_out(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    path = save(tmp_path / "fixed.onnx", nodes, [value("x", 2, 3)], [value("y", 2, 3)])
    with pytest.raises(BackendUnavailableError, match="'x' has a fixed batch of 2, expected a dynamic first axis"):
        InferenceEngine.open(path, backend=CPU)


def test_auto_takes_the_first_backend_that_runs_and_tells_of_the_others(tmp_path: Path) -> None:
    def unavailable(source: EngineSource, options: OpenOptions) -> Runners:
        raise BackendUnavailableError("no such chip")

    def scripted(source: EngineSource, options: OpenOptions) -> Runners:
        return Runners([ScriptedRunner()], "fp32")

    path = linear(tmp_path)
    with InferenceEngine.open(path, openers={"chip": unavailable, "script": scripted}) as engine:
        assert engine.backend == "script"
        assert engine.describe()["fallbacks"] == [{"backend": "chip", "reason": "no such chip"}]
    with pytest.raises(BackendUnavailableError, match=r"no backend can run .*: chip: no such chip"):
        InferenceEngine.open(path, openers={"chip": unavailable})


# ---------------------------------------------------------------- lanes
def test_batches_run_on_several_lanes_at_once_and_keep_their_order() -> None:
    together = threading.Barrier(2, timeout=30)

    def meet(number: int, rows: Array) -> None:
        together.wait()  # passes only while two lanes run at the same time

    runners = [ScriptedRunner((4,), script=meet) for _ in range(2)]
    with engine_of(*runners) as engine:
        np.testing.assert_array_equal(engine(rows_of(16))["y"], rows_of(16) * 2)
    assert sorted(runner.sizes for runner in runners) == [[4, 4], [4, 4]]


def test_the_cheapest_buckets_are_taken_by_what_was_measured() -> None:
    runner = ScriptedRunner((4, 8), pads=True)
    slow = {4: 1.0, 8: 10.0}
    clock = iter(np.cumsum([each for bucket in (4, 8) for _ in range(3) for each in (0.0, slow[bucket])]).tolist())
    costs = measure_buckets(runner, {"x": rows_of(3)}, now=lambda: next(clock))
    assert costs.seconds == slow
    assert runner.sizes == [4] * 4 + [8] * 4
    assert split_rows(16, costs, lanes=1) == [4, 4, 4, 4]


@given(count=st.integers(0, 500), lanes=st.integers(1, 5), largest=st.integers(1, 16), pads=st.booleans())
def test_a_split_gives_every_lane_its_share_and_no_batch_more_than_need_be(
    count: int, lanes: int, largest: int, pads: bool
) -> None:
    sizes = split_rows(count, make_unmeasured_costs(ScriptedRunner((largest,), pads)), lanes)
    assert sum(sizes) == count
    assert all(1 <= size <= largest for size in sizes)
    rounds = -(-count // (largest * lanes))
    assert len(sizes) <= rounds * lanes


def test_one_engine_serves_many_threads() -> None:
    with engine_of(*(ScriptedRunner((1, 4)) for _ in range(3))) as engine, ThreadPoolExecutor(8) as pool:
        sizes = [1 + number % 11 for number in range(200)]
        for count, outputs in zip(sizes, pool.map(lambda count: engine(rows_of(count)), sizes), strict=True):
            np.testing.assert_array_equal(outputs["y"], rows_of(count) * 2)


def lose(number: int, rows: Array) -> None:
    raise LaneLostError("fell off the bus")


def refuse(number: int, rows: Array) -> None:
    if rows[0, 0] < 0:
        raise BatchFailedError("negative")


def test_a_lost_lane_is_left_out_and_its_batch_runs_on_another() -> None:
    good, bad = ScriptedRunner(), ScriptedRunner(script=lose)
    with engine_of(good, bad) as engine:
        np.testing.assert_array_equal(engine(rows_of(40))["y"], rows_of(40) * 2)
        engine(rows_of(8))
        assert engine.describe()["lanes"] == 1
        assert (len(bad.sizes), bad.closed) == (1, 1)
    assert (good.closed, bad.closed) == (1, 1)
    with engine_of(ScriptedRunner(script=lose)) as engine:
        for _ in range(2):
            with pytest.raises(LaneLostError, match="fell off the bus"):
                engine(rows_of(1))


@pytest.mark.parametrize("lanes", [1, 3])
def test_a_batch_that_fails_raises_and_the_engine_goes_on(lanes: int) -> None:
    with engine_of(*(ScriptedRunner(script=refuse) for _ in range(lanes))) as engine:
        with pytest.raises(BatchFailedError, match="negative"):
            engine(-rows_of(40) - 1)
        assert engine.describe()["lanes"] == lanes
        np.testing.assert_array_equal(engine(rows_of(40))["y"], rows_of(40) * 2)


@pytest.mark.parametrize("call", [lambda engine: engine(rows_of(1)), lambda engine: engine(rows_of(40))])
def test_a_closed_engine_says_so(call: Callable[[InferenceEngine], Any]) -> None:
    engine = engine_of(ScriptedRunner(), ScriptedRunner())
    engine.close()
    engine.close()
    with pytest.raises(BatchFailedError, match="the engine is closed"):
        call(engine)


def test_warm_up_measures_each_bucket_once_and_for_all() -> None:
    runner = ScriptedRunner((1, 4))
    with engine_of(runner) as engine:
        assert set(engine.warm_up()) == {1, 4}
        measured = len(runner.sizes)
        engine(rows_of(3))
        assert sum(runner.sizes[measured:]) == 3
        assert set(engine.describe()["bucket_ms"]) == {1, 4}


def test_warm_up_needs_rows_where_the_graph_leaves_an_axis_open(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    path = save(tmp_path / "any.onnx", nodes, [value("x", "batch", "any")], [value("y", "batch", "any")])
    with InferenceEngine.open(path, backend=CPU, buckets=(1, 2)) as engine:
        with pytest.raises(InferenceError, match=r"open axes \['\(batch, \?\) float32'\]"):
            engine.warm_up()
        assert set(engine.warm_up(np.zeros((1, 3)))) == {1, 2}
