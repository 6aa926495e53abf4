"""Tests `streamd/runtime/predict.py`: each fault is found as by the naive checks, and windows keep their places."""

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamd.core.contract import MEMORY_INPUT, ModelContract
from streamd.core.errors import BatchFailedError, StreamdError
from streamd.inference.lane import Inputs
from streamd.runtime.predict import CallerInputs, InputReader, PredictRequest
from tests.support.naive_inputs import CONTRACT, CONTRACTS, MEMORY_CONTRACT, Given, make_full_inputs, read_inputs

NUMBERS = [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e20, 1e39, -1.0, 15.0, 16.0, 0.5, -(2.0**31), 2.0**31, 0.0]
DTYPES = ["<f2", "<f4", "<f8", "<i4", "<i8", "u1", ">f4"]


def read(read_one: Any) -> Any:
    """Return what a reader returns, or its error."""
    try:
        return read_one()
    except StreamdError as error:
        return type(error), str(error)


@st.composite
def damaged_inputs(draw: st.DrawFn) -> Given:
    given_inputs = make_full_inputs(draw(st.integers(1, 3)), draw(st.sampled_from(CONTRACTS)))
    for name in draw(st.sets(st.sampled_from(sorted(given_inputs)))):
        change = draw(st.sampled_from(["type", "cell", "drop", "shape", "missing", "add", "order"]))
        array = given_inputs[name]
        if change == "type":
            given_inputs[name] = array.astype(draw(st.sampled_from(DTYPES)))
        elif change == "cell":
            cell = draw(st.integers(0, array.size - 1))
            number = draw(st.sampled_from(NUMBERS))
            wide = array.astype(np.float64)
            wide.reshape(-1)[cell] = number
            with np.errstate(all="ignore"):
                given_inputs[name] = wide.astype(draw(st.sampled_from(["<f8", "<f4", array.dtype.str])))
        elif change == "drop":
            del given_inputs[name]
        elif change == "shape":
            given_inputs[name] = array[draw(st.sampled_from([0, slice(0, 0), slice(1, None), (slice(None), 0)]))]
        elif change == "missing":
            given_inputs[name] = np.full(array.shape, np.nan, np.float32)
        elif change == "order":
            given_inputs[name] = np.asfortranarray(array)
        else:
            given_inputs["extra"] = array
    return given_inputs


@given(damaged_inputs(), st.sampled_from(CONTRACTS))
@example(make_full_inputs(1), CONTRACT)
@example({name: array[0] for name, array in make_full_inputs(1).items()}, CONTRACT)
@example(make_full_inputs(1) | {"encoder_cont": np.full((1, 4, 3), 3e38, np.float32)}, CONTRACT)
@example(make_full_inputs(1) | {"encoder_cat": np.full((1, 4, 2), -1, np.int32)}, CONTRACT)
@example(make_full_inputs(1, MEMORY_CONTRACT) | {MEMORY_INPUT: np.full((1, 3, 3), np.nan, np.float32)}, MEMORY_CONTRACT)
@example(make_full_inputs(1, MEMORY_CONTRACT) | {MEMORY_INPUT: np.full((1, 3, 3), 1e39)}, MEMORY_CONTRACT)
def test_inputs_are_read_and_refused_as_by_the_naive_checks(given_inputs: Given, contract: ModelContract) -> None:
    found = read(lambda: InputReader(contract).read(given_inputs))
    expected = read(lambda: read_inputs(contract, given_inputs))
    if isinstance(expected, tuple):
        assert found == expected
        return
    assert isinstance(found, CallerInputs), found
    assert found.windows == len(expected["encoder_cont"])
    assert found.arrays.keys() == expected.keys()
    for name, array in expected.items():
        assert found.arrays[name].dtype == array.dtype
        assert np.array_equal(found.arrays[name], array, equal_nan=True)


def test_inputs_of_the_right_type_are_not_copied() -> None:
    given_inputs = make_full_inputs(2)
    found = InputReader(CONTRACT).read(given_inputs)
    assert all(np.shares_memory(found.arrays[name], array) for name, array in given_inputs.items())


# ---------------------------------------------------------------- windows in lanes
@pytest.mark.parametrize("is_given", [True, False])
@pytest.mark.parametrize("is_wanted", [True, False])
def test_a_version_that_remembers_gets_the_memory_of_the_caller_or_none(is_given: bool, is_wanted: bool) -> None:
    given_inputs = make_full_inputs(3, MEMORY_CONTRACT)
    memory = given_inputs[MEMORY_INPUT] if is_given else given_inputs.pop(MEMORY_INPUT)
    inputs = Inputs.allocate(MEMORY_CONTRACT if is_wanted else CONTRACT, 4)
    InputReader(MEMORY_CONTRACT).read(given_inputs).fill(1, 2, inputs, 1)
    np.testing.assert_array_equal(inputs.encoder_cont[1:3], given_inputs["encoder_cont"][1:])
    if not is_wanted:
        assert inputs.memory_cont is None
        return
    assert inputs.memory_cont is not None
    np.testing.assert_array_equal(inputs.memory_cont[1:3], memory[1:] if is_given else np.full((2, 3, 3), np.nan))
    assert not inputs.memory_cont[[0, 3]].any(), "nothing else is changed"


def make_request(windows: int, ended: list[PredictRequest]) -> PredictRequest:
    return PredictRequest(InputReader(CONTRACT).read(make_full_inputs(windows)), ended.append, 0.0)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.randoms())
def test_windows_of_any_parts_are_filled_and_answered_in_their_places(parts: list[int], random: Any) -> None:
    windows = sum(parts)
    ended: list[PredictRequest] = []
    request = make_request(windows, ended)
    forecasts = np.random.default_rng(1).random((windows, *CONTRACT.forecast_shape), np.float32)
    firsts = [sum(parts[:place]) for place in range(len(parts))]
    order = list(zip(firsts, parts, strict=True))
    random.shuffle(order)
    assert isinstance(request.inputs, CallerInputs)
    for first, count in order:
        assert not ended
        inputs = Inputs.allocate(CONTRACT, windows + 3)
        request.fill(first, count, inputs, 2)
        for name, buffer in inputs.view_first(windows + 3).items():
            assert np.array_equal(buffer[2 : 2 + count], request.inputs.arrays[name][first : first + count])
            assert not buffer[:2].any()
            assert not buffer[2 + count :].any()
        request.answer(first, forecasts[first : first + count], "m")
    assert ended == [request]
    prediction = request.make_prediction()
    assert prediction.model == "m"
    assert np.array_equal(prediction.predictions, forecasts.transpose(0, 2, 1, 3))


def test_the_first_error_ends_a_call_and_what_follows_is_ignored() -> None:
    ended: list[PredictRequest] = []
    request = make_request(3, ended)
    forecast = np.zeros((1, *CONTRACT.forecast_shape), np.float32)
    request.answer(0, forecast, "m")
    request.fail(1, BatchFailedError("broken"))
    request.fail(2, BatchFailedError("again"))
    request.answer(2, forecast, "m")
    assert ended == [request]
    assert str(request.error) == "window 1: broken"
    assert isinstance(request.error, BatchFailedError)
