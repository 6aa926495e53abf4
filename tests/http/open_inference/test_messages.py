"""Tests `streamd/http/open_inference/messages.py`: where the JSON ends, a bare NaN in it, and its bounds."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.errors import MalformedError, TooLargeError
from streamd.http.open_inference import messages
from streamd.http.open_inference.messages import (
    MAX_QUOTES,
    InferenceRequest,
    cut_at_commas,
    decode_request_in_steps,
    replace_nan_in_steps,
    split_body,
)
from streamd.http.wire.tensors import MAX_LIST_VALUES, MAX_LISTS
from tests.support.steps import finish_all, finish_and_count


def decode(header: bytes) -> InferenceRequest:
    return finish_all(decode_request_in_steps(header))


def drop_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: drop_nan(each) for key, each in value.items()}
    if isinstance(value, list):
        return [drop_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


TEXTS = st.lists(st.sampled_from(["NaN", '"', "\\", ",", ":", "x", "ä", "\n"]), max_size=6).map("".join)
VALUES = st.recursive(
    st.none() | st.just(math.nan) | st.integers(-9, 9) | TEXTS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=20,
)


@given(VALUES, st.integers(1, 40))
def test_every_nan_outside_of_a_string_becomes_null_and_nothing_else_changes(value: Any, piece_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(messages, "JSON_PIECE_BYTES", piece_bytes)
        plain = finish_all(replace_nan_in_steps(json.dumps(value).encode()))

    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is left")

    assert json.loads(plain, parse_constant=refuse) == drop_nan(value)


def test_a_large_message_is_searched_in_steps() -> None:
    numbers = b"[" + b"NaN," * 400_000 + b"1]"
    plain, turns = finish_and_count(replace_nan_in_steps(numbers))
    assert plain == b"[" + b"null," * 400_000 + b"1]"
    assert turns == len(numbers) // messages.JSON_PIECE_BYTES


@given(st.binary(max_size=60), st.integers(1, 20))
def test_pieces_are_the_data_without_the_commas_between_them(data: bytes, piece_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(messages, "JSON_PIECE_BYTES", piece_bytes)
        pieces = list(cut_at_commas(data))
    assert b",".join(pieces) == data
    assert all(len(piece) >= piece_bytes for piece in pieces[:-1])


def test_a_string_that_does_not_end_is_malformed() -> None:
    with pytest.raises(MalformedError):
        decode(b'{"inputs": [NaN, "NaN' + b'\\"' * 3_000)


@pytest.mark.parametrize("filler", [b'"",', b":"])
def test_messages_of_thousands_of_keys_are_too_large(filler: bytes) -> None:
    with pytest.raises(TooLargeError, match="colons or 10000 quotes"):
        decode(b'{"inputs": [' + filler * (MAX_QUOTES + 1))


@pytest.mark.parametrize(("filler", "count"), [(b"[],", MAX_LISTS), (b"0,", MAX_LIST_VALUES)])
def test_lists_that_take_long_to_find_the_end_of_are_too_large(filler: bytes, count: int) -> None:
    with pytest.raises(TooLargeError, match="only as bytes behind the JSON"):
        decode(b'{"inputs": [' + filler * (count + 1))


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[]",
        b"{}",
        b'{"inputs": null}',
        b'{"inputs": [5]}',
        b'{"inputs": [{"name": "x", "shape": [1.5], "datatype": "FP32"}]}',
        b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": -1}}]}',
        b'{"inputs": [], "id": 5}',
        b'{"inputs": [], "parameters": {"binary_data_output": "yes"}}',
        b'{"inputs": [' + b"{}," * 70 + b"{}]}",
        b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1,,2]}]}',
        b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": ' + b"[" * 10_000,
        b'{"inputs": [], "id": "\xff"}',
    ],
)
def test_what_is_no_request_is_malformed(header: bytes) -> None:
    with pytest.raises(MalformedError):
        decode(header)


def test_infinity_is_named() -> None:
    with pytest.raises(MalformedError, match="Infinity at byte"):
        decode(b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [-Infinity, NaN]}]}')


# ---------------------------------------------------------------- where the JSON ends
def test_without_a_length_the_whole_body_is_json() -> None:
    header, behind = split_body(b"{}", ())
    assert (header, bytes(behind)) == (b"{}", b"")


@pytest.mark.parametrize(("length", "behind"), [("2", b"abc"), ("5", b"")])
def test_what_follows_the_json_are_bytes(length: str, behind: bytes) -> None:
    header, rest = split_body(b"{}abc", [length])
    assert (header + rest, bytes(rest)) == (b"{}abc", behind)


@pytest.mark.parametrize(
    "lengths", [["0"], ["6"], ["-1"], ["2.0"], ["x"], [""], ["²"], ["9" * 5_000], ["2", "2"], ["2, 2"], ["+2"]]
)
def test_a_length_that_does_not_fit_the_body_is_refused(lengths: list[str]) -> None:
    with pytest.raises(MalformedError, match="Inference-Header-Content-Length is"):
        split_body(b"{}abc", lengths)
