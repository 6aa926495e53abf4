"""Tests `streamd/tools/captures/formats.py`: the format of a body is recognised, and broken bodies are refused."""

import struct
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.mapping.series import SourceSeries
from streamd.tools.captures.capture import Capture, read_capture
from streamd.tools.captures.errors import CaptureError
from streamd.tools.captures.formats import CAPTURE_FORMATS, FormatReader, guess_format
from tests.support.recording_sink import RecordingSink

AGENTS = Path(__file__).parents[2] / "fixtures" / "agents"
FORMAT_OF = {
    "collectd": "collectd",
    "collectd-defaults": "collectd",
    "glances-influxdb2": "line_protocol",
    "glances-restful": "glances",
    "influxdb-client": "line_protocol",
    "netdata-json-average": "netdata",
    "netdata-remote-write": "remote_write",
    "node-exporter": "scrape",
    "opentelemetry": "otlp",
    "pcp2influxdb": "line_protocol",
    "pcp2json": "pcp",
    "prometheus": "remote_write",
    "vmagent": "remote_write",
}
FILES = sorted(AGENTS.glob("*/*.body"))


def make_capture(body: bytes, path: str = "", **headers: str) -> Capture:
    return Capture(file=Path("x.body"), body=body, path=path, headers=headers)


def read(capture: Capture, name: str | None = None) -> RecordingSink:
    sink = RecordingSink()
    FormatReader(sink, 1_000.0).read(capture, name or guess_format(capture))
    return sink


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_a_capture_is_recognised_with_its_request_and_without(file: Path) -> None:
    capture = read_capture(file)
    expected = FORMAT_OF[file.parent.name]
    assert guess_format(capture) == expected
    if file.stem != "empty":
        alone = replace(capture, body=file.read_bytes(), coding="identity", path="", headers={}, query={})
        if not file.read_bytes().startswith(b"\x1f\x8b"):
            assert guess_format(alone) == expected
            assert len(read(alone).points) == len(read(capture).points)


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"metrics": [{"name": "cpu", "fields": {"a": 1}, "tags": {}, "timestamp": 1}]}', "telegraf"),
        (b'{"name": "cpu", "fields": {"a": 1}, "tags": {}, "timestamp": 1}', "telegraf"),
        (b'[{"metric": "a.b", "timestamp": 1, "value": 2, "tags": {"host": "a"}}]', "opentsdb"),
        (b'{"resourceMetrics": []}', "otlp"),
        (b'{__name__="up", instance="a:1"} 1 1795898400000\n', "tsdb_dump"),
        (b'up{instance="a"} 1\n', "scrape"),
        (b"# HELP up Whether it is up.\n", "scrape"),
        (b"up 1\n", "scrape"),
        (b"cpu value=1\n", "line_protocol"),
        (b"cpu value=1 1795898400000000000\n", "line_protocol"),
        (b"cpu,host=a value=1\n" + "é".encode() * 40_000, "line_protocol"),
        (b'[{"host": "a", "dstypes": ["gauge"', "collectd"),
    ],
)
def test_a_format_is_recognised_by_its_content(body: bytes, name: str) -> None:
    assert guess_format(make_capture(body)) == name


def test_a_header_of_remote_write_says_more_than_the_path() -> None:
    capture = make_capture(b"\n", path="/write", **{"x-prometheus-remote-write-version": "2.0.0"})
    assert guess_format(capture) == "remote_write"


@pytest.mark.parametrize("body", [b"", b"  \n", b"[]", b"[1]", b"{}", b'"text"\0'])
def test_a_body_without_a_sign_of_a_format_is_not_guessed(body: bytes) -> None:
    if body.startswith(b'"'):
        assert guess_format(make_capture(body)) == "otlp"
        return
    with pytest.raises(CaptureError, match="its format cannot be recognised; give --protocol, one of remote_write"):
        guess_format(make_capture(body))


def make_version_2() -> bytes:
    """Return a request of remote write 2.0 with one sample of node_load1: 1.5 at the time 1 s."""
    symbols = [b"", b"__name__", b"node_load1", b"instance", b"web-01:9100"]
    series = bytes([0x0A, 4, 1, 2, 3, 4, 0x12, 12, 0x09]) + struct.pack("<d", 1.5) + bytes([0x10, 0xE8, 0x07])
    return b"".join(bytes([0x22, len(symbol)]) + symbol for symbol in symbols) + bytes([0x2A, len(series)]) + series


def test_the_version_of_remote_write_is_seen_without_a_content_type() -> None:
    (point,) = read(make_capture(make_version_2()), "remote_write").points
    assert point[0] == SourceSeries("node_load1", {"instance": "web-01:9100"})
    assert point[1:] == (1.0, 1.5)


def test_points_without_a_time_get_the_present_one_and_in_the_next_body_a_second_more() -> None:
    sink = RecordingSink()
    reader = FormatReader(sink, 1_000.0)
    for _ in range(2):
        reader.read(make_capture(b"cpu,host=a value=1"), "line_protocol")
    assert [time for _, time, _ in sink.points] == [1_000.0, 1_001.0]


def test_a_body_that_is_not_in_its_format_is_refused_with_file_and_format() -> None:
    for name in CAPTURE_FORMATS:
        if name not in ("line_protocol", "telegraf"):  # a line that cannot be read is rejected alone
            with pytest.raises(CaptureError, match=rf"^x.body: .*\(read as {name}\)"):
                read(make_capture(b"\xff\xfe{]"), name)


@given(st.binary(max_size=60), st.sampled_from(["", "/write", "/v1/metrics", "/api/v1/write", "/api/put"]))
def test_any_bytes_are_read_or_refused(body: bytes, path: str) -> None:
    with suppress(CaptureError):
        read(make_capture(body, path))


@given(st.sampled_from(FILES), st.integers(0, 5_000), st.binary(max_size=3), st.integers(0, 3))
def test_a_damaged_capture_is_read_or_refused(file: Path, place: int, inserted: bytes, removed: int) -> None:
    capture = read_capture(file)
    body = capture.body[:place] + inserted + capture.body[place + removed :]
    with suppress(CaptureError):
        read(replace(capture, body=body))
