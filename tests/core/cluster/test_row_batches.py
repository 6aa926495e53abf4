"""Tests `streamd/core/cluster/row_batches.py` and `row_gathering.py`.

Rows come back as they were, and bytes that are none are refused.
"""

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.cluster.formats import LaterFormatError
from streamd.core.cluster.row_batches import (
    LAST_SECOND,
    MAX_SECTION_BYTES,
    NO_ROW_STATUS,
    LoggedRows,
    RowDecoder,
    count_rows_of_section,
    decode_forget,
    decode_names,
    encode_names,
    encode_rows,
    iterate_sections,
    make_forget_section,
    make_rows_message,
)
from streamd.core.cluster.row_gathering import RowGatherer
from streamd.core.errors import MalformedError
from streamd.core.state.column_frames import NameList

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
VALUES = st.floats(width=32, allow_infinity=False) | st.just(float("nan"))
TIMES = st.floats(0, LAST_SECOND)
ROWS = st.lists(
    st.tuples(NAMES, TIMES, st.none() | st.integers(0, 15), st.tuples(VALUES, VALUES)), min_size=1, max_size=20
)
Row = tuple[str, float, int | None, tuple[float, float]]


def gather(rows: list[Row], *, may_evict: bool = False) -> bytes:
    gatherer = RowGatherer(may_evict=may_evict)
    for server, time, status, values in rows:
        gatherer.add(server, time, np.array(values, np.float32).tobytes(), status)
    return gatherer.encode()


def decode(section: bytes, features: int = 2) -> LoggedRows:
    ((_, body),) = iterate_sections(make_rows_message([section]))
    return RowDecoder(features).decode(body)


@given(ROWS, st.booleans())
def test_single_rows_come_back_in_their_order(rows: list[Row], may_evict: bool) -> None:
    batch = decode(gather(rows, may_evict=may_evict))
    assert list(batch.list_servers()) == [row[0] for row in rows]
    assert batch.times.tolist() == [row[1] for row in rows]
    statuses = [NO_ROW_STATUS] * len(rows) if batch.statuses is None else batch.statuses.tolist()
    assert statuses == [NO_ROW_STATUS if row[2] is None else row[2] for row in rows]
    assert np.array_equal(batch.values, np.array([row[3] for row in rows], np.float32), equal_nan=True)
    assert batch.may_evict is may_evict
    assert len(batch.names) == len(dict.fromkeys(row[0] for row in rows)), "each name is there once"


@given(st.lists(NAMES, min_size=1, max_size=10, unique=True), st.data())
def test_rows_of_a_frame_come_back_as_a_frame(names: list[str], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(names) - 1), min_size=1, unique=True))
    times = data.draw(TIMES | st.lists(TIMES, min_size=len(chosen), max_size=len(chosen)))
    values = np.arange(3.0 * len(chosen), dtype=np.float32).reshape(-1, 3)
    section = encode_rows(
        encode_names(names),
        times if isinstance(times, float) else np.array(times),
        values,
        places=np.array(chosen, np.int64),
    )
    frame = decode(section, 3).make_frame(NameList(["a", "b", "c"]))
    assert list(frame.servers.names) == [names[place] for place in chosen]
    assert np.array_equal(frame.values, values)
    expected = [times] * len(chosen) if isinstance(times, float) else times
    assert (frame.time if isinstance(frame.time, list) else [frame.time] * len(chosen)) == expected


@given(ROWS, st.data())
def test_bytes_that_are_no_rows_are_refused_or_read_as_valid_rows(rows: list[Row], data: st.DataObject) -> None:
    message = bytearray(make_rows_message([gather(rows)]))
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(message)))
    with contextlib.suppress(MalformedError, LaterFormatError):
        for kind, body in iterate_sections(bytes(message[:cut])):
            if kind == 1:
                batch = RowDecoder(2).decode(body)
                assert batch.values.shape == (len(batch.list_servers()), 2)
                assert ((batch.times >= 0) & (batch.times <= LAST_SECOND)).all()


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_read(data: bytes) -> None:
    with contextlib.suppress(MalformedError, LaterFormatError):
        RowDecoder(2).decode(memoryview(data))
    with contextlib.suppress(MalformedError, LaterFormatError):
        decode_names(data)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", "begins with"),
        (b"\x09\x01", "begins with"),
        (b"\x01\x63", "is of format 99, expected 1"),
        (b"\x01\x01\x01", "the head of a section at byte 2 is cut off"),
        (b"\x01\x01\x01\x05\x00\x00\x00ab", "should have 5 bytes, and 2 are left"),
    ],
)
def test_a_message_that_is_none_is_named(message: bytes, reason: str) -> None:
    with pytest.raises(MalformedError, match=reason):
        list(iterate_sections(message))


def test_rows_of_another_contract_are_refused() -> None:
    with pytest.raises(MalformedError, match="rows have 2 features, expected 3"):
        decode(gather([("web", 1.0, None, (1.0, 2.0))]), 3)


def test_equal_lists_of_names_are_one_object() -> None:
    decoder = RowDecoder(2)
    bodies = [body for row in range(2) for _, body in iterate_sections(make_rows_message([gather(ROW_PAIR)]))]
    first, second = (decoder.decode(body) for body in bodies)
    assert first.names is second.names


ROW_PAIR: list[Row] = [("web", 1.0, None, (1.0, 2.0)), ("db", 2.0, None, (1.0, 2.0))]


def test_a_section_of_the_longest_names_has_space() -> None:
    count = count_rows_of_section(14)
    names = [f"{number:0256}" for number in range(count)]
    section = encode_rows(encode_names(names), np.ones(count), np.ones((count, 14), np.float32))
    assert len(section) <= MAX_SECTION_BYTES
    assert count > 500


def test_an_order_to_forget_a_server_comes_back() -> None:
    ((kind, body),) = iterate_sections(make_rows_message([make_forget_section("wéb", 12.5)]))
    assert (kind, decode_forget(body)) == (3, ("wéb", 12.5))
    with pytest.raises(MalformedError, match="an order to forget a server has 7 bytes, expected 8 and a name"):
        decode_forget(body[:7])
    with pytest.raises(MalformedError, match="to forget is unreadable"):
        decode_forget(body[:8])
    with pytest.raises(MalformedError, match="is no number"):
        decode_forget(memoryview(bytes.fromhex("000000000000f87f") + b"web"))
