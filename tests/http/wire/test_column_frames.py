"""Tests `streamd/http/wire/column_frames.py`: a frame has the rows that `bodies.py` decodes, or there is no frame."""

import json
import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.errors import StreamdError
from streamd.core.state.samples import IndexedSamples, Sample
from streamd.http.body_turns import LARGE_BODY_BYTES
from streamd.http.wire import column_frames
from streamd.http.wire.bodies import SampleList, decode_body
from streamd.http.wire.codecs import Encoding
from streamd.http.wire.column_frames import ColumnDecoder
from streamd.http.wire.tensors import make_wire_tensor

BOTH = tuple(Encoding)
TIMES = st.one_of(st.integers(0, 9), st.just("2023-11-14T22:16:00Z"), st.floats(-1, 9))
ODD: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.text(max_size=3), st.integers(-9, 2**70), st.lists(st.integers(0, 9), max_size=2), st.just({})
)
CELLS = st.one_of(st.integers(-5, 5), st.floats(allow_nan=False, allow_infinity=False), st.none())


def pack(message: Any, encoding: Encoding) -> bytes:
    if encoding is Encoding.JSON:
        return json.dumps(message, default=msgspec.to_builtins).encode()
    return msgspec.msgpack.encode(message)


def list_samples(samples: IndexedSamples) -> Any:
    found = []
    for index, each in samples:
        assert isinstance(each, Sample)
        values = {name: None if value is None or math.isnan(value) else value for name, value in each.values.items()}
        found.append((index, each.server, each.time, values, each.status))
    return found


@st.composite
def tensors(draw: st.DrawFn, rows: int, width: int) -> Any:
    shape = draw(st.sampled_from([[rows, width]] * 5 + [[rows], [rows, width, 1], [-rows, -width], [width, rows], []]))
    dtype = draw(st.sampled_from(["float32", "float32", "float16", "float64", "int64", "uint8", "float31"]))
    size = {"float16": 2, "float32": 4, "uint8": 1}.get(dtype, 8)
    more = draw(st.sampled_from([0, 0, 0, 0, 1, -1]))
    return {"shape": shape, "dtype": dtype, "data": bytes(max(rows * width * size + more, 0))}


@st.composite
def bodies(draw: st.DrawFn) -> Any:
    """Draw bodies of columns; most are right, and some have something wrong anywhere."""
    features = draw(st.lists(st.sampled_from(["cpu", "mem", "net"]), max_size=3, unique=draw(st.booleans())))
    rows, width = draw(st.integers(0, 4)), len(features)
    row = st.lists(CELLS, min_size=width, max_size=width)
    columns: dict[str, Any] = {
        "servers": draw(st.lists(st.sampled_from(["a", "b", "ü", ""]), min_size=rows, max_size=rows)),
        "time": draw(st.one_of(TIMES, st.lists(TIMES, min_size=rows, max_size=rows), st.lists(TIMES, max_size=3), ODD)),
        "features": features,
        "values": draw(st.one_of(st.lists(row, min_size=rows, max_size=rows), tensors(rows, width))),
    }
    for key in draw(
        st.sampled_from([[]] * 6 + [["servers"], ["features"], ["values"], ["time"], ["servers", "values"]])
    ):
        columns[key] = draw(st.one_of(ODD, st.lists(st.one_of(ODD, st.just("a")), max_size=3)))
    body: dict[str, Any] = {"id": draw(st.one_of(st.none(), st.integers(-9, 9), ODD)), "columns": columns}
    if draw(st.integers(0, 9)) == 0:
        body["samples"] = draw(st.one_of(st.none(), st.just([])))
    if draw(st.integers(0, 9)) == 0:
        del columns[draw(st.sampled_from(sorted(columns)))]
    return body


@given(bodies(), st.sampled_from(BOTH))
def test_a_frame_has_the_rows_of_its_body(body: Any, encoding: Encoding) -> None:
    try:
        data = pack(body, encoding)
    except (TypeError, OverflowError):  # bytes in JSON, large integers in MessagePack
        return
    for decoder in (ColumnDecoder(),) * 2:  # the second time, it has the lists of names
        found = decoder.decode(data, encoding)
        if found is None:
            continue
        identifier, samples = decode_body(data, encoding)
        assert found[0] == identifier
        assert list_samples(found[1].make_samples()) == list_samples(samples)


def make_body(rows: int = 3, **changes: Any) -> dict[str, Any]:
    values = make_wire_tensor(np.arange(2.0 * rows, dtype=np.float32).reshape(rows, 2))
    columns = {"servers": [f"s{row}" for row in range(rows)], "time": 5, "features": ["cpu", "mem"], "values": values}
    return {"columns": {**columns, **changes}, "id": 7}


@pytest.mark.parametrize("encoding", BOTH)
@pytest.mark.parametrize("time", [5, 5.5, "2023-11-14T22:16:00Z", [5, 6, 7]])
@pytest.mark.parametrize("values", [[[1, 2], [3, None], [4, 5]], None])
def test_the_usual_body_is_a_frame(encoding: Encoding, time: Any, values: Any) -> None:
    body = make_body(time=time)
    if values is not None:
        body["columns"]["values"] = values
    elif encoding is Encoding.JSON:
        body["columns"]["values"] = msgspec.to_builtins({**body["columns"]["values"], "data": bytes(24)})
    data = pack(body, encoding)
    found = ColumnDecoder().decode(data if encoding is Encoding.MSGPACK else data.decode(), encoding)
    assert found is not None
    assert found[0] == 7
    assert list_samples(found[1].make_samples()) == list_samples(decode_body(data, encoding)[1])


