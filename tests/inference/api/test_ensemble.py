"""Tests `streamd/inference/api/ensemble.py`.

An ensemble against the same combination by hand.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper

from streamd.core.errors import BatchFailedError, ConfigError, InvalidTensorError
from streamd.engine import Ensemble, InferenceEngine
from streamd.inference.runner import Array
from tests.support.small_networks import WEIGHTS, linear, pointwise, save, shifted, two_inputs, value

SCALES = (1.0, 2.0, 9.0)


def opened(path: Path) -> InferenceEngine:
    return InferenceEngine.open(path, backend="onnxruntime-cpu", buckets=[4], threads=1)


@pytest.fixture
def members(tmp_path: Path) -> Iterator[list[InferenceEngine]]:
    engines = [opened(linear(tmp_path, scale, f"{scale}.onnx")) for scale in SCALES]
    yield engines
    for engine in engines:
        engine.close()


def numbers(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(-9, 9, (count, 4)).astype(np.float32)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(0, 11), seed=st.integers(0, 99))
def test_it_is_the_mean_and_the_median_output_by_output(members: list[InferenceEngine], count: int, seed: int) -> None:
    rows = numbers(count, seed)
    each = [scale * (rows @ WEIGHTS) for scale in SCALES]
    for combine, expected in (("mean", np.mean(each, axis=0)), ("median", np.median(each, axis=0))):
        found = Ensemble(members, combine)(rows)["y"]
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_function_combines_any_way_and_ensembles_nest(members: list[InferenceEngine]) -> None:
    rows = numbers(5)
    largest = Ensemble(members, lambda values: values.max(axis=0))
    expected = np.max([scale * (rows @ WEIGHTS) for scale in SCALES], axis=0)
    np.testing.assert_array_equal(largest(rows)["y"], expected)
    both = Ensemble([largest, members[0]])
    np.testing.assert_allclose(both(rows)["y"], (expected + rows @ WEIGHTS) / 2)
    assert both(rows[0])["y"].shape == (3,)


def test_it_slides(tmp_path: Path) -> None:
    path = pointwise(tmp_path, 2, 4)
    with Ensemble([opened(path), opened(path)]) as ensemble:
        image = np.arange(22, dtype=np.float32).reshape(2, 11)
        np.testing.assert_allclose(ensemble.slide(image, overlap=0.25)["y"], 2 * image + 1, rtol=1e-6)


def test_members_that_do_not_fit_together_are_refused(members: list[InferenceEngine], tmp_path: Path) -> None:
    with opened(two_inputs(tmp_path)) as other, pytest.raises(ConfigError, match="inputs of member 1 are"):
        Ensemble([members[0], other])
    with opened(two_inputs(tmp_path)) as labels:
        with pytest.raises(ConfigError, match=r"outputs \['place'\] are no floats"):
            Ensemble([labels])
        voted = Ensemble([labels, labels], lambda values: values[0])
        assert voted({"a": np.zeros(5), "b": [0, 1, 0, 0, 0]})["place"] == 1
    with pytest.raises(ConfigError, match="an ensemble of nothing"):
        Ensemble([])
    with pytest.raises(ConfigError, match="combine is 'sum'"):
        Ensemble(members, "sum")


def test_an_optional_input_reaches_the_members_that_know_it(tmp_path: Path) -> None:
    same = save(
        tmp_path / "same.onnx",
        [helper.make_node("Identity", ["x"], ["y"])],
        [value("x", "batch", 2)],
        [value("y", "batch", 2)],
    )
    rows, shift = np.ones((3, 2), np.float32), np.full((3, 2), 9, np.float32)
    for members in ([opened(same), opened(shifted(tmp_path))], [opened(shifted(tmp_path)), opened(same)]):
        with Ensemble(members) as ensemble:
            assert [(spec.name, spec.optional) for spec in ensemble.inputs] == [("x", False), ("shift", True)]
            np.testing.assert_array_equal(ensemble(rows)["y"], rows + 2.5)
            np.testing.assert_array_equal(ensemble({"x": rows, "shift": shift})["y"], rows + 4.5)
            with pytest.raises(InvalidTensorError, match=r"unknown \['drift'\]"):
                ensemble({"x": rows, "drift": shift})


def test_a_combination_of_another_shape_is_refused(members: list[InferenceEngine]) -> None:
    with pytest.raises(BatchFailedError, match=r"'y' was combined to \(\), expected \(2, 3\)"):
        Ensemble(members, lambda values: np.asarray(values.mean()))(numbers(2))


def test_closing_it_closes_its_members(members: list[InferenceEngine]) -> None:
    with Ensemble(members) as ensemble:
        pass
    with pytest.raises(BatchFailedError, match="the engine is closed"):
        members[0](numbers(1))
    with pytest.raises(BatchFailedError, match="the ensemble is closed"):
        ensemble(numbers(1))
