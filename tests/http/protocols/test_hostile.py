"""Tests `streamd/http/protocols/`: each hostile body gets its documented answer, and costs nobody else anything."""

import asyncio
import gzip
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cramjam
import pytest

from streamd.http.requests import TransportLimits
from streamd.rule_sets import list_rule_sets, load_rule_set
from tests.support.http_harness import HttpDaemon, HttpDaemonSettings, run_http_daemon
from tests.support.remote_write_bodies import encode_part, encode_request_1, encode_request_2, encode_varint

LIMIT = 300_000
NOW = int(time.time())
V2 = "application/x-protobuf;proto=io.prometheus.write.v2.Request"
PROTOBUF = {"Content-Type": "application/x-protobuf"}
SNAPPY = PROTOBUF | {"Content-Encoding": "snappy"}
SNAPPY_2 = {"Content-Type": V2, "Content-Encoding": "snappy"}
JSON = {"Content-Type": "application/json"}
JSON_PATHS = ("/collectd", "/api/put", "/glances", "/pcp", "/telegraf")
GZIP_PATHS = (*JSON_PATHS, "/write", "/api/v2/write", "/v1/metrics")
LOAD = "node_load1"


class Case(NamedTuple):
    """One body: where it is sent, and the status and a part of the answer."""

    name: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    status: int
    text: str = ""


def snappy(data: bytes) -> bytes:
    return bytes(cramjam.snappy.compress_raw(data))


def series(server: str, *samples: tuple[int, float], **labels: str) -> Any:
    return [("__name__", LOAD), ("server", server), *labels.items()], list(samples) or [(NOW * 1000, 1.0)]


def write(*many: Any) -> bytes:
    return snappy(encode_request_1(many))


def otlp_point(server: str, value: float, nanoseconds: int) -> bytes:
    """Encode a gauge of one point by hand."""
    point = b"\x19" + struct.pack("<Q", nanoseconds) + b"\x21" + struct.pack("<d", value)
    metric = encode_part(1, b"system.cpu.load_average.1m") + encode_part(5, encode_part(1, point))
    name = encode_part(1, b"host.name") + encode_part(2, encode_part(1, server.encode()))
    return encode_part(1, encode_part(1, encode_part(1, name)) + encode_part(2, encode_part(2, metric)))


def make_zstd_stream(data: bytes) -> bytes:
    """Compress without the size of the content in the frame's head."""
    compressor = cramjam.zstd.Compressor()
    compressor.compress(data)
    return bytes(compressor.finish())


LONG = "x" * 257
FAR = [0, 1, -1, 2**63 - 1, -(2**63), NOW * 10**6, (NOW + 86_400) * 1_000]


def list_bombs() -> list[Case]:
    bomb = bytes(20 * LIMIT)
    gzip_bomb = gzip.compress(bomb)
    return [
        *(Case("gzip", path, {**JSON, "Content-Encoding": "gzip"}, gzip_bomb, 413) for path in GZIP_PATHS),
        Case(
            "zstd", "/api/v1/write", {**PROTOBUF, "Content-Encoding": "zstd"}, bytes(cramjam.zstd.compress(bomb)), 400
        ),
        Case("zstd stream", "/api/v1/write", {**PROTOBUF, "Content-Encoding": "zstd"}, make_zstd_stream(bomb), 400),
        Case("snappy", "/api/v1/write", SNAPPY, snappy(bomb), 400, f"at most {LIMIT}"),
        Case("snappy of 4 GiB", "/receive", SNAPPY, encode_varint(2**32 - 1) + b"abc", 400, f"at most {LIMIT}"),
        Case("snappy that lies", "/api/v1/write", SNAPPY, encode_varint(LIMIT) + write(series("a"))[1:], 400, "snappy"),
        *(Case("plain", path, JSON, b" " * (LIMIT + 1), 413) for path in GZIP_PATHS),
        Case("plain", "/api/v1/write", SNAPPY, bytes(LIMIT + 1), 400, "too_large"),
    ]


