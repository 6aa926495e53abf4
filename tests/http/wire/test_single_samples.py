"""Tests `streamd/http/wire/single_samples.py`: frames and acks are those of `bodies.py` and `make_ack`."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.errors import InvalidInputError, InvalidValueError, StreamdError, TooOldError
from streamd.core.state.rows import PackedRow, RowReader
from streamd.core.state.samples import IngestResult, Sample
from streamd.http.wire.bodies import decode_body
from streamd.http.wire.codecs import Encoding
from streamd.http.wire.single_samples import SingleDecoder, make_ack, make_single_ack
from streamd.http.wire.websocket_frames import frame_message

FEATURES = ("cpu", "mem", "net")
READER = RowReader(FEATURES)
DECODER = SingleDecoder(READER.cells_type)
ENCODINGS = list(Encoding)

NUMBERS = st.none() | st.integers(-10, 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.just(1e39)
WRONG = st.sampled_from(["x", True, [], {}])
VALUES = st.dictionaries(st.sampled_from([*FEATURES, "unknown"]), NUMBERS | WRONG, max_size=4)
TIMES = st.integers(-1, 2**40) | st.floats(0, 1e12) | st.sampled_from(["2023-11-14T22:16:00Z", "x", None])
SAMPLES = st.fixed_dictionaries(
    {"server": st.text(max_size=3), "time": TIMES, "values": VALUES},
    optional={"status": st.sampled_from([None, 0, 15, 16, -1, 1.5]), "more": st.just(1)},
)
IDS = st.none() | st.integers(-(2**63), 2**63 - 1) | st.text() | st.floats(allow_nan=False) | WRONG
FRAMES = st.fixed_dictionaries(
    {"samples": st.lists(SAMPLES, max_size=2) | st.none() | WRONG},
    optional={"id": IDS, "columns": st.none() | WRONG, "other": st.just(1)},
)


def read_values(reader: RowReader, sample: Any) -> PackedRow | str:
    read = reader.read_row if isinstance(sample, Sample) else reader.read_cells
    try:
        return read(sample.values)
    except InvalidValueError as refusal:
        return str(refusal)


@given(FRAMES, st.sampled_from(ENCODINGS))
def test_a_frame_that_is_decoded_is_what_bodies_makes_of_it(frame: Any, encoding: Encoding) -> None:
    data = encode_frame(frame, encoding)
    single = DECODER.decode_frame(data, encoding)
    if single is None:
        return
    identifier, samples = decode_body(data, encoding)
    [(index, sample)] = list(samples)
    assert not isinstance(sample, InvalidInputError)
    found = single.samples[0]
    assert (index, found.server, found.time, found.status) == (0, sample.server, sample.time, sample.status)
    assert (single.id, type(single.id)) == (identifier, type(identifier))
    assert read_values(READER, found) == read_values(READER, sample)


def encode_frame(frame: Any, encoding: Encoding) -> bytes:
    try:
        return msgspec.msgpack.encode(frame) if encoding is Encoding.MSGPACK else msgspec.json.encode(frame)
    except OverflowError:  # MessagePack has no integers of more than 64 bits
        return msgspec.json.encode(frame)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("values", [{}, {"cpu": 1}, {"net": None, "cpu": 1.5, "mem": 2}])
def test_a_usual_frame_is_decoded(values: dict[str, Any], encoding: Encoding) -> None:
    data = encode_frame({"id": 7, "samples": [{"server": "a", "time": 9, "values": values}]}, encoding)
    frame = DECODER.decode_frame(data, encoding)
    assert frame is not None
    assert (frame.id, frame.samples[0].server) == (7, "a")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'{"samples": []}',
        b'{"samples": [{"server": "a", "time": 1, "values": {"unknown": 1}}]}',
        b'{"samples": [{"server": "a", "time": 1, "values": {}}], "columns": null}',
        b'{"samples": [{"server": "a", "time": 1, "values": {"cpu": NaN}}]}',
        b'{"samples": [{"server": "\xff", "time": 1, "values": {}}]}',
    ],
)
def test_an_unusual_frame_is_left_to_bodies(data: bytes) -> None:
    assert DECODER.decode_frame(data, Encoding.JSON) is None


@given(
    IDS.filter(lambda given: not isinstance(given, bool | list | dict)),
    st.none() | st.just(TooOldError("time 1 is too old")),
    st.sampled_from(ENCODINGS),
)
def test_an_ack_has_the_bytes_of_any_other_ack(identifier: Any, error: StreamdError | None, encoding: Encoding) -> None:
    result = IngestResult()
    if error is None:
        result.accepted = 1
    else:
        result.reject(0, error)
    expected = frame_message(make_ack(identifier, result, encoding), encoding)
    assert make_single_ack(identifier, error, encoding) == expected
