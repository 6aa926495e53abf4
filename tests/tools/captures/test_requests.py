"""Tests `streamd/tools/captures/requests.py`: captured bodies become the requests that the agents sent."""

import gzip
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import cramjam
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.protocols.block_codings import decode_block
from streamd.tools.captures.capture import Capture, read_capture
from streamd.tools.captures.errors import CaptureError
from streamd.tools.captures.formats import CAPTURE_FORMATS, guess_format
from streamd.tools.captures.requests import CapturedRequest, make_requests
from tests.support.agent_fixtures import AGENTS
from tests.support.remote_write_bodies import UP, encode_request_1, encode_request_2


def make(capture: Capture) -> list[CapturedRequest]:
    return list(make_requests(capture, guess_format(capture)))


def make_capture(body: bytes, **more: str) -> Capture:
    return Capture(file=Path("x.body"), body=body, sent=body, **more)  # type: ignore[arg-type]


def test_a_described_body_is_sent_as_it_was_without_the_headers_of_its_connection() -> None:
    file = AGENTS / "prometheus" / "samples.body"
    (request,) = make(read_capture(file))
    assert (request.path, request.body) == ("/api/v1/write", file.read_bytes())
    assert request.headers == {
        "user-agent": "Prometheus/2.42.0+ds",
        "content-encoding": "snappy",
        "content-type": "application/x-protobuf",
        "x-prometheus-remote-write-version": "0.1.0",
    }


def test_a_described_body_keeps_its_query() -> None:
    (request,) = make(read_capture(AGENTS / "influxdb-client" / "gzip.body"))
    assert request.path == "/api/v2/write"
    assert request.query == {"org": "lab", "bucket": "fleet", "precision": "ns"}
    assert request.headers["content-encoding"] == "gzip"


def test_a_path_that_the_daemon_does_not_have_becomes_the_one_of_the_format() -> None:
    capture = replace(read_capture(AGENTS / "vmagent" / "samples.body"), path="/insert/0/prometheus")
    assert make(capture)[0].path == "/api/v1/write"
    capture = replace(read_capture(AGENTS / "collectd" / "rates-1.body"), path="/x")
    assert make(capture)[0].path == "/collectd"


def test_a_body_that_was_compressed_after_it_was_captured_is_sent_without() -> None:
    capture = read_capture(AGENTS / "collectd" / "rates-1.body")
    packed = replace(capture, sent=gzip.compress(capture.body), coding="gzip")
    assert make(packed)[0].body == capture.body


@pytest.mark.parametrize(
    ("name", "path", "content_type"),
    [
        ("collectd/rates-1", "/collectd", "application/json"),
        ("netdata-json-average/average-1", "/api/put", "application/json"),
        ("glances-restful/refresh-1", "/glances", "application/json"),
        ("opentelemetry/second", "/v1/metrics", "application/x-protobuf"),
        ("glances-influxdb2/lines-1", "/api/v2/write", "text/plain"),
        ("influxdb-client/gzip", "/api/v2/write", "text/plain"),
    ],
)
def test_a_body_without_description_gets_the_usual_path_and_type(
    tmp_path: Path, name: str, path: str, content_type: str
) -> None:
    file = tmp_path / "alone.body"
    file.write_bytes((AGENTS / f"{name}.body").read_bytes())
    capture = read_capture(file)
    (request,) = make(capture)
    assert (request.path, request.headers) == (path, {"Content-Type": content_type})
    assert request.body == capture.body


@pytest.mark.parametrize("compress", [bytes, cramjam.snappy.compress_raw, cramjam.zstd.compress])
@pytest.mark.parametrize("is_version_2", [False, True])
def test_remote_write_without_description_is_sent_as_snappy_of_its_version(
    tmp_path: Path, compress: type[bytes], is_version_2: bool
) -> None:
    plain = encode_request_2([UP]) if is_version_2 else encode_request_1([UP])
    file = tmp_path / "x.body"
    file.write_bytes(bytes(compress(plain)))
    (request,) = make_requests(read_capture(file), "remote_write")
    assert decode_block("snappy", request.body, 10_000) == plain
    assert request.headers["Content-Encoding"] == "snappy"
    assert ("write.v2.Request" in request.headers["Content-Type"]) is is_version_2


def test_the_output_of_pcp2json_is_cut_into_bodies_without_its_comments() -> None:
    for name in ("default-stdout", "no-header-exact"):
        (request,) = make(read_capture(AGENTS / "pcp2json" / f"{name}.body"))
        assert request.path == "/pcp"
        assert request.body.startswith(b'{"@pcp":{"@hosts":[')


def test_what_no_agent_pushes_is_refused() -> None:
    with pytest.raises(CaptureError, match="is scrape, which no agent pushes; let Prometheus or vmagent scrape"):
        make(read_capture(AGENTS / "node-exporter" / "scrape.body"))
    with pytest.raises(CaptureError, match=r"x\.body: the input ends in the middle of a document \(read as pcp\)"):
        list(make_requests(make_capture(b'{"@pcp": {'), "pcp"))
    wrong = replace(make_capture(b""), headers={})
    with pytest.raises(CaptureError, match="its format cannot be recognised"):
        make(wrong)


@given(st.binary(max_size=60), st.sampled_from(sorted(CAPTURE_FORMATS)), st.booleans())
def test_any_bytes_become_requests_or_are_refused(body: bytes, name: str, is_described: bool) -> None:
    capture = replace(make_capture(body), headers={"content-type": "a"} if is_described else {})
    with suppress(CaptureError):
        assert all(request.path.startswith("/") for request in make_requests(capture, name))