def test_only_some_rows_are_made() -> None:
    found = ColumnDecoder().decode(pack(make_body(), Encoding.MSGPACK), Encoding.MSGPACK)
    assert found is not None
    assert [(index, each.server) for index, each in found[1].make_samples([2, 0]) if isinstance(each, Sample)] == [
        (2, "s2"),
        (0, "s0"),
    ]


def test_equal_lists_are_one_object() -> None:
    decoder = ColumnDecoder()
    first, again, other = (
        decoder.decode(pack(body, Encoding.MSGPACK), Encoding.MSGPACK)
        for body in (make_body(), make_body(time=9), make_body(2))
    )
    assert first is not None
    assert again is not None
    assert other is not None
    assert first[1].servers is again[1].servers
    assert first[1].features is again[1].features is other[1].features
    assert first[1].servers is not other[1].servers


def test_the_remembered_lists_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(column_frames, "MAX_LISTED_NAMES", 2 * (3 + column_frames._LIST_OVERHEAD))
    decoder = ColumnDecoder()
    data = pack(make_body(), Encoding.MSGPACK)
    first = decoder.decode(data, Encoding.MSGPACK)
    for number in range(3):
        assert decoder.decode(pack(make_body(servers=["x", "y", str(number)]), Encoding.MSGPACK), Encoding.MSGPACK)
    again = decoder.decode(data, Encoding.MSGPACK)
    assert first is not None
    assert again is not None
    assert first[1].servers is not again[1].servers
    assert first[1].servers.names == again[1].servers.names


def test_long_names_do_not_make_the_remembered_lists_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(column_frames, "MAX_LISTED_NAMES", 4_000)
    decoder, most = ColumnDecoder(), 4_000 * column_frames._NAME_BYTES
    for number in range(40):
        long = "x" * 40_000 + str(number)
        changed: tuple[dict[str, Any], ...] = ({"servers": [long, "y", "z"]}, {"features": [long, "y"]})
        for changes in changed:
            assert decoder.decode(pack(make_body(**changes), Encoding.MSGPACK), Encoding.MSGPACK)
        names = ["x" * 1_000 + f"{number}-{row}" for row in range(column_frames.MIN_JOINED_SAMPLES)]
        assert decoder.join_samples([Sample(name, 0, {"cpu": 1.0}) for name in names])
        for lists in (decoder._servers._lists, decoder._features._lists):
            held = sum(len(key) if isinstance(key, bytes) else sum(map(len, key)) for key in lists)
            assert held <= most


def test_a_very_long_list_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(column_frames, "MAX_LIST_BYTES", 8)
    decoder = ColumnDecoder()
    first, again = (decoder.decode(pack(make_body(), Encoding.MSGPACK), Encoding.MSGPACK) for _ in range(2))
    assert first is not None
    assert again is not None
    assert first[1].servers is not again[1].servers


def test_a_large_body_is_a_frame_only_with_a_tensor() -> None:
    rows = LARGE_BODY_BYTES // 8
    assert ColumnDecoder().decode(pack(make_body(rows), Encoding.MSGPACK), Encoding.MSGPACK) is not None
    as_lists = pack(make_body(rows, values=[[1.5, 2.5]] * rows), Encoding.MSGPACK)
    assert ColumnDecoder().decode(as_lists, Encoding.MSGPACK) is None


# ---------------------------------------------------------------- samples
ALIKE = st.fixed_dictionaries(
    {
        "server": st.sampled_from(["a", "b", "ü"]),
        "time": TIMES,
        "values": st.fixed_dictionaries({"x": CELLS, "y": CELLS}),
    }
)
OTHER = st.fixed_dictionaries(
    {"server": st.just("c"), "time": TIMES, "values": st.dictionaries(st.sampled_from("yxz"), CELLS, max_size=3)},
    optional={"status": st.integers(0, 15)},
)


@given(st.lists(st.one_of(ALIKE, ALIKE, ALIKE, ALIKE, OTHER), max_size=6), st.sampled_from(BOTH))
def test_samples_that_are_alike_become_a_frame_with_the_same_rows(samples: list[Any], encoding: Encoding) -> None:
    data = pack({"samples": samples}, encoding)
    decoded = decode_body(data, encoding)[1]
    assert isinstance(decoded, SampleList)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(column_frames, "MIN_JOINED_SAMPLES", 1)
        decoder = ColumnDecoder()
        for frame in (decoder.join_samples(decoded.samples), decoder.join_samples(decoded.samples)):
            alike = all(list(each["values"]) == ["x", "y"] and each.get("status") is None for each in samples)
            if alike and samples:
                assert frame is not None
            if frame is not None:
                assert list_samples(frame.make_samples()) == list_samples(decode_body(data, encoding)[1])


def test_a_few_samples_stay_samples() -> None:
    samples = [Sample("a", 1.0, {"x": 1.0})] * 15
    assert ColumnDecoder().join_samples(samples) is None
    assert ColumnDecoder().join_samples([*samples, samples[0]]) is not None


HOSTILE = [
    b"",
    b"columns",
    b"\x81\xa7columns\xc0",
    b"\x81\xa7columns" + b"\x91" * 5_000,
    b"\x81\xa7columns\x81\xa7servers\xdd\xff\xff\xff\xff",
]


@pytest.mark.parametrize("data", HOSTILE)
@pytest.mark.parametrize("encoding", BOTH)
def test_hostile_bytes_are_no_frame(data: bytes, encoding: Encoding) -> None:
    assert ColumnDecoder().decode(data, encoding) is None
    with pytest.raises(StreamdError):
        decode_body(data, encoding)


def test_text_that_is_not_utf_8_is_no_frame() -> None:
    data = pack(make_body(), Encoding.MSGPACK).replace(b"\xa2s1", b"\xa2\xff\xff")
    assert ColumnDecoder().decode(data, Encoding.MSGPACK) is None
