"""Tests `streamd/protocols/prometheus/remote_write.py`: bodies of real senders and official messages, bad series among
good ones, hostile bodies; a reader that knows only the wire format says what is expected."""

import contextlib
import json
import math
import tracemalloc
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.errors import (
    InvalidSampleError,
    InvalidValueError,
    MalformedError,
    TooLargeError,
    UnsupportedMediaTypeError,
)
from streamd.protocols.block_codings import decode_block
from streamd.protocols.prometheus import remote_write as module
from streamd.protocols.prometheus.remote_write import (
    MAX_BODY_SERIES,
    MAX_SAMPLES_OF_SERIES,
    MAX_SERIES_BYTES,
    SLICE_SERIES,
    RemoteWriteCounts,
    RemoteWriteMessage,
    choose_remote_write_message,
    decode_remote_write,
)
from tests.support.recording_sink import RecordingSink
from tests.support.remote_write_bodies import (
    FIXTURES,
    STALE,
    UP,
    RemoteSeries,
    encode_part,
    encode_request_1,
    encode_request_2,
    encode_sample,
    encode_series_1,
    encode_series_2,
    list_points,
    read_request_1,
    read_request_2,
    show_value,
)

V1, V2 = RemoteWriteMessage
ENCODERS = {V1: encode_request_1, V2: encode_request_2}
MESSAGES = pytest.mark.parametrize("message", [V1, V2], ids=["1.0", "2.0"])
AGENTS = ("prometheus", "vmagent", "netdata-remote-write")
AGENT_BODIES = [path for agent in AGENTS for path in sorted((FIXTURES / "agents" / agent).glob("*.body"))]
OFFICIAL_BODIES = sorted((FIXTURES / "remote_write").glob("*.body"))
TIME = 1_763_708_400_000


def decode(body: bytes, message: RemoteWriteMessage = V1, sink: RecordingSink | None = None) -> RecordingSink:
    sink = sink or RecordingSink()
    counts = RemoteWriteCounts()
    for _ in decode_remote_write(body, sink, message, counts):
        pass
    assert counts.samples >= len(sink.rejected)
    return sink


def show(sink: RecordingSink) -> list[tuple[str, dict[str, str], float, Any]]:
    return [(series.name, dict(series.labels), time, show_value(value)) for series, time, value in sink.points]


def read_agent_body(path: Any) -> bytes:
    return decode_block("snappy", path.read_bytes(), 2**23)


# ---------------------------------------------------------------- what senders send
def test_every_fixture_is_there() -> None:
    assert len(AGENT_BODIES) == 9
    assert len(OFFICIAL_BODIES) == 3