def list_codings_and_types() -> list[Case]:
    return [
        *(Case("brotli", path, {**JSON, "Content-Encoding": "br"}, b"[]", 415) for path in GZIP_PATHS),
        *(Case("two codings", path, {**JSON, "Content-Encoding": "gzip, gzip"}, b"[]", 415) for path in GZIP_PATHS),
        Case("gzip", "/api/v1/write", {**PROTOBUF, "Content-Encoding": "gzip"}, gzip.compress(b""), 415),
        Case("text", "/api/v1/write", {"Content-Type": "text/plain"}, write(series("a")), 415),
        Case("another message", "/api/v1/write", {"Content-Type": "application/x-protobuf;proto=x.Y"}, b"", 415),
        Case("2.0 as 1.0", "/api/v1/write", SNAPPY, snappy(encode_request_2([series("a")])), 400, "proto="),
        Case("text", "/v1/metrics", {"Content-Type": "text/plain"}, b"{}", 415),
        Case("not gzip", "/write", {"Content-Encoding": "gzip"}, b"system,host=a load1=1", 400),
        Case("half a gzip", "/write", {"Content-Encoding": "gzip"}, gzip.compress(b"system,host=a load1=1")[:-9], 400),
    ]


def list_broken() -> list[Case]:
    return [
        *(
            Case("binary", path, JSON, b"\xff\x00\xfe" * 100, 400)
            for path in ("/collectd", "/api/put", "/glances", "/pcp")
        ),
        *(Case("nested", path, JSON, b"[" * 100_000, 400) for path in ("/collectd", "/api/put", "/glances", "/pcp")),
        *(Case("nested objects", path, JSON, b'{"a":' * 50_000, 400) for path in (*JSON_PATHS, "/v1/metrics")),
        *(Case("empty", path, JSON, b"", 400) for path in ("/collectd", "/api/put", "/glances", "/pcp")),
        *(Case("cut off", path, JSON, b'[{"host":"a"', 400) for path in ("/collectd", "/api/put", "/glances", "/pcp")),
        Case("cut off", "/api/v1/write", SNAPPY, snappy(encode_request_1([series("a")])[:-3]), 400, "cut off"),
        Case("cut off", "/v1/metrics", PROTOBUF, otlp_point("a", 1.0, NOW * 10**9)[:-3], 400),
        Case("a group", "/v1/metrics", PROTOBUF, b"\x0b\x0c", 400),
        Case("cut off", "/v1/metrics", JSON, b'{"resourceMetrics":[{', 400),
        Case("binary", "/write", {}, b"\xff\x00\xfe" * 100, 400, "partial write"),
        Case("binary", "/telegraf", {}, b"\xff\x00\xfe" * 100, 200, '"rejected": 1'),
        Case("a bad precision", "/write?precision=%00%0a", {}, b"m f=1", 400, "precision"),
    ]


def list_labels() -> list[Case]:
    return [
        Case(
            "100,000 labels", "/api/v1/write", SNAPPY, write(series("a", **{f"l{i}": "" for i in range(20_000)})), 204
        ),
        Case(
            "100,000 labels",
            "/api/v1/write",
            SNAPPY_2,
            snappy(encode_request_2([series("a", **{f"l{i}": "v" for i in range(20_000)})])),
            400,
            "20002 labels, at most 65",
        ),
        Case("a long label", "/api/v1/write", SNAPPY, write(series("a", l="v" * 200_000)), 204),
        Case("a long label", "/write", {}, b"system,host=a,x=" + b"v" * 200_000 + b" load1=1", 400, "at most 1024"),
        Case("many tags", "/write", {}, b"system,host=a" + b",x=1" * 50_000 + b" load1=1", 400, "more than 62 tags"),
        Case(
            "a repeated label",
            "/api/v1/write",
            SNAPPY,
            write(([("__name__", LOAD), ("a", "1"), ("a", "2")], [(1, 1)])),
            204,
        ),
        Case("many samples", "/api/v1/write", SNAPPY, write(series("a", *[(0, 0.0)] * 30_000)), 204),
    ]


def list_names() -> list[Case]:
    return [
        Case("long", "/api/v1/write", SNAPPY, write(series(LONG)), 204),
        Case("long", "/api/v1/write", SNAPPY_2, snappy(encode_request_2([series(LONG)])), 400, "server has 257 bytes"),
        Case("long", "/write", {}, f"system,host={LONG} load1=1".encode(), 400, "server has 257 bytes"),
        Case("empty", "/api/v1/write", SNAPPY, write(series("")), 204),
        Case(
            "control characters far ahead",
            "/write?precision=s",
            {},
            b"system,host=a\x00\x7f\x0b load1=1 9999999999",
            400,
        ),
        Case("a slash and dots", "/write", {}, b"system,host=../a/b load1=1", 204),
        Case("control characters", "/write", {}, b"system,host=a\x00\x1b load1=1", 204),
        Case("long", "/v1/metrics", PROTOBUF, otlp_point(LONG, 1.0, NOW * 10**9), 200),
    ]


