"""Tests `streamd/runtime/forecast_cutter.py`: many forecasts are cut and narrowed as each one alone is."""

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.arrays import Float32
from streamd.core.selection import FLOAT16_LIMIT, ForecastSlice, make_forecast_slice
from streamd.runtime.forecast_cutter import CLIP_AND_CAST, FEW_VALUES, ForecastCutter, open_cast_session
from tests.support.contracts import make_contract

CONTRACT = make_contract()
SLOTS = 12
VALUES = np.random.default_rng(0).normal(0, 1e5, (SLOTS, *CONTRACT.forecast_shape)).astype(np.float32)


@st.composite
def choices(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "targets": draw(st.none() | st.lists(st.sampled_from(CONTRACT.targets), min_size=1, unique=True)),
        "quantiles": draw(st.none() | st.lists(st.sampled_from(CONTRACT.quantiles), min_size=1, unique=True)),
        "every": draw(st.integers(1, CONTRACT.horizon)),
        "dtype": draw(st.sampled_from(["float32", "float16"])),
    }


SOME_SLOTS = st.lists(st.integers(0, SLOTS - 1), unique=True) | st.sampled_from([[3, 4, 5], [*range(SLOTS)], [7]])


def cut(slots: list[int], part: ForecastSlice) -> npt.NDArray[np.floating]:
    target = np.full((len(slots), *part.compute_shape(CONTRACT.horizon)), np.nan, part.dtype)
    ForecastCutter().cut_into(target, VALUES, np.array(slots, np.int64), part)
    return target


@given(choices(), SOME_SLOTS, st.sampled_from([0, FEW_VALUES]))
def test_many_are_cut_as_each_alone(choice: dict[str, Any], slots: list[int], few_values: int) -> None:
    part, before = make_forecast_slice(CONTRACT, **choice), VALUES.copy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streamd.runtime.forecast_cutter.FEW_VALUES", few_values)
        found = cut(slots, part)
    for place, slot in enumerate(slots):
        np.testing.assert_array_equal(found[place], part.cut(VALUES[slot]))
    np.testing.assert_array_equal(VALUES, before)


@pytest.fixture
def without_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    open_cast_session.cache_clear()
    yield
    open_cast_session.cache_clear()


@pytest.mark.usefixtures("without_onnxruntime")
def test_numpy_converts_without_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamd.runtime.forecast_cutter.FEW_VALUES", 0)
    part = make_forecast_slice(CONTRACT, None, None, dtype="float16")
    np.testing.assert_array_equal(cut([4, 2], part), part.cut(VALUES[[4, 2]]))


# ---------------------------------------------------------------- float16
def narrow(values: Float32) -> npt.NDArray[np.uint16]:
    """Return the bits of values that are narrowed as a forecast of one target and one quantile."""
    target = np.empty((1, 1, len(values), 1), np.float16)
    part = ForecastSlice((0,), (0,), 1, "float16")
    ForecastCutter().cut_into(target, values.reshape(target.shape), np.array([0]), part)
    return target.reshape(-1).view(np.uint16)


def narrow_naively(values: Float32) -> npt.NDArray[np.uint16]:
    return np.clip(values, -FLOAT16_LIMIT, FLOAT16_LIMIT).astype(np.float16).view(np.uint16)


def list_halves() -> Float32:
    """Return every finite float16."""
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    return halves[np.isfinite(halves)].astype(np.float32)


def test_each_float16_stays_itself() -> None:
    halves = list_halves()
    np.testing.assert_array_equal(narrow(halves), halves.astype(np.float16).view(np.uint16))


def test_values_between_two_float16_are_rounded_to_the_nearest_and_ties_to_the_even_one() -> None:
    halves = np.sort(list_halves().astype(np.float64))
    middles = ((halves[1:] + halves[:-1]) / 2).astype(np.float32)
    for values in (middles, np.nextafter(middles, np.float32(1e9)), np.nextafter(middles, np.float32(-1e9))):
        np.testing.assert_array_equal(narrow(values), narrow_naively(values))


def test_float32_of_every_exponent_and_sign_and_infinity() -> None:
    bits = np.arange(0, 2**32, 8_191, dtype=np.uint64).astype(np.uint32)
    values = bits.view(np.float32)
    values = np.append(values[np.isfinite(values)], np.array([np.inf, -np.inf, 65520.0, 0.0, -0.0], np.float32))
    np.testing.assert_array_equal(narrow(values), narrow_naively(values))


def test_the_model_clips_and_casts() -> None:
    model = onnx.load_from_string(CLIP_AND_CAST)
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node] == ["Clip", "Cast"]
    limits = {each.name: float(onnx.numpy_helper.to_array(each)) for each in model.graph.initializer}
    assert limits == {"low": -65504.0, "high": 65504.0}