@pytest.mark.parametrize("path", AGENT_BODIES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_each_point_of_a_real_sender_is_found(path: Any) -> None:
    body = read_agent_body(path)
    headers = {name.lower(): value for name, value in json.loads(path.with_suffix(".json").read_text())["headers"]}
    sink = decode(body, choose_remote_write_message(headers["content-type"]))
    assert show(sink) == list_points(read_request_1(body))
    assert sink.rejected == []
    assert bool(sink.points) == (path.stem != "metadata")


@pytest.mark.parametrize("path", AGENT_BODIES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_series_that_are_known_give_the_same_points(path: Any) -> None:
    body, sink = read_agent_body(path), RecordingSink()
    decode(body, V1, sink)
    first = show(sink)
    sink.points.clear()
    decode(body, V1, sink)
    assert show(sink) == first


def test_metadata_is_counted_and_not_used() -> None:
    sink = decode(read_agent_body(FIXTURES / "agents/prometheus/metadata.body"))
    assert sink.skipped == {"metadata": 154}
    assert sink.points == []


def test_a_failed_scrape_ends_its_series() -> None:
    sink = decode(read_agent_body(FIXTURES / "agents/prometheus/stale.body"))
    values = [value for *_, value in show(sink)]
    assert values.count("stale") == 17
    assert ("up", 0.0) in [(name, value) for name, _, _, value in show(sink)]


@pytest.mark.parametrize("path", OFFICIAL_BODIES, ids=lambda path: path.stem)
def test_the_official_messages_are_read(path: Any) -> None:
    sink, counts, host = RecordingSink(), RemoteWriteCounts(), {"instance": "web-01:9100", "job": "node"}
    message = V1 if path.stem == "request-1.0" else V2
    assert list(decode_remote_write(path.read_bytes(), sink, message, counts)) == []
    assert show(sink) == [
        ("node_load1", host, 1763708400.123, 0.25),
        ("node_load1", host, 1763708415.123, 0.5),
        ("node_cpu_seconds_total", {"cpu": "0", **host, "mode": "user"}, 1763708400.123, 1234.56),
        ("up", host, 1763708400.123, 0.0),
        ("node_network_up", {"device": "é 世", **host}, 1763708400.123, "stale"),
        ("node_empty", host, 1763708415.123, 3.0),
    ]
    expected = {"exemplar": 1, "missing value": 1, "native histogram": 1}
    assert sink.skipped == {**expected, **({"metadata": 1} if message is V1 else {})}
    assert counts == RemoteWriteCounts(samples=7, histograms=1, exemplars=1)
    assert sink.rejected == []


# ---------------------------------------------------------------- the type of the body
@pytest.mark.parametrize(
    ("content_type", "message"),
    [
        ("", V1),
        ("application/x-protobuf", V1),
        ("Application/X-Protobuf; charset=utf-8", V1),
        ("application/x-protobuf;proto=prometheus.WriteRequest", V1),
        ("application/x-protobuf;proto=io.prometheus.write.v2.Request", V2),
        ('application/x-protobuf; Proto="io.prometheus.write.v2.Request"', V2),
    ],
)
def test_the_content_type_names_the_message(content_type: str, message: RemoteWriteMessage) -> None:
    assert choose_remote_write_message(content_type) is message


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "text/plain",
        "application/x-protobuf;proto=x.Y",
        "x-protobuf",
        "application/x-protobuf;" * 99,
    ],
)
def test_another_type_is_refused_with_what_is_expected(content_type: str) -> None:
    if content_type.startswith("application/x-protobuf;application"):
        assert choose_remote_write_message(content_type) is V1
        return
    with pytest.raises(UnsupportedMediaTypeError, match=r"expected application/x-protobuf, with proto= one of"):
        choose_remote_write_message(content_type)


@pytest.mark.parametrize(("sent", "read"), [(V1, V2), (V2, V1)])
def test_a_body_that_is_read_as_the_other_message_is_malformed(
    sent: RemoteWriteMessage, read: RemoteWriteMessage
) -> None:
    with pytest.raises(MalformedError, match=rf"no field of {read.value}"):
        decode(ENCODERS[sent]([UP]), read)


@MESSAGES
def test_an_empty_body_has_no_points(message: RemoteWriteMessage) -> None:
    sink = decode(b"", message)
    assert (sink.points, sink.rejected) == ([], [])


def test_symbols_without_series_are_an_empty_request() -> None:
    assert decode(encode_request_2([]), V2).points == []


@MESSAGES
@pytest.mark.parametrize("body", [b"\x0a", b"\x0a\x05abc", b"\xff" * 20, b"<html>", b"{}"])
def test_bytes_that_are_not_the_message_are_malformed(body: bytes, message: RemoteWriteMessage) -> None:
    sink = RecordingSink()
    with pytest.raises(MalformedError, match=message.value):
        decode(body, message, sink)
    assert sink.points == []


@MESSAGES
def test_a_body_that_is_cut_off_is_malformed(message: RemoteWriteMessage) -> None:
    body = ENCODERS[message]([UP] * 3)
    with pytest.raises(MalformedError, match="cut off"):
        decode(body[:-1], message)


# ---------------------------------------------------------------- samples
@MESSAGES
def test_several_series_and_times_and_orders(message: RemoteWriteMessage) -> None:
    labels = [("host", "a"), ("__name__", "x"), ("empty", ""), ("b", "1")]
    series: list[RemoteSeries] = [
        (labels, [(TIME, 1.0), (TIME + 1, 2.5), (TIME - 9, -0.0)]),
        UP,
        (labels, [(TIME + 5, 0.0)]),
        (labels[::-1], [(TIME + 6, 4.0)]),
    ]
    sink = decode(ENCODERS[message](series), message)
    assert show(sink) == list_points(series)
    assert dict(sink.points[0][0].labels) == {"host": "a", "b": "1"}


@MESSAGES
def test_values_that_are_no_numbers(message: RemoteWriteMessage) -> None:
    labels = [("__name__", "x")]
    values = [1.0, math.nan, STALE, -math.inf, 3.4e38, 2.0]
    sink = decode(ENCODERS[message]([(labels, [(TIME, value) for value in values])]), message)
    assert [value for *_, value in show(sink)] == [1.0, "stale", 2.0]
    assert sink.skipped == {"missing value": 1}
    assert [str(error) for error in sink.rejected] == [
        "timeseries[0].samples[3]: the value is -inf, expected a number of magnitude below 1e30",
        "timeseries[0].samples[4]: the value is 3.4e+38, expected a number of magnitude below 1e30",
    ]
    assert {type(error) for error in sink.rejected} == {InvalidValueError}


