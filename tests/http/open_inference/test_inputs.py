"""Tests `streamd/http/open_inference/inputs.py`: tensors as bytes and as numbers, and each form that is refused."""

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.errors import InvalidInputError, InvalidTensorError
from streamd.http.open_inference import messages
from streamd.http.open_inference.inputs import RequestReader
from streamd.http.open_inference.messages import InferenceRequest, decode_request_in_steps
from tests.support.http_harness import CONTRACT, Message
from tests.support.open_inference import make_message
from tests.support.predict_inputs import Inputs, make_inputs
from tests.support.steps import finish_all

READER = RequestReader(CONTRACT)


def read(message: Message, behind: bytes = b"") -> Inputs:
    request: InferenceRequest = finish_all(decode_request_in_steps(json.dumps(message).encode()))
    return finish_all(READER.read_in_steps(request.inputs, memoryview(behind)))


def read_one(**change: Any) -> npt.NDArray[Any]:
    """Return the values of a window of `encoder_cont`, after a change of its entry."""
    values = np.arange(24, dtype="<f4").reshape(1, 8, 3).tolist()
    entry = {"name": "encoder_cont", "shape": [1, 8, 3], "datatype": "FP32", "data": values}
    return read({"inputs": [{key: value for key, value in {**entry, **change}.items() if value is not None}]})[
        "encoder_cont"
    ]


@pytest.mark.parametrize("offset", range(4))
def test_bytes_are_read_in_the_order_of_the_inputs_at_any_place(offset: int) -> None:
    inputs = make_inputs(3)
    message, behind = make_message(inputs, is_binary=True)
    request: InferenceRequest = finish_all(decode_request_in_steps(json.dumps(message).encode()))
    arrays = finish_all(READER.read_in_steps(request.inputs, memoryview(bytes(offset) + behind)[offset:]))
    assert list(arrays) == list(inputs)
    for name, array in inputs.items():
        assert arrays[name].dtype == array.dtype
        assert np.array_equal(arrays[name], array, equal_nan=True)


@pytest.mark.parametrize(
    ("datatype", "dtype"),
    [("FP16", "<f2"), ("FP32", "<f4"), ("FP64", "<f8"), ("INT32", "<i4"), ("INT64", "<i8"), ("UINT8", "u1")],
)
def test_each_datatype_has_its_own_bytes(datatype: str, dtype: str) -> None:
    values = np.arange(24).astype(dtype).reshape(1, 8, 3)
    size = {"binary_data_size": values.nbytes}
    entry = {"name": "encoder_cont", "shape": [1, 8, 3], "datatype": datatype, "parameters": size}
    (array,) = read({"inputs": [entry]}, values.tobytes()).values()
    assert array.dtype == np.dtype(dtype)
    assert np.array_equal(array, values)


@given(
    st.lists(st.floats(width=32, allow_infinity=False) | st.none(), min_size=24, max_size=24),
    st.sampled_from([(24,), (8, 3), (1, 8, 3), (2, 3, 4), (24, 1)]),
    st.integers(1, 200),
)
def test_numbers_are_read_in_their_order_however_they_are_nested(
    numbers: list[float | None], nesting: tuple[int, ...], piece_bytes: int
) -> None:
    nested = np.array(numbers, object).reshape(nesting).tolist()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(messages, "JSON_PIECE_BYTES", piece_bytes)
        array = read_one(data=nested)
    expected = np.array(numbers, np.float64).reshape(1, 8, 3)
    assert np.array_equal(array, expected, equal_nan=True)
    assert np.array_equal(np.signbit(array[~np.isnan(array)]), np.signbit(expected[~np.isnan(expected)]))


def test_many_numbers_are_decoded_in_steps() -> None:
    inputs = make_inputs(4_096)
    message, _ = make_message({"encoder_cont": inputs["encoder_cont"]}, is_binary=False)
    request: InferenceRequest = finish_all(decode_request_in_steps(json.dumps(message).encode()))
    steps = READER.read_in_steps(request.inputs, memoryview(b""))
    assert len(list(steps)) == len(request.inputs[0].data) // messages.JSON_PIECE_BYTES > 3


