"""Tests `streamd/http/protocols/prometheus.py`: the answers that senders of remote write get over a real socket."""

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import cramjam
import pytest

from streamd.core.errors import DrainingError, StorageError, StreamdError, TooBusyError, TooOldError
from streamd.http.requests import TransportLimits
from streamd.protocols.block_codings import decode_block
from streamd.rule_sets import load_rule_set
from tests.http.conftest import Start
from tests.support.http_harness import HttpDaemonSettings, Reply
from tests.support.memory_use import resident_bytes
from tests.support.remote_write_bodies import (
    FIXTURES,
    UP,
    RemoteSeries,
    encode_part,
    encode_request_1,
    encode_request_2,
    encode_varint,
    list_points,
    read_request_1,
)
from tests.support.remote_write_server import RecordingCollector, RemoteWriteServer, serve_remote_write

AGENTS = ("prometheus", "vmagent", "netdata-remote-write")
AGENT_BODIES = [path for agent in AGENTS for path in sorted((FIXTURES / "agents" / agent).glob("*.body"))]
V2 = "io.prometheus.write.v2.Request"
BAD: RemoteSeries = ([("no", "name")], [(1, 1.0), (2, 2.0)])


@pytest.fixture
def collector() -> RecordingCollector:
    return RecordingCollector()


@pytest.fixture
async def server(collector: RecordingCollector) -> AsyncIterator[RemoteWriteServer]:
    async with serve_remote_write(collector) as server:
        yield server


def snappy(data: bytes) -> bytes:
    return bytes(cramjam.snappy.compress_raw(data))


def read_capture(path: Path) -> tuple[dict[str, Any], bytes]:
    return json.loads(path.with_suffix(".json").read_text()), path.read_bytes()


def count_written(reply: Reply) -> list[int]:
    kinds = ("Samples", "Histograms", "Exemplars")
    return [int(reply.headers[f"X-Prometheus-Remote-Write-{kind}-Written"]) for kind in kinds]


def is_line(reply: Reply) -> bool:
    """Whether an error is one line of text, since that is what senders log."""
    text = reply.data.decode()
    return reply.headers["Content-Type"].startswith("text/plain") and text.count("\n") == 1 and text.endswith("\n")


# ---------------------------------------------------------------- what is taken
@pytest.mark.parametrize("path", AGENT_BODIES, ids=lambda path: f"{path.parent.name}/{path.stem}")
async def test_real_senders_are_answered_with_204(
    server: RemoteWriteServer, collector: RecordingCollector, path: Path
) -> None:
    sent, body = read_capture(path)
    headers = {name: value for name, value in sent["headers"] if name not in ("Host", "Content-Length")}
    reply = await server.post(body, path=sent["path"], headers=headers)
    assert (reply.status, reply.data) == (204, b"")
    (batch,) = collector.batches
    expected = read_request_1(decode_block("snappy", body, 2**23))
    assert len(batch.points) == len(list_points(expected))
    assert batch.rejected == []


@pytest.mark.parametrize("path", ["/api/v1/write", "/receive"])
@pytest.mark.parametrize(
    ("encoding", "compress"), [("snappy", snappy), ("SNAPPY", snappy), ("", snappy), ("zstd", cramjam.zstd.compress)]
)
async def test_codings(
    server: RemoteWriteServer,
    collector: RecordingCollector,
    encoding: str,
    compress: Callable[[bytes], bytes],
    path: str,
) -> None:
    headers = {"Content-Encoding": encoding} if encoding else {}
    reply = await server.post(bytes(compress(encode_request_1([UP]))), path=path, headers=headers)
    assert reply.status == 204
    assert len(collector.batches[0].points) == 1


@pytest.mark.parametrize("proto", ["", "prometheus.WriteRequest", V2])
async def test_an_empty_request_is_good(server: RemoteWriteServer, proto: str) -> None:
    """A sender sends one first, to find out whether a receiver accepts it."""
    assert (await server.write(b"", proto)).status == 204
    assert (await server.post(b"")).status == 204


async def test_good_samples_are_taken_beside_bad_ones_in_1_0(
    server: RemoteWriteServer, collector: RecordingCollector
) -> None:
    reply = await server.write(encode_request_1([UP, BAD, UP]))
    assert (reply.status, reply.data) == (204, b"")
    assert "X-Prometheus-Remote-Write-Samples-Written" not in reply.headers
    assert len(collector.batches[0].points) == 2
    assert len(collector.batches[0].rejected) == 2