@MESSAGES
@pytest.mark.parametrize("samples", [[(TIME, 1.0)], [(TIME, 0.0)], [(TIME, 1.0), (TIME + 1, math.inf)], [(1, 2.0)]])
@pytest.mark.parametrize("labels", [[], [("job", "node")], [("host", "h" * 200)]])
def test_a_metric_that_no_rule_wants_is_dropped_before_its_labels_are_read(
    message: RemoteWriteMessage, samples: list[tuple[int, float]], labels: list[tuple[str, str]]
) -> None:
    sink = RecordingSink(unwanted={"go_threads"})
    unwanted: RemoteSeries = ([("__name__", "go_threads"), *labels], samples)
    for _ in range(2):
        decode(ENCODERS[message]([unwanted, UP, unwanted]), message, sink)
    assert show(sink) == list_points([UP, UP])
    assert sink.ignored == 4 * len(samples)
    assert sink.rejected == []


@MESSAGES
@pytest.mark.parametrize("time", [0, 1, -1, TIME // 1000, TIME * 10**6, 2**63 - 1, -(2**63), 2**35 - 1, 2**35, 2**42])
@pytest.mark.parametrize("value", [0.0, 1.5])
def test_times_are_milliseconds_whatever_they_are(message: RemoteWriteMessage, time: int, value: float) -> None:
    sink = RecordingSink()
    body = ENCODERS[message]([([("__name__", "x")], [(time, value)])])
    for _ in range(2):
        decode(body, message, sink)
    assert [(point[1], point[2]) for point in sink.points] == [(time / 1000, value)] * 2


def test_a_series_is_known_however_its_samples_are_written() -> None:
    """The key is the labels: the entry is the same for one sample, for several, and for another order of fields."""
    sink, labels = RecordingSink(), [("__name__", "x"), ("long", "v" * 200)]
    decode(encode_request_1([(labels, [(TIME, 1.0), (TIME, 2.0)])]), V1, sink)
    decode(encode_request_1([(labels, [(TIME, 3.0)]), (labels, [(TIME, 0.0)]), (labels, [(0, 5.0)])]), V1, sink)
    backwards = encode_part(2, encode_sample(TIME, 6.0)) + encode_series_1((labels, []))
    decode(encode_part(1, backwards), V1, sink)
    assert [value for *_, value in sink.points] == [1.0, 2.0, 3.0, 0.0, 5.0, 6.0]
    assert len({id(series) for series, _, _ in sink.points}) == 1


def test_symbols_may_have_other_places_in_each_body() -> None:
    sink = RecordingSink()
    decode(encode_request_2([UP]), V2, sink)
    decode(encode_request_2([UP], ["", "x", "instance", "y", "up"]), V2, sink)
    assert len({id(series) for series, _, _ in sink.points}) == 1
    assert len(sink.points) == 2


def test_different_labels_never_have_the_same_key() -> None:
    """Labels with the same bytes, divided in another way; if a label has two names, the last one counts."""
    one, two = ([encode_part(1, b"__name__") + encode_part(2, b"x")], [encode_part(1, b"a") + encode_part(2, b"1")])
    sink = RecordingSink()
    for labels in ([*one, *two], [one[0] + two[0]], [*two, *one], [two[0] + one[0]]):
        series = b"".join(encode_part(1, label) for label in labels)
        decode(encode_part(1, series + encode_part(2, encode_sample(TIME, 1.0))), V1, sink)
    shown = [(name, labels) for name, labels, _, _ in show(sink)]
    assert shown == [("x", {"a": "1"}), ("x", {"a": "1"}), ("x", {})]
    assert len(sink.rejected) == 1
    sink = RecordingSink()
    for labels_2 in (
        [("__name__", "x"), ("ab", "c")],
        [("__name__", "x"), ("a", "bc")],
        [("__name__", "xab"), ("c", "d")],
    ):
        decode(encode_request_2([(labels_2, [(TIME, 1.0)])]), V2, sink)
    assert len({id(series) for series, _, _ in sink.points}) == 3


# ---------------------------------------------------------------- bad series among good ones
NAME = ("__name__", "x")
BAD_LABELS: dict[str, tuple[Sequence[tuple[str, str]], str]] = {
    "no name": ([("a", "b")], "the label __name__ is missing"),
    "an empty name": ([("__name__", "")], "the label __name__ is missing or empty"),
    "no labels": ([], "the label __name__ is missing"),
    "a label without a name": ([NAME, ("", "b")], "a label has no name"),
    "a repeated label": ([NAME, ("a", "1"), ("a", "2")], "the label 'a' is repeated"),
    "a repeated name": ([NAME, NAME], "the label '__name__' is repeated"),
    "a long name": ([NAME, ("n" * 1_025, "1")], "the name of a label has 1025 bytes"),
    "a long value": ([NAME, ("a", "é" * 513)], "the label 'a' has 1026 bytes"),
    "a long metric": ([("__name__", "n" * 1_025)], "the label '__name__' has 1025 bytes"),
    "too many labels": ([NAME, *((f"l{number}", "v") for number in range(65))], "66 labels, at most 65"),
}


@MESSAGES
@pytest.mark.parametrize(("labels", "expected"), BAD_LABELS.values(), ids=BAD_LABELS)
def test_a_bad_series_costs_only_itself(
    message: RemoteWriteMessage, labels: Sequence[tuple[str, str]], expected: str
) -> None:
    sink, counts = RecordingSink(), RemoteWriteCounts()
    body = ENCODERS[message]([UP, (labels, [(TIME, 1.0), (TIME + 1, 2.0)]), UP])
    for _ in range(2):
        list(decode_remote_write(body, sink, message, counts))
    assert len(sink.points) == 4
    assert len(sink.rejected) == 4
    assert counts.samples == 8
    assert {type(error) for error in sink.rejected} == {InvalidSampleError}
    assert str(sink.rejected[0]).startswith(f"timeseries[1]: {expected}")


def test_as_many_and_as_long_labels_as_are_taken() -> None:
    labels = [("__name__", "m" * 1_024), *((f"{number:064}", "v" * 1_024) for number in range(64))]
    for message in (V1, V2):
        assert show(decode(ENCODERS[message]([(labels, [(TIME, 1.0)])]), message)) == list_points(
            [(labels, [(TIME, 1)])]
        )


BAD_SERIES: dict[str, bytes] = {
    "no protobuf": b"\xff\xff",
    "a label cut off": b"\x0a\x09abc",
    "a label that is no label": encode_part(1, b"\xff") + encode_part(2, encode_sample(TIME, 1.0)),
    "a label that is not UTF-8": encode_part(1, encode_part(1, b"\xc3\x28")) + encode_part(2, encode_sample(TIME, 1.0)),
    "a sample cut off": encode_series_1(UP)[:-18] + b"\x12\x03\x09\x00\x00",
    "a sample without end": encode_series_1(UP)[:-6] + b"\xff" * 6,
    "too many samples": encode_series_1((UP[0], [(TIME, 1.0)] * (MAX_SERIES_BYTES // 18 + 1))),
    "samples of no bytes": encode_part(2, b""),
}


@pytest.mark.parametrize("series", BAD_SERIES.values(), ids=BAD_SERIES)
def test_a_damaged_series_costs_only_itself(series: bytes) -> None:
    sink, counts = RecordingSink(), RemoteWriteCounts()
    good = encode_part(1, encode_series_1(UP))
    list(decode_remote_write(good + encode_part(1, series) + good, sink, V1, counts))
    assert len(sink.points) == 2
    assert len(sink.rejected) == 1
    assert str(sink.rejected[0]).startswith("timeseries[1]: ")
    assert counts.samples == 3


BAD_REFERENCES: dict[str, tuple[Sequence[int], str]] = {
    "an odd number": ([1], "labels_refs has 1 items, expected an even number"),
    "no symbol": ([1, 99], "labels_refs has an index that is none of the 5 symbols"),
    "far off": ([1, 2**32 - 1], "labels_refs has an index that is none of the 5 symbols"),
    "a million": ([1, 2] * 100_000, "100000 labels, at most 65"),
    "none": ([], "the label __name__ is missing"),
}


@pytest.mark.parametrize(("references", "expected"), BAD_REFERENCES.values(), ids=BAD_REFERENCES)
def test_bad_references_cost_only_their_series(references: Sequence[int], expected: str) -> None:
    body = encode_request_2([UP]) + encode_part(5, encode_series_2(references, [(TIME, 1.0)]))
    sink = decode(body + encode_part(5, encode_series_2([1, 2, 3, 4], [(TIME, 3.0)])), V2)
    assert [value for *_, value in sink.points] == [1.0, 3.0]
    assert [str(error)[: len(expected) + 15] for error in sink.rejected] == [f"timeseries[1]: {expected}"]


@MESSAGES
def test_a_series_without_samples_is_not_kept(message: RemoteWriteMessage) -> None:
    """Its labels are not even checked: a series without samples has nothing to lose."""
    for labels in (UP[0], [("", "")]):
        sink = decode(ENCODERS[message]([(labels, [])]), message)
        assert (sink.points, sink.rejected) == ([], [])


# ---------------------------------------------------------------- hostile bodies
@pytest.mark.parametrize(
    "labels",
    [
        b"\x0a\x00" * 1_000_000,
        b"\x0a\x00" * 400_000,
        encode_part(1, encode_part(1, b"a" * 900_000) + encode_part(2, b"b")),
        b"\x0a\xff\xff\xff\xff\x07",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    ],
    ids=["a million labels", "half a million", "a long label", "2 GiB", "a negative length"],
)
def test_absurd_labels_are_rejected(labels: bytes) -> None:
    series = labels + encode_part(2, encode_sample(TIME, 1.0))
    good = encode_part(1, encode_series_1(UP))
    sink = decode(good + encode_part(1, series) + good)
    assert len(sink.points) == 2
    assert len(sink.rejected) == 1
    assert len(str(sink.rejected[0])) < 300


def test_a_long_symbol_is_not_multiplied_by_its_references() -> None:
    symbol = b"x" * 2**22
    series = encode_part(5, encode_series_2([0] * 130, [(TIME, 1.0)]))
    body = encode_part(4, symbol) + series * 1_000
    tracemalloc.start()
    sink = decode(body, V2)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(sink.rejected) == 1_000
    assert most < 4 * len(symbol)


MARKED = [b"__name__", b"x\xffa\xffb", b"x", b"a", b"b"]
LONG = [b"__name__", b"v" * 1_024, b"v" * 1_025, b"v" * 1_026]


@pytest.mark.parametrize(("symbols", "good", "bad"), [(MARKED, [0, 2, 3, 4], [0, 1]), (LONG, [0, 1], [0, 2])])
def test_a_symbol_that_is_no_label_never_makes_the_key_of_another_series(
    symbols: list[bytes], good: list[int], bad: list[int]
) -> None:
    sink = RecordingSink()
    body = b"".join(encode_part(4, symbol) for symbol in symbols)
    for references in (good, bad, [0, len(symbols) - 1], good):
        body += encode_part(5, encode_series_2(references, [(TIME, 1.0)]))
    for _ in range(2):
        decode(body, V2, sink)
    assert len({id(series) for series, _, _ in sink.points}) == (2 if symbols is MARKED else 1)
    assert [str(error)[:14] for error in sink.rejected].count("timeseries[1]:") == 2


@pytest.mark.parametrize(
    ("message", "part", "what"),
    [(V1, b"\x0a\x00", "series"), (V2, b"\x2a\x00", "series"), (V2, b"\x22\x00", "symbols")],
)
def test_too_many_parts_are_too_large(message: RemoteWriteMessage, part: bytes, what: str) -> None:
    decode(part * MAX_BODY_SERIES, message)
    with pytest.raises(TooLargeError, match=f"{MAX_BODY_SERIES + 1} {what}, at most {MAX_BODY_SERIES}"):
        decode(part * (MAX_BODY_SERIES + 1), message)


@MESSAGES
def test_a_series_of_too_many_samples_costs_only_itself(message: RemoteWriteMessage) -> None:
    many: RemoteSeries = (UP[0], [(0, 0.0)] * (MAX_SAMPLES_OF_SERIES + 1))
    sink = decode(ENCODERS[message]([UP, many, UP]), message)
    assert len(sink.points) == 2
    assert [str(error) for error in sink.rejected[:1]] == [
        f"timeseries[1]: has {MAX_SAMPLES_OF_SERIES + 1} samples, at most {MAX_SAMPLES_OF_SERIES} are taken"
    ]


@MESSAGES
def test_a_body_of_too_many_samples_is_too_large(message: RemoteWriteMessage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BODY_SAMPLES", 5_000)
    with pytest.raises(TooLargeError, match="over 5000 samples"):
        decode(ENCODERS[message]([(UP[0], [(0, 0.0)] * 3_000)] * 2), message)


@MESSAGES
def test_the_fields_of_a_large_body_are_counted_before_it_is_parsed(
    message: RemoteWriteMessage, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = b"\x0a\x00" if message is V1 else b"\x2a\x00"
    monkeypatch.setattr(module, "_COUNTED_BYTES", 1_000)
    decode(part * 1_000, message)
    monkeypatch.setattr(module, "_parse", None)
    with pytest.raises(TooLargeError, match=f"over {2 * MAX_BODY_SERIES} series, symbols"):
        decode(part * (2 * MAX_BODY_SERIES + 1), message)


@MESSAGES
def test_the_loop_gets_its_turn(message: RemoteWriteMessage) -> None:
    series: list[RemoteSeries] = [(UP[0], [(TIME + number, 1.0)]) for number in range(3 * SLICE_SERIES)]
    bodies = [ENCODERS[message](series), (b"\x0a\x00" if message is V1 else b"\x2a\x00") * 3 * SLICE_SERIES]
    for body in bodies:
        assert 2 <= sum(1 for _ in decode_remote_write(body, RecordingSink(), message)) <= 3
    long = ENCODERS[message]([(UP[0], [(TIME + number, 1.0) for number in range(SLICE_SERIES)])] * 4)
    assert sum(1 for _ in decode_remote_write(long, RecordingSink(), message)) == 4


# ---------------------------------------------------------------- anything
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
finite = st.floats(-9e29, 9e29)
samples = st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1) | st.integers(TIME, TIME + 9), finite), max_size=3)
any_labels = st.lists(st.tuples(texts, texts), max_size=4)
good_labels = st.dictionaries(texts.filter(lambda text: text not in ("", "__name__")), texts, max_size=4)


@st.composite
def make_good_series(draw: st.DrawFn) -> RemoteSeries:
    labels = [("__name__", draw(texts.filter(bool))), *draw(good_labels).items()]
    return draw(st.permutations(labels)), draw(samples)


def is_good(series: RemoteSeries) -> bool:
    names = [name for name, _ in series[0]]
    return len(set(names)) == len(names) and "" not in names and bool(dict(series[0]).get("__name__"))


@MESSAGES
@given(st.lists(make_good_series() | st.tuples(any_labels, samples), max_size=5))
def test_good_series_survive_beside_bad_ones(message: RemoteWriteMessage, series: list[RemoteSeries]) -> None:
    sink = RecordingSink()
    body = ENCODERS[message](series)
    for _ in range(2):
        sink.points.clear()
        sink.rejected.clear()
        decode(body, message, sink)
        assert show(sink) == list_points(each for each in series if is_good(each))
        assert len(sink.rejected) == sum(len(each[1]) for each in series if not is_good(each))


@given(st.lists(make_good_series(), max_size=4))
def test_the_naive_reader_reads_what_was_written(series: list[RemoteSeries]) -> None:
    for message, read in ((V1, read_request_1), (V2, read_request_2)):
        found = read(ENCODERS[message](series))
        assert [list(labels) for labels, _ in found] == [list(labels) for labels, _ in series]


REAL_BODIES = [read_agent_body(path) for path in AGENT_BODIES] + [path.read_bytes() for path in OFFICIAL_BODIES]


@st.composite
def mutate_bodies(draw: st.DrawFn) -> bytes:
    body = bytearray(draw(st.sampled_from(REAL_BODIES)))
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(body)))
        body[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(body[: draw(st.integers(0, len(body)) | st.just(len(body)))])


KNOWN = RecordingSink()
"""A sink that knows series already, so that their keys are found."""


@MESSAGES
@given(st.binary(max_size=300) | mutate_bodies())
def test_any_bytes_are_points_or_errors(message: RemoteWriteMessage, body: bytes) -> None:
    KNOWN.points.clear()
    KNOWN.rejected.clear()
    decode(REAL_BODIES[0], V1, KNOWN)
    with contextlib.suppress(MalformedError, TooLargeError):
        decode(body, message, KNOWN)
    for series, time, value in KNOWN.points:
        assert series.name
        assert all(series.labels)
        assert math.isfinite(time)
        assert not math.isinf(value)


@given(st.binary(min_size=1, max_size=40), st.integers(0, 60))
def test_a_damaged_series_never_costs_the_others(garbage: bytes, at: int) -> None:
    series = bytearray(encode_series_1(UP))
    series[at : at + len(garbage)] = garbage
    good = encode_part(1, encode_series_1(UP))
    sink = decode(good + encode_part(1, bytes(series)) + good)
    assert show(sink).count(list_points([UP])[0]) >= 2
