"""Tests `streamd/core/cluster/forecast_batches.py`."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.cluster.chain_entries import EntryKind
from streamd.core.cluster.forecast_batches import (
    ChainBatch,
    ChainMessage,
    OwnerMarker,
    StepRecord,
    decode_chain_message,
    encode_chain_message,
    make_chain_entry,
)
from streamd.core.cluster.formats import LaterFormatError
from streamd.core.errors import MalformedError

SHAPE = (2, 4, 3)
SERVERS = st.lists(st.text(min_size=1, max_size=8).filter(lambda name: name.isprintable()), unique=True, max_size=5)
NUMBERS = st.integers(0, 2**53)


def make_batch(servers: tuple[str, ...] = ("a", "b"), **changes: Any) -> ChainBatch:
    count = len(servers)
    fields: dict[str, Any] = {
        "fence": 7,
        "number": 3,
        "model": "model_1",
        "servers": servers,
        "steps": np.arange(count) + 5,
        "contexts": np.arange(count) + 1,
        "values": np.random.default_rng(count).random((count, *SHAPE)).astype(np.float32),
        "forgotten": ("c",),
        "forgot_rows": 9,
    }
    return ChainBatch(**{**fields, **changes})


def as_fields(message: ChainMessage) -> dict[str, Any]:
    found = {name: getattr(message, name) for name in message.__dataclass_fields__}
    return {name: value.tobytes() if isinstance(value, np.ndarray) else value for name, value in found.items()}


@given(servers=SERVERS, fence=NUMBERS, number=NUMBERS, forgotten=SERVERS)
def test_forecasts_come_back_as_they_were(servers: list[str], fence: int, number: int, forgotten: list[str]) -> None:
    batch = make_batch(tuple(servers), fence=fence, number=number, forgotten=tuple(forgotten))
    decoded = decode_chain_message(encode_chain_message(batch), SHAPE)
    assert as_fields(decoded) == as_fields(batch)


def test_kept_forecasts_come_back_with_their_serials_and_fence() -> None:
    batch = make_batch(serials=np.array([2**52, 7]), made_fence=4)
    decoded = decode_chain_message(encode_chain_message(batch), SHAPE)
    assert as_fields(decoded) == as_fields(batch)
    with pytest.raises(MalformedError, match="8 bytes of serials, expected 16 for 2"):
        decode_chain_message(encode_chain_message(make_batch(serials=np.array([7]))), SHAPE)


@pytest.mark.parametrize("name", ["a", "ab", "abc", "abcd", "abcde"])
def test_the_values_of_a_message_are_read_where_they_lie(name: str) -> None:
    decoded = decode_chain_message(encode_chain_message(make_batch((name,))), SHAPE)
    assert isinstance(decoded, ChainBatch)
    assert not decoded.values.flags.owndata
    assert decoded.values.ctypes.data % 8 == 0  # they are summed by words of eight bytes


@pytest.mark.parametrize("size", [2, 5, 6, 20])
def test_forecasts_that_are_cut_off_say_so(size: int) -> None:
    with pytest.raises(MalformedError, match=f"forecasts have {size} bytes"):
        decode_chain_message(encode_chain_message(make_batch())[:size], SHAPE)


def test_unknown_targets_come_back() -> None:
    values = np.full((1, *SHAPE), np.nan, np.float32)
    decoded = decode_chain_message(encode_chain_message(make_batch(("a",), values=values)), SHAPE)
    assert isinstance(decoded, ChainBatch)
    assert np.isnan(decoded.values).all()


@given(steps=st.dictionaries(st.sampled_from(["a", "b", "é", "x" * 256]), NUMBERS), part=st.integers(0, 7))
def test_markers_and_records_come_back_as_they_were(steps: dict[str, int], part: int) -> None:
    marker = OwnerMarker(fence=4, number=0, node="n1")
    record = StepRecord(fence=4, number=2, part=part, steps=steps, forgot_rows=11)
    for message in (marker, record):
        assert decode_chain_message(encode_chain_message(message), SHAPE) == message


def test_each_message_is_an_entry_of_the_chain() -> None:
    batch = make_chain_entry(make_batch(), 12)
    assert (batch.kind, batch.sequence, batch.fence) == (EntryKind.BATCH, 12, 7)
    assert (batch.steps, batch.forgotten, batch.forgot_rows) == ({"a": 5, "b": 6}, ("c",), 9)
    assert make_chain_entry(OwnerMarker(fence=4, number=0, node="n1")).kind is EntryKind.MARKER
    record = make_chain_entry(StepRecord(fence=4, number=2, part=3, steps={"a": 1}, forgot_rows=2))
    assert (record.kind, record.part, record.steps) == (EntryKind.RECORD, 3, {"a": 1})


@given(data=st.binary(max_size=64))
def test_any_bytes_are_a_message_or_an_error(data: bytes) -> None:
    try:
        decode_chain_message(data, SHAPE)
    except (MalformedError, LaterFormatError):
        return


@given(at=st.integers(0, 400), to=st.integers(0, 255), kind=st.sampled_from([0, 1, 2]))
def test_a_changed_byte_is_a_message_or_an_error(at: int, to: int, kind: int) -> None:
    message: ChainMessage = (
        make_batch(),
        OwnerMarker(fence=4, number=0, node="n1"),
        StepRecord(fence=4, number=2, part=0, steps={"a": 1}, forgot_rows=0),
    )[kind]
    data = bytearray(encode_chain_message(message))
    data[at % len(data)] = to
    try:
        decode_chain_message(bytes(data), SHAPE)
    except (MalformedError, LaterFormatError):
        return


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"servers": ("a", "a")}, "twice"),
        ({"servers": ("a", "")}, "1 to 256"),
        ({"steps": np.array([-1, 2])}, "step below 0"),
        ({"contexts": np.array([0, 2])}, "context below 1"),
        ({"steps": np.array([1])}, "bytes of steps"),
        ({"model": "é"}, "version"),
        ({"values": np.zeros((2, 1, 4, 3), np.float32)}, "shape"),
    ],
)
def test_what_cannot_be_is_refused_with_its_reason(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(MalformedError, match=reason):
        decode_chain_message(encode_chain_message(make_batch(**changes)), SHAPE)


def test_another_version_of_the_format_is_refused() -> None:
    data = bytearray(encode_chain_message(make_batch()))
    data[1] = 99
    with pytest.raises(MalformedError, match="format 99, expected"):
        decode_chain_message(bytes(data), SHAPE)