async def test_a_partial_write_in_2_0_is_400_with_what_was_written(
    server: RemoteWriteServer, collector: RecordingCollector
) -> None:
    reply = await server.write(encode_request_2([UP, BAD, UP]), V2)
    assert reply.status == 400
    assert is_line(reply)
    assert reply.data.startswith(b"partial write: 2 of 4 samples were rejected: timeseries[1]: the label __name__ is")
    assert count_written(reply) == [2, 0, 0]
    assert len(collector.batches[0].points) == 2


async def test_samples_that_the_collector_rejects_are_not_written(
    server: RemoteWriteServer, collector: RecordingCollector
) -> None:
    collector.late_rejections = [TooOldError("up: the time is\ntoo old " + "x" * 2_000)] * 3
    reply = await server.write(encode_request_2([UP] * 5), V2)
    assert reply.status == 400
    assert count_written(reply) == [2, 0, 0]
    assert is_line(reply)
    assert len(reply.data) < 1_024
    assert (await server.write(encode_request_1([UP] * 5))).status == 204


async def test_what_is_accepted_and_not_used_counts_as_written(server: RemoteWriteServer) -> None:
    """Prometheus 3.x logs an error if fewer samples are confirmed than were sent; if 0 are, the request failed."""
    body = (FIXTURES / "remote_write" / "request-2.0.body").read_bytes()
    reply = await server.write(body, V2)
    assert (reply.status, reply.data) == (204, b"")
    assert count_written(reply) == [7, 1, 1]


# ---------------------------------------------------------------- what is refused
@pytest.mark.parametrize("content_type", ["application/json", "application/x-protobuf;proto=x.Y"])
async def test_another_type_is_415(server: RemoteWriteServer, collector: RecordingCollector, content_type: str) -> None:
    reply = await server.post(snappy(encode_request_1([UP])), {"Content-Type": content_type})
    assert reply.status == 415
    assert is_line(reply)
    assert b"proto= one of prometheus.WriteRequest, io.prometheus.write.v2.Request" in reply.data
    assert collector.batches == []


@pytest.mark.parametrize("encoding", ["gzip", "identity", "br", "snappy, snappy", "x-snappy-framed", "*"])
async def test_another_coding_is_415(server: RemoteWriteServer, encoding: str) -> None:
    body = encode_request_1([UP])
    body = gzip.compress(body) if encoding == "gzip" else body
    reply = await server.post(body, {"Content-Encoding": encoding})
    assert reply.status == 415
    assert is_line(reply)
    assert reply.headers["Accept-Encoding"] == "snappy, zstd"
    assert b"expected one of snappy, zstd" in reply.data


@pytest.mark.parametrize(("sent", "proto"), [(encode_request_1, V2), (encode_request_2, "")])
async def test_a_body_of_the_other_message_is_400_and_not_silently_empty(
    server: RemoteWriteServer, collector: RecordingCollector, sent: Callable[[list[RemoteSeries]], bytes], proto: str
) -> None:
    reply = await server.write(sent([UP]), proto)
    assert reply.status == 400
    assert b"proto= of the Content-Type" in reply.data
    assert [error.code for error in collector.refused] == ["malformed"]