def list_clocks() -> list[Case]:
    return [
        *(Case(f"at {at}", "/api/v1/write", SNAPPY, write(series("good", (at, 1.0))), 204) for at in FAR),
        *(Case(f"at {at}", "/write?precision=ms", {}, b"system,host=good load1=1 %d" % at, 400) for at in FAR),
        *(Case(f"at {at}", "/v1/metrics", PROTOBUF, otlp_point("good", 1.0, at & 2**64 - 1), 200) for at in FAR if at),
        Case("NaN", "/collectd", JSON, b'[{"values":[1],"dstypes":["gauge"],"dsnames":["value"],"time":NaN}]', 200),
        Case("text", "/write", {}, b"system,host=good load1=1 yesterday", 400, "expected an integer"),
    ]


def list_values() -> list[Case]:
    return [
        Case(
            "inf",
            "/api/v1/write",
            SNAPPY_2,
            snappy(encode_request_2([series("a", (NOW, float("inf")))])),
            400,
            "below 1e30",
        ),
        Case("nan", "/api/v1/write", SNAPPY, write(series("good", (NOW * 1000, float("nan")))), 204),
        Case("inf", "/write", {}, b"system,host=good load1=inf", 400, "below 1e30"),
        Case("huge", "/write", {}, b"system,host=good load1=1e999", 400, "below 1e30"),
        Case("digits", "/write", {}, b"system,host=good load1=" + b"9" * 100_000 + b"i", 400, "64 bits"),
        Case("inf", "/v1/metrics", PROTOBUF, otlp_point("good", float("-inf"), NOW * 10**9), 200),
        Case("digits", "/api/put", JSON, b'[{"metric":"m","timestamp":1,"value":' + b"9" * 100_000 + b"}]", 400),
    ]


def list_cases() -> list[Case]:
    """Make all bodies, megabytes of them: for the only test that sends them, and not when the tests are collected."""
    return [
        *list_bombs(),
        *list_codings_and_types(),
        *list_broken(),
        *list_labels(),
        *list_names(),
        *list_clocks(),
        *list_values(),
    ]


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[HttpDaemon]:
    settings = HttpDaemonSettings(
        rule_sets=[load_rule_set(name) for name in list_rule_sets()],
        limits=TransportLimits(max_body_bytes=LIMIT, body_timeout_seconds=0.2),
    )
    async with run_http_daemon(tmp_path, settings) as daemon:
        yield daemon


async def send(daemon: HttpDaemon, case: Case) -> tuple[int, str]:
    reply = await daemon.call("POST", case.path, case.body, case.headers)
    return reply.status, reply.data.decode("utf-8", "replace")


def get_agents(status: Mapping[str, Any]) -> Any:
    return status["agents"]


def count_results(agents: Mapping[str, Any], kind: str) -> int:
    return sum(sum(counts[kind].values()) for counts in agents["protocols"].values())


async def test_every_hostile_body_gets_its_answer_and_good_points_are_taken(
    daemon: HttpDaemon, capfd: pytest.CaptureFixture[str]
) -> None:
    cases, wrong = list_cases(), []
    for number, case in enumerate(cases):
        status, text = await send(daemon, case)
        if status != case.status or case.text not in text:
            wrong.append(f"{case.path}, {case.name}: {status} {text[:200]}")
        sent = await daemon.call("POST", "/api/v1/write", write(series("good", (NOW * 1000 + number, 1.0))), SNAPPY)
        assert sent.status == 204
    assert wrong == []
    agents = get_agents(await daemon.status())
    assert daemon.service.collector.table.servers["good"].count_points() >= len(cases)
    assert count_results(agents, "rejected") > 0
    assert "Traceback" not in "".join(capfd.readouterr())


