"""Tests `streamd/http/wire/bodies.py`: a large body is read as a small one is, but in bounded steps."""

import json
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.errors import StreamdError, TooLargeError
from streamd.core.state.samples import MAX_SAMPLE_VALUES
from streamd.http.wire import bodies, body_types, column_rows
from streamd.http.wire.bodies import decode_body, decode_body_in_steps
from streamd.http.wire.body_types import MAX_DECODED_SAMPLES, MAX_DECODED_VALUES
from streamd.http.wire.codecs import Encoding
from streamd.http.wire.tensors import make_wire_tensor
from tests.support.step_times import measure_longest_step

BOTH = tuple(Encoding)


def pack(message: Any, encoding: Encoding) -> bytes:
    return json.dumps(message).encode() if encoding is Encoding.JSON else msgspec.msgpack.encode(message)


def judge(data: bytes, encoding: Encoding) -> Any:
    """Return what is decoded of a body, in a form that can be compared."""
    try:
        identifier, samples = decode_body(data, encoding)
    except StreamdError as error:
        return error.code, str(error)
    return identifier, [
        (index, (each.code, str(each)) if isinstance(each, StreamdError) else repr(each)) for index, each in samples
    ]


VALUES = st.one_of(st.integers(-5, 5), st.floats(width=32, allow_nan=False, allow_infinity=False), st.none())
BAD: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.text(max_size=3), st.integers(-9, 2**40), st.lists(st.integers(0, 9), max_size=2), st.just({})
)
SAMPLES = st.one_of(
    st.fixed_dictionaries(
        {
            "server": st.sampled_from(["a", "b", "ü"]),
            "time": st.integers(0, 9),
            "values": st.dictionaries(st.text(max_size=3), VALUES, max_size=3),
        }
    ),
    st.fixed_dictionaries({"server": BAD, "time": BAD, "values": BAD}),
    BAD,
)


@st.composite
def columns(draw: st.DrawFn) -> dict[str, Any]:
    features = draw(st.lists(st.sampled_from("abc"), max_size=3))
    rows = draw(st.integers(0, 6))
    row = st.one_of(st.lists(VALUES, min_size=len(features), max_size=len(features)), st.lists(VALUES, max_size=3), BAD)
    times = st.one_of(st.integers(0, 9), st.lists(st.one_of(st.integers(0, 9), BAD), min_size=rows, max_size=rows), BAD)
    return {
        "servers": draw(st.lists(st.one_of(st.sampled_from("ab"), BAD), min_size=rows, max_size=rows)),
        "time": draw(times),
        "features": features,
        "values": draw(st.lists(row, min_size=rows, max_size=rows)),
    }


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (bodies, column_rows):
        monkeypatch.setattr(module, "GROUP_SAMPLES", 3)


@given(
    st.one_of(
        st.lists(SAMPLES, max_size=8).map(lambda samples: {"samples": samples, "id": 7}),
        columns().map(lambda given: {"columns": given}),
    ),
    st.sampled_from(BOTH),
)
def test_a_large_body_is_read_like_a_small_one(message: Any, encoding: Encoding) -> None:
    data = pack(message, encoding)
    small = judge(data, encoding)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bodies, "LARGE_BODY_BYTES", 0)
        assert judge(data, encoding) == small
        for module in (bodies, body_types, column_rows):
            patch.setattr(module, "GROUP_BYTES", 10)
        assert judge(data, encoding) == small


def test_a_large_body_is_decoded_only_as_far_as_its_samples_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = 0
    decode = bodies._samples_decoder.decode_raw

    def count(data: bytes, encoding: Encoding) -> Any:
        nonlocal groups
        groups += 1
        return decode(data, encoding)

    monkeypatch.setattr(bodies._samples_decoder, "decode_raw", count)
    sample = {"server": "a" * 200, "time": 1, "values": {"cpu": 1.5}}
    _, samples = decode_body(pack({"samples": [sample] * 2_000}, Encoding.JSON), Encoding.JSON)
    assert groups == 0
    assert len(list(islice(samples, 30))) == 30
    assert groups == 10


# ---------------------------------------------------------------- bounds
def make_array(count: int, item: bytes) -> bytes:
    """Return a MessagePack array of equal items."""
    return b"\xdd" + count.to_bytes(4, "big") + item * count


