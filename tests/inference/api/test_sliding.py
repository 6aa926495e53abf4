"""Tests `streamd/inference/api/sliding.py`.

Sliding windows against a naive loop: every window by itself, weights added up element by element.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from streamd.core.errors import ConfigError, InvalidTensorError
from streamd.engine import InferenceEngine
from streamd.inference.api.grid import list_window_starts
from streamd.inference.api.sliding import BLENDS
from streamd.inference.runner import Array
from tests.support.small_networks import centred, halved, pointwise, save, two_inputs, value

LENGTH = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sliding")


def opened(path: Path, largest: int = 3) -> InferenceEngine:
    return InferenceEngine.open(path, backend="onnxruntime-cpu", buckets=[largest], threads=1)


@given(size=st.integers(1, 60), length=st.integers(1, 20), stride=st.integers(1, 20))
def test_windows_cover_an_axis_to_its_end_without_gaps(size: int, length: int, stride: int) -> None:
    length, stride = min(length, size), min(stride, length)
    starts = list_window_starts(size, length, stride)
    covered = {element for start in starts for element in range(start, start + length)}
    assert covered == set(range(size))
    assert list(starts) == sorted(set(starts))
    assert all(step <= stride for step in np.diff(starts))
    assert len(starts) == 1 + -(-(size - length) // stride), "as few as may be"


def naive(array: Array, length: int, stride: int, weights: Array) -> Array:
    """`centred`, window by window, element by element."""
    total, weight = np.zeros(array.shape), np.zeros(array.shape[1])
    for start in list_window_starts(array.shape[1], length, stride):
        window = array[:, start : start + length].astype(np.float64)
        made = window - window.mean(axis=1, keepdims=True)
        for element in range(length):
            total[:, start + element] += made[:, element] * weights[element]
            weight[start + element] += weights[element]
    return total / weight


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(LENGTH, 40),
    stride=st.integers(1, LENGTH),
    blend=st.sampled_from(sorted(BLENDS)),
    seed=st.integers(0, 99),
)
def test_overlapping_windows_are_blended_as_a_naive_loop_does(
    folder: Path, size: int, stride: int, blend: str, seed: int
) -> None:
    array = np.random.default_rng(seed).standard_normal((2, size)).astype(np.float32)
    with opened(centred(folder, 2, LENGTH)) as engine:
        found = engine.slide(array, axis=1, stride=stride, blend=blend)["y"]
        assert found.dtype == np.float32
        expected = naive(array, LENGTH, stride, np.asarray(BLENDS[blend](LENGTH), float))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
        overlapped = engine.slide(array, axis=1, overlap=LENGTH - stride, blend=blend)["y"]
        np.testing.assert_array_equal(overlapped, found)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.tuples(st.integers(4, 11), st.integers(5, 11), st.integers(3, 9)),
    overlap=st.floats(0, 0.9),
    blend=st.sampled_from([*BLENDS, np.ones]),
)
def test_a_volume_through_a_pointwise_network_is_what_the_network_makes_of_all_of_it(
    folder: Path, sizes: Sequence[int], overlap: float, blend: Any
) -> None:
    volume = np.random.default_rng(1).standard_normal((2, *sizes)).astype(np.float32)
    with opened(pointwise(folder, 2, 4, 5, 3), largest=7) as engine:
        for axis in (None, (1, 2, 3), (-1, 1, 2)):
            found = engine.slide(volume, axis, overlap=overlap, blend=blend)["y"]
            np.testing.assert_allclose(found, 2 * volume + 1, rtol=1e-5, atol=1e-5)


def test_an_array_of_the_inputs_own_size_is_one_window(folder: Path) -> None:
    image = np.random.default_rng(2).standard_normal((3, 4)).astype(np.float32)
    with opened(pointwise(folder, 3, 4)) as engine:
        np.testing.assert_array_equal(engine.slide(image)["y"], engine(image)["y"])
        np.testing.assert_array_equal(engine.slide(image, blend=None)["y"], engine(image)["y"])


def test_an_output_at_another_scale_is_put_where_its_window_was(folder: Path) -> None:
    series = np.random.default_rng(3).standard_normal((1, 20)).astype(np.float32)
    with opened(halved(folder, 8)) as engine:
        with pytest.raises(ConfigError, match="output 'g' is 1/8 times as long"):
            engine.slide(series, stride=4)
        windows = engine.slide(series, stride=4, blend=None)
        assert windows["y"].shape == (4, 1, 4)
        assert windows["g"].shape == (4, 1, 1)
        for number, start in enumerate((0, 4, 8, 12)):
            np.testing.assert_allclose(windows["g"][number, 0, 0], series[0, start : start + 8].mean(), atol=1e-6)
            np.testing.assert_allclose(
                windows["y"][number, 0], series[0, start : start + 8].reshape(-1, 2).mean(axis=1), atol=1e-6
            )


def test_a_scaled_output_is_blended(folder: Path) -> None:
    nodes = [helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2], strides=[2])]
    path = save(folder / "half.onnx", nodes, [value("x", "batch", 1, 8)], [value("y", "batch", 1, 4)])
    series = np.random.default_rng(3).standard_normal((1, 20)).astype(np.float32)
    with opened(path) as engine:
        found = engine.slide(series, stride=6)["y"]
        np.testing.assert_allclose(found[0], series[0].reshape(-1, 2).mean(axis=1), atol=1e-6)
        with pytest.raises(ConfigError, match=r"1/2 times as long .* at 3 begins between .* multiples of 2"):
            engine.slide(series, stride=3)


def test_other_inputs_are_the_same_for_every_window(folder: Path) -> None:
    with opened(two_inputs(folder)) as engine:
        array = np.arange(12, dtype=np.float32)
        found = engine.slide(array, stride=1, blend=None, others={"b": [0, 0, 100, 0, 0]})
        np.testing.assert_array_equal(found["place"], [2] * 8)
        np.testing.assert_array_equal(found["y"][:, 0], array[:8])
        with pytest.raises(ConfigError, match="'place' is int64, only floats can be blended"):
            engine.slide(array, others={"b": [0] * 5})
        for others, told in ((None, "one input slides"), ({"c": [0]}, r"there are no inputs \['c'\]")):
            with pytest.raises(InvalidTensorError, match=told):
                engine.slide(array, others=others)


@pytest.mark.parametrize(
    ("shape", "options", "error", "told"),
    [
        ((2, 5), {}, InvalidTensorError, "has 5 along axis 1, expected 6 or more: pad it"),
        ((2, 9, 1), {}, InvalidTensorError, "expected as many axes as a row"),
        ((3, 9), {"axis": 1}, InvalidTensorError, "has 3 along axis 0, which does not slide: expected 2"),
        ((2, 9), {"axis": 2}, ConfigError, "axis is 2, expected different axes from 0 to 1"),
        ((2, 9), {"axis": (1, -1)}, ConfigError, "expected different axes"),
        ((2, 9), {"length": 5}, ConfigError, "length along axis 1 is 5, expected 6"),
        ((2, 9), {"stride": 0}, ConfigError, "a stride of 0 for windows of 6, expected 1 to 6"),
        ((2, 9), {"stride": 7}, ConfigError, "no gaps"),
        ((2, 9), {"overlap": 6}, ConfigError, "a stride of 0"),
        ((2, 9), {"overlap": 1.0}, ConfigError, "overlap is 1.0"),
        ((2, 9), {"overlap": 0.5, "stride": 2}, ConfigError, "give one"),
        ((2, 9), {"stride": (1, 2)}, ConfigError, "one for each of the 1 axes"),
        ((2, 9), {"blend": "best"}, ConfigError, "blend is 'best', expected one of"),
        ((2, 9), {"blend": np.zeros}, ConfigError, "expected 6 positive numbers"),
        ((2, 9), {"output_axis": 2}, ConfigError, r"output 'y' .* output_axis is 2.*blend=None"),
        ((2, 9), {"output_axis": (0, 1)}, ConfigError, "an axis for each of"),
    ],
)
def test_what_makes_no_sense_is_refused(
    folder: Path, shape: tuple[int, ...], options: dict[str, Any], error: type[Exception], told: str
) -> None:
    with opened(centred(folder, 2, LENGTH)) as engine, pytest.raises(error, match=told):
        engine.slide(np.zeros(shape), **options)


def test_an_axis_that_the_graph_leaves_open_slides_by_the_length_that_is_given(folder: Path) -> None:
    nodes = [helper.make_node("ReduceMax", ["x"], ["y"], axes=[1], keepdims=0)]
    path = save(folder / "any.onnx", nodes, [value("x", "batch", "any")], [value("y", "batch")])
    with opened(path) as engine:
        array = np.array([5, 1, 2, 9, 0, 3], np.float32)
        found = engine.slide(array, axis=0, length=3, stride=1, blend=None)["y"]
        np.testing.assert_array_equal(found, [5, 9, 9, 9])
        with pytest.raises(ConfigError, match="expected one of 1 or more, since the graph leaves it open"):
            engine.slide(array, axis=0)