async def test_each_point_is_counted_once(daemon: HttpDaemon) -> None:
    now = NOW * 1000
    many = [
        series("a", (now, 1.0), (now + 1, 2.0), (now, 1.0)),
        series("b", (now, float("nan")), (now, float("inf"))),
        series("", (now, 1.0)),
        ([("__name__", "unknown"), ("server", "a")], [(now, 1.0)]),
        series(LONG, (now, 1.0)),
        series("c", (NOW * 10**9, 1.0)),
        ([("no", "name")], [(now, 1.0)]),
    ]
    await daemon.call("POST", "/api/v1/write", write(*many, *reversed(many)), SNAPPY)
    counts = get_agents(await daemon.status())["protocols"]["remote_write"]
    assert counts["taken"] == 6
    assert counts["ignored"] == {"no_server": 2, "no_rule": 2}
    assert counts["skipped"] == {"missing value": 2}
    assert counts["rejected"] == {
        "invalid_value": 2, "invalid_server": 2, "too_far_ahead": 2, "invalid_sample": 2
    }  # fmt: skip


async def test_a_sender_of_ever_new_servers_and_series_leaves_nothing_but_what_is_bounded(daemon: HttpDaemon) -> None:
    """There are 256 slots. The first servers get them, and nothing is kept of the others but some keys."""
    for begin in range(0, 3_000, 1_000):
        many = [series(f"server-{number}") for number in range(begin, begin + 1_000)]
        assert (await daemon.call("POST", "/api/v1/write", write(*many), SNAPPY)).status == 204
    agents = get_agents(await daemon.status())
    assert (agents["servers"], agents["series"], agents["points"]) == (256, 256, 256)
    assert agents["protocols"]["remote_write"]["taken"] == 256
    assert agents["protocols"]["remote_write"]["rejected"] == {"no_capacity": 2_744}
    table = daemon.service.collector.table
    assert len(table.servers) == len(table.get_entries("remote_write")) == 256
    assert len(table.refused) == 2_744


async def test_two_agents_of_one_name_fill_the_same_row_once(daemon: HttpDaemon) -> None:
    begin = (NOW // 60 - 5) * 60
    for path, headers, body in (
        ("/api/v1/write", SNAPPY, write(series("two", (begin * 1000, 1.0), (begin * 1000 + 60_000, 9.0)))),
        ("/v1/metrics", PROTOBUF, otlp_point("two", 3.0, (begin + 1) * 10**9)),
        ("/api/v1/write", SNAPPY, write(series("two", (begin * 1000, 1.0), (begin * 1000 + 60_000, 9.0)))),
    ):
        assert (await daemon.call("POST", path, body, headers)).status in (200, 204)
    row = (await daemon.window("two"))[-1]
    assert row[2] == 1.0, "the first rule set with a value wins; nothing counts twice"


async def test_bodies_that_never_end_and_peers_that_leave_hold_up_nobody(daemon: HttpDaemon) -> None:
    head = b"POST /write HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nsystem,host=slow load1=1"
    peers = [await asyncio.open_connection("127.0.0.1", daemon.port) for _ in range(20)]
    for number, (_, writer) in enumerate(peers):
        writer.write(head)
        await writer.drain()
        if number % 2:
            raw = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.close()
    reply = await daemon.call("POST", "/write", b"system,host=good load1=1", {})
    assert reply.status == 204
    for reader, writer in peers[::2]:
        assert (await reader.readline()).startswith(b"HTTP/1.1 400")
        writer.close()
    assert list(daemon.service.collector.table.servers) == ["good"]


async def test_a_body_that_is_sent_again_after_503_counts_once(daemon: HttpDaemon) -> None:
    body = write(*(series("again", (NOW * 1000 + number, float(number))) for number in range(10)))
    daemon.service.collector.is_draining = True
    refused = await daemon.call("POST", "/api/v1/write", body, SNAPPY)
    assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
    daemon.service.collector.is_draining = False
    for _ in range(2):
        assert (await daemon.call("POST", "/api/v1/write", body, SNAPPY)).status == 204
    begin = (NOW // 60 + 1) * 60_000
    await daemon.call("POST", "/api/v1/write", write(series("again", (begin, 0.0))), SNAPPY)
    assert (await daemon.window("again"))[-1][2] == 4.5


async def test_json_answers_are_json_whatever_was_sent(daemon: HttpDaemon) -> None:
    for body in (
        b'[{"metric":"\\ud800","timestamp":1,"value":"\\ud800"}]',
        b'[{"metric":"a","timestamp":[],"value":{}}]',
    ):
        reply = await daemon.call("POST", "/api/put?details", body, JSON)
        assert reply.status == 400
        assert json.loads(reply.data)["failed"] == 1