HUGE: list[tuple[str, bytes, Encoding]] = [
    ("samples", b'{"samples":[' + b"1," * MAX_DECODED_SAMPLES + b"1]}", Encoding.JSON),
    ("commas", b'{"x":[' + b"1," * (MAX_DECODED_VALUES + 1) + b"1]}", Encoding.JSON),
    ("samples", b"\x81\xa7samples" + make_array(MAX_DECODED_SAMPLES + 1, b"\x80"), Encoding.MSGPACK),
    (
        "cells",
        pack(
            {
                "columns": {
                    "servers": ["a"] * 2_000,
                    "time": 1,
                    "features": [str(f) for f in range(501)],
                    "values": make_wire_tensor(np.zeros((2_000, 501), np.uint8)),
                }
            },
            Encoding.MSGPACK,
        ),
        Encoding.MSGPACK,
    ),
]


@pytest.mark.parametrize(
    ("data", "encoding"), [pytest.param(data, kind, id=f"{kind.name} {name}") for name, data, kind in HUGE]
)
def test_a_body_of_too_many_samples_or_values_is_too_large(data: bytes, encoding: Encoding) -> None:
    with pytest.raises(TooLargeError):
        decode_body(data, encoding)


MANY = MAX_DECODED_SAMPLES + 1


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b'{"samples":[' + b"{}," * MANY + b"{}]}", id="empty samples"),
        pytest.param(b'{"x":[1],"samples":[' + b'"},{",' * MANY + b'""]}', id="another key, and strings"),
        pytest.param(b'{"columns":{"servers":[],"values":[' + b"1," * 4 * MANY + b"1]}}", id="columns"),
    ],
)
def test_lists_of_json_that_are_too_long_are_never_built(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "_decode_loose_body", lambda *_: pytest.fail("it was built"))
    with pytest.raises(TooLargeError):
        decode_body(data, Encoding.JSON)


def test_as_many_samples_as_are_accepted_are_decoded() -> None:
    _, samples = decode_body(b'{"samples":[' + b"{}," * (MAX_DECODED_SAMPLES - 1) + b"{}]}", Encoding.JSON)
    assert next(iter(samples))[0] == 0


@pytest.mark.parametrize("encoding", BOTH)
def test_a_sample_of_too_many_values_is_refused_alone(encoding: Encoding) -> None:
    many = {"server": "a", "time": 1, "values": {f"feature-{number}": 1 for number in range(2 * MAX_SAMPLE_VALUES)}}
    good = {"server": "a", "time": 1, "values": {"cpu": 1}}
    _, samples = judge(pack({"samples": [good, many, good]}, encoding), encoding)
    assert [each[0] if isinstance(each, tuple) else "taken" for _, each in samples] == [
        "taken",
        "invalid_value",
        "taken",
    ]


@pytest.mark.parametrize("encoding", BOTH)
def test_a_row_of_too_many_values_is_refused_alone(encoding: Encoding) -> None:
    rows: list[Any] = [[1.0], [0.125] * 8 * MAX_SAMPLE_VALUES, [2.0]]
    given = {"servers": ["a", "b", "c"], "time": 1, "features": ["cpu"], "values": rows}
    _, samples = judge(pack({"columns": given}, encoding), encoding)
    assert [each[0] if isinstance(each, tuple) else "taken" for _, each in samples] == [
        "taken",
        "invalid_value",
        "taken",
    ]


def decode_all(data: bytes) -> Iterator[None]:
    """Decode a body and all of its samples, in steps of 250 samples; to be refused ends them."""
    with suppress(TooLargeError):
        _, samples = yield from decode_body_in_steps(data, Encoding.JSON)
        while list(islice(samples, 250)):
            yield


NAN = b'{"server":"web-0001","time":1700000000,"values":{"cpu":NaN}},'
SLOW: list[tuple[str, bytes]] = [
    ("empty samples", b'{"samples":[' + b"{}," * (MAX_DECODED_SAMPLES - 1) + b"{}]}"),
    ("NaN in each", b'{"samples":[' + NAN * 20_000 + b"1]}"),
    ("escapes", b'{"samples":["' + b"\\n" * 10_000 + b'",' + b'"\\\\",' * 200_000 + b"NaN]}"),
    ("one sample of many keys", b'{"samples":[{"server":"a","time":1,"values":{' + b'"a":1,' * 300_000 + b'"b":1}}]}'),
]


@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in SLOW])
def test_no_step_of_a_hostile_body_takes_long(data: bytes) -> None:
    """A step takes a fifth of the unit."""
    assert measure_longest_step(lambda: decode_all(data), 10_000) < 1.5