# ---------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": "x"}, "input 'x' is unknown, expected encoder_cont, encoder_cat, decoder_cont, decoder_cat"),
        ({"datatype": "BF16"}, "has datatype 'BF16', expected one of FP16, FP32"),
        ({"datatype": "BYTES"}, "has datatype 'BYTES'"),
        ({"shape": []}, r"has shape \[\], expected \[n, 8, 3\] with n from 1 to 4096"),
        ({"shape": [8, 3]}, r"has shape \[8, 3\], expected \[n, 8, 3\]"),
        ({"shape": [0, 8, 3], "data": []}, r"has shape \[0, 8, 3\]"),
        ({"shape": [-1, 8, 3]}, r"has shape \[-1, 8, 3\]"),
        ({"shape": [4_097, 8, 3]}, r"has shape \[4097, 8, 3\]"),
        ({"shape": [2, 8, 3]}, r"has 24 numbers, expected 48 for \[2, 8, 3\]"),
        ({"data": [1.5] * 23}, "has 23 numbers, expected 24"),
        ({"data": []}, "has 0 numbers, expected 24"),
        ({"data": None}, "has no data, expected a list of numbers or binary_data_size"),
        ({"data": 5}, "has no data"),
        ({"data": "5"}, "has no data"),
        ({"data": ["1"] * 24}, "is not a list of numbers, null and NaN: Expected `float | null`, got `str`$"),
        ({"data": ["1,2"] * 12}, "is not a list of numbers"),
        ({"data": [True] * 24}, "got `bool`"),
        ({"data": [{}] * 24}, "got `object`"),
        ({"data": [[], 1.5]}, "is not a list of numbers"),
        ({"data": [10**400] * 24}, "is not a list of numbers"),
        ({"data": ["x" * 2**21]}, "data has no comma in over 1048576 bytes"),
        ({"parameters": {"binary_data_size": 96}}, "has both data and binary_data_size"),
        ({"parameters": {"binary_data_size": 95}}, r"has binary_data_size 95, expected 96 for \[1, 8, 3\] of FP32"),
        ({"parameters": {"binary_data_size": 96}, "data": None}, "has 0 bytes behind the JSON, expected 96"),
        ({"parameters": {"shared_memory_region": "r"}, "data": None}, "is in shared memory"),
    ],
)
def test_an_input_of_another_form_is_refused_and_named(change: Message, reason: str) -> None:
    with pytest.raises(InvalidTensorError, match=reason):
        read_one(**change)


@pytest.mark.parametrize("change", [{"name": "n" * 50_000}, {"datatype": "d" * 50_000}, {"shape": [1] * 50_000}])
def test_an_error_repeats_little_of_what_was_given(change: Message) -> None:
    with pytest.raises(InvalidTensorError) as caught:
        read_one(**change)
    assert len(str(caught.value)) < 400


def test_an_input_that_is_given_twice_is_refused() -> None:
    message, behind = make_message(make_inputs(1), is_binary=True)
    message["inputs"].append(message["inputs"][0])
    with pytest.raises(InvalidTensorError, match="input encoder_cont is given twice"):
        read(message, behind)


def test_bytes_that_no_input_states_are_refused() -> None:
    message, behind = make_message(make_inputs(1), is_binary=True)
    with pytest.raises(InvalidTensorError, match=f"{len(behind) + 1} bytes follow the JSON, expected {len(behind)}, "):
        read(message, behind + b"x")


MESSAGES = [
    (json.dumps(message).encode(), behind)
    for message, behind in (make_message(make_inputs(1), is_binary=is_binary) for is_binary in (True, False))
]


@given(
    st.sampled_from(MESSAGES),
    st.lists(st.tuples(st.integers(0, 3_000), st.binary(max_size=3), st.integers(0, 9)), min_size=1, max_size=4),
)
def test_a_damaged_request_is_read_or_refused_but_nothing_else_fails(
    message: tuple[bytes, bytes], changes: list[tuple[int, bytes, int]]
) -> None:
    header, behind = message
    for place, put, removed in changes:
        place %= len(header)
        header = header[:place] + put + header[place + removed :]
    try:
        request: InferenceRequest = finish_all(decode_request_in_steps(header))
        arrays = finish_all(READER.read_in_steps(request.inputs, memoryview(behind)))
    except InvalidInputError:
        return
    assert all(array.shape[1:] == CONTRACT.input_shapes[name] for name, array in arrays.items())