BROKEN = {
    "not snappy": b"some text",
    "not compressed": encode_request_1([UP]),
    "snappy cut off": snappy(encode_request_1([UP]))[:-1],
    "framed snappy": bytes(cramjam.snappy.compress(encode_request_1([UP]))),
    "protobuf cut off": snappy(encode_request_1([UP])[:-1]),
    "another text": snappy(b'{"samples": []}'),
    "a length of 4 GiB": encode_varint(2**32 - 1) + b"\x00x",
    "a length of 32 GiB": encode_varint(2**35) + b"\x00x",
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("proto", ["", V2])
async def test_a_body_that_cannot_be_decoded_is_400(server: RemoteWriteServer, body: bytes, proto: str) -> None:
    content_type = "application/x-protobuf" + (proto and f";proto={proto}")
    reply = await server.post(body, {"Content-Type": content_type})
    assert reply.status == 400
    assert is_line(reply)
    assert (await server.write(encode_request_1([UP]))).status == 204


@pytest.mark.parametrize("coding", ["snappy", "zstd"])
async def test_a_body_that_is_too_large_is_400_since_vmagent_repeats_413_for_ever(
    collector: RecordingCollector, coding: str
) -> None:
    compress = snappy if coding == "snappy" else cramjam.zstd.compress
    async with serve_remote_write(collector, TransportLimits(max_body_bytes=1_000)) as server:
        for size, expected in ((1_000, 204), (1_001, 400)):
            body = encode_part(1, b"").ljust(size - 990, b"\n") + b"\n\x00" * 495
            reply = await server.post(bytes(compress(body[:size])), {"Content-Encoding": coding})
            assert len(body) == size
            assert reply.status == expected
        assert reply.data.startswith(b"too_large: ")
        reply = await server.post(b"x" * 1_001)
        assert (reply.status, reply.data[:10]) == (400, b"too_large:")


@pytest.mark.parametrize(
    ("coding", "compress"), [("snappy", cramjam.snappy.compress_raw), ("zstd", cramjam.zstd.compress)]
)
async def test_bombs_at_once_take_no_memory(
    server: RemoteWriteServer, coding: str, compress: Callable[[bytes], bytes]
) -> None:
    bomb = bytes(compress(bytes(2**26)))
    before = resident_bytes()
    replies = await asyncio.gather(*(server.post(bomb, {"Content-Encoding": coding}) for _ in range(20)))
    assert {reply.status for reply in replies} == {400}
    assert resident_bytes() - before < 128 * 2**20
    assert (await server.write(encode_request_1([UP]))).status == 204
    assert server.bodies.pending_bytes == 0


# ---------------------------------------------------------------- what may be sent again
@pytest.mark.parametrize("error", [TooBusyError("full"), DrainingError("stopping")])
async def test_an_overload_is_503_before_the_body_is_decoded(
    server: RemoteWriteServer, collector: RecordingCollector, error: StreamdError
) -> None:
    collector.open_error = error
    for body in (snappy(encode_request_1([UP])), b"not snappy"):
        reply = await server.post(body)
        assert reply.status == 503
        assert is_line(reply)
        assert int(reply.headers["Retry-After"]) >= 1
    assert collector.batches == []


async def test_points_that_cannot_be_stored_are_503(server: RemoteWriteServer, collector: RecordingCollector) -> None:
    collector.commit_error = StorageError("the disk is full")
    for proto, encode in (("", encode_request_1), (V2, encode_request_2)):
        reply = await server.write(encode([UP]), proto)
        assert reply.status == 503
        assert reply.data == b"storage: the disk is full\n"
        assert "Retry-After" in reply.headers


async def test_small_bodies_at_once_do_not_count_at_the_limit(collector: RecordingCollector) -> None:
    limits = TransportLimits(max_body_bytes=1_000, max_pending_body_bytes=1_000)
    collector.may_commit.clear()
    async with serve_remote_write(collector, limits) as server:
        body = encode_request_1([UP])
        sent = [asyncio.create_task(server.write(body)) for _ in range(8)]
        while len(collector.batches) < 8:
            await asyncio.sleep(0)
        assert server.bodies.pending_bytes == 8 * len(body)
        collector.may_commit.set()
        assert {(await each).status for each in sent} == {204}
        assert server.bodies.pending_bytes == 0


async def test_bodies_that_decode_to_too_much_at_once_are_503(collector: RecordingCollector) -> None:
    limits = TransportLimits(max_body_bytes=100_000, max_pending_body_bytes=100_000)
    body = encode_request_1([(UP[0], [(1, 1.0)] * 3_000)])
    collector.may_commit.clear()
    async with serve_remote_write(collector, limits) as server:
        assert 50_000 > len(body) > 33_334
        sent = [asyncio.create_task(server.write(body)) for _ in range(6)]
        refused = [await each for each in [asyncio.create_task(server.write(body)) for _ in range(4)]]
        assert {reply.status for reply in refused} == {503}
        assert server.bodies.pending_bytes <= limits.max_pending_body_bytes + len(body)
        collector.may_commit.set()
        assert {(await each).status for each in sent} <= {204, 503}
        assert server.bodies.pending_bytes == 0


# ---------------------------------------------------------------- with the real collector
async def test_points_reach_the_collector(start: Start) -> None:
    daemon = await start(HttpDaemonSettings(rule_sets=[load_rule_set("node_exporter")]))
    collector = daemon.service.collector
    now = int(time.time() * 1000)
    host = ("instance", "web-01:9100")
    series: list[RemoteSeries] = [
        ([("__name__", "node_load1"), host], [(now, 1.5)]),
        ([("__name__", "node_load1"), host], [(0, 1.5)]),
        ([("__name__", "go_threads"), host], [(now, 9.0)]),
    ]
    async with serve_remote_write(collector) as server:
        assert (await server.write(encode_request_1(series[::2]))).status == 204
        reply = await server.write(encode_request_2(series), V2)
    assert reply.status == 400
    assert count_written(reply) == [2, 0, 0]
    counts = collector.counts["remote_write"]
    assert counts.taken == 2
    assert counts.ignored.total() == 2
    assert counts.rejected == {"too_old": 1}
