"""Tests `streamd/http/open_inference/answers.py`: forecasts as JSON and as bytes, and their compression."""

import gzip
import json
import zlib
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.errors import InvalidTensorError
from streamd.http.open_inference.answers import choose_coding, compress, is_output_binary, make_answer
from streamd.http.open_inference.messages import InferenceRequest

NAMES = ("streamd", "v1")
PREDICTIONS = np.array([[[1.5, -0.0], [0.1, -3e38]]], "<f4")


def ask(**fields: Any) -> InferenceRequest:
    return msgspec.convert({"inputs": [], **fields}, InferenceRequest)


@pytest.mark.parametrize("predictions", [PREDICTIONS, PREDICTIONS.transpose(0, 2, 1), PREDICTIONS.astype(">f4")])
def test_json_and_bytes_are_the_same_numbers(predictions: Any) -> None:
    as_json = make_answer(predictions, NAMES, "7", is_binary=False)
    as_bytes = make_answer(predictions, NAMES, "7", is_binary=True)
    assert as_json.header_bytes is None
    message = json.loads(as_json.body)
    header = json.loads(as_bytes.body[: as_bytes.header_bytes])
    behind = np.frombuffer(as_bytes.body[as_bytes.header_bytes :], "<f4")
    assert behind.tobytes() == np.array(message["outputs"][0].pop("data"), "<f4").tobytes()
    assert behind.tobytes() == predictions.astype("<f4").tobytes()
    assert header["outputs"][0].pop("parameters") == {"binary_data_size": 16}
    output = {"name": "predictions", "datatype": "FP32", "shape": [1, 2, 2]}
    expected = {"model_name": "streamd", "model_version": "v1", "outputs": [output], "id": "7"}
    assert message == header == expected


@pytest.mark.parametrize("request_id", [None, ""])
def test_a_request_without_an_id_is_answered_without_one(request_id: str | None) -> None:
    assert "id" not in json.loads(make_answer(PREDICTIONS, NAMES, request_id, is_binary=False).body)


# ---------------------------------------------------------------- the form that the caller wants
@pytest.mark.parametrize(
    ("fields", "is_binary"),
    [
        ({}, False),
        ({"outputs": []}, False),
        ({"outputs": [{"name": "predictions"}]}, False),
        ({"parameters": {"binary_data_output": True, "priority": 3}}, True),
        ({"outputs": [{"name": "predictions"}], "parameters": {"binary_data_output": True}}, True),
        ({"outputs": [{"name": "predictions", "parameters": {"binary_data": True}}]}, True),
        (
            {
                "outputs": [{"name": "predictions", "parameters": {"binary_data": False}}],
                "parameters": {"binary_data_output": True},
            },
            False,
        ),
    ],
)
def test_the_output_decides_before_the_request_whether_it_comes_as_bytes(fields: Any, is_binary: bool) -> None:
    assert is_output_binary(ask(**fields)) is is_binary


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ({"name": "y"}, "output 'y' is unknown, expected predictions"),
        (
            {"name": "predictions", "parameters": {"classification": 3}},
            "as classes or in shared memory, expected neither",
        ),
        ({"name": "predictions", "parameters": {"shared_memory_region": "r"}}, "expected neither"),
    ],
)
def test_an_output_that_there_is_not_is_refused(output: Any, reason: str) -> None:
    with pytest.raises(InvalidTensorError, match=reason):
        is_output_binary(ask(outputs=[output]))


# ---------------------------------------------------------------- compression
@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("", None),
        ("identity", None),
        ("br", None),
        ("gzip", "gzip"),
        ("GZIP", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate", "gzip"),
        ("deflate, br, gzip", "gzip"),
        ("gzip;q=0.5, deflate;q=0.8", "deflate"),
        ("gzip;q=0", None),
        ("gzip;q=0, deflate", "deflate"),
        ("gzip; q=x", None),
        ("gzip;q=nan", None),
    ],
)
def test_the_coding_is_one_that_the_caller_accepts(accepted: str, coding: str | None) -> None:
    assert choose_coding(accepted) == coding


@given(
    st.lists(st.sampled_from(["gzip", "deflate", "br", ",", ";", "q=", "1", "-", ".", "e9", " "]), max_size=9).map(
        "".join
    )
)
def test_any_header_names_a_known_coding_or_none(accepted: str) -> None:
    assert choose_coding(accepted) in (None, "gzip", "deflate")


def test_what_is_compressed_is_what_clients_decompress() -> None:
    body = bytes(range(256)) * 99
    assert gzip.decompress(compress(body, "gzip")) == body
    assert zlib.decompress(compress(body, "deflate")) == body
    assert len(compress(body, "gzip")) < len(body)
