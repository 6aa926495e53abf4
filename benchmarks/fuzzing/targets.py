"""The decoders that are fuzzed: how a body is decoded, its seeds, and how a damaged part is put beside good ones.

Each `enclose` function returns a body in which the part stands between good points of the server `SENTINEL`, and how
many of these must be taken whatever the part is; `None` if the part cannot be enclosed.
"""

import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cramjam
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from benchmarks.agent_bodies import (
    make_collectd,
    make_lines,
    make_netdata,
    make_otlp,
    make_otlp_json,
    make_remote_write_1,
    make_remote_write_2,
    make_telegraf_json,
)
from benchmarks.fuzzing.checks import SENTINEL, Finding
from benchmarks.fuzzing.mutations import BodyShape
from benchmarks.fuzzing.wire import encode_field
from benchmarks.harness import ROOT
from streamd.core.errors import MalformedError, TooLargeError
from streamd.core.mapping.series import PointSink
from streamd.http.compression import Decompressor
from streamd.protocols.block_codings import decode_block
from streamd.protocols.collectd import CollectdDecoder
from streamd.protocols.glances import decode_glances
from streamd.protocols.line_protocol import TIME_UNITS, decode_line_protocol
from streamd.protocols.netdata import decode_netdata
from streamd.protocols.opentsdb import PutBody
from streamd.protocols.otlp.json import decode_otlp_json
from streamd.protocols.otlp.protobuf import decode_otlp_protobuf
from streamd.protocols.pcp import decode_pcp, split_documents
from streamd.protocols.prometheus.remote_write import RemoteWriteMessage, decode_remote_write
from streamd.protocols.prometheus.tsdb_dump import read_tsdb_dump
from streamd.protocols.telegraf import decode_telegraf

AGENTS = ROOT / "tests" / "fixtures" / "agents"
NOW = 1_795_899_000.0
LIMIT_BYTES = 2**23
"""Of decompressed bodies; the daemon's default."""

REFUSALS = (MalformedError, TooLargeError)
"""The errors with which a decoder of a foreign protocol may refuse a body."""

Sink = PointSink[Any]
Enclosed = tuple[bytes, int] | None


@dataclass(frozen=True, kw_only=True)
class FuzzTarget:
    """One decoder."""

    name: str
    shape: BodyShape
    decode: Callable[[bytes, Sink], Iterator[None]]
    list_seeds: Callable[[], list[bytes]]
    enclose: Callable[[bytes], Enclosed] = lambda part: None
    is_stateless: bool = True
    """Whether a body gives the same points each time."""
    can_end: bool = False
    """Whether its protocol says that a series ends; else no value may be NaN."""
    refusals: tuple[type[Exception], ...] = REFUSALS
    """The errors with which it may refuse a body."""


def read_fixtures(*patterns: str) -> list[bytes]:
    """Return the bodies of agents whose place matches."""
    return [path.read_bytes() for pattern in patterns for path in sorted(AGENTS.glob(f"{pattern}.body"))]


def is_shallow(text: bytes) -> bool:
    """Whether a JSON text is nested so little that no reader gives up on it."""
    return max(text.count(b"["), text.count(b"{")) < 400


def _parse_json(part: bytes, *, is_strict: bool = False) -> bytes | None:
    """Return a part that is JSON; `None` if it is none. What is strict is valid: no NaN, no half of a
    surrogate pair."""
    try:
        value = json.loads(part)
        if is_strict:
            json.dumps(value, ensure_ascii=False).encode()  # raises `ValueError` for half a surrogate pair
        return json.dumps(value, allow_nan=not is_strict).encode() if is_shallow(part) else None
    except (ValueError, RecursionError):
        return None


def _join_items(good: Any, part: bytes, form: str = "[%s,%s,%s]", *, is_strict: bool = False) -> Enclosed:
    parsed = _parse_json(part, is_strict=is_strict)
    if parsed is None:
        return None
    shown = json.dumps(good)
    return (form % (shown, parsed.decode(), shown)).encode(), 2


# ---------------------------------------------------------------- remote write
def _list_remote_write_seeds() -> list[bytes]:
    decompress = cramjam.snappy.decompress_raw
    made = make_remote_write_1(range(1), 0)
    bodies = [*read_fixtures("prometheus/*", "vmagent/*", "netdata-remote-write/*"), made]
    return [b"", *(bytes(decompress(body)) for body in bodies)]


def _list_remote_write_2_seeds() -> list[bytes]:
    return [b"", bytes(cramjam.snappy.decompress_raw(make_remote_write_2(range(1), 0)))]


def _compress(body: bytes) -> bytes:
    """Pass a part of the bodies through a coding, as the route does; the choice depends on the body only."""
    choice = zlib.crc32(body) % 8
    if choice > 1 or not body:
        return body
    coding, compress = (("snappy", cramjam.snappy.compress_raw), ("zstd", cramjam.zstd.compress))[choice]
    decoded = decode_block(coding, bytes(compress(body)), LIMIT_BYTES)
    if decoded != body:
        raise Finding(f"{coding}: {len(body)} bytes became {len(decoded)} others")
    return decoded


def _decode_remote_write_1(body: bytes, sink: Sink) -> Iterator[None]:
    return decode_remote_write(_compress(body), sink, RemoteWriteMessage.VERSION_1)


def _decode_remote_write_2(body: bytes, sink: Sink) -> Iterator[None]:
    return decode_remote_write(_compress(body), sink, RemoteWriteMessage.VERSION_2)


_SAMPLE = bytes.fromhex("090000000000001140") + b"\x10" + bytes.fromhex("c089b09fa234")


def _enclose_remote_write(part: bytes) -> Enclosed:
    label = encode_field(1, encode_field(1, b"__name__") + encode_field(2, b"up"))
    label += encode_field(1, encode_field(1, b"server") + encode_field(2, SENTINEL.encode()))
    good = encode_field(1, label + encode_field(2, _SAMPLE))
    return good + encode_field(1, part) + good, 2


def _enclose_remote_write_2(part: bytes) -> Enclosed:
    texts = (b"", b"__name__", b"up", b"server", SENTINEL.encode())
    good = encode_field(5, encode_field(1, b"\x01\x02\x03\x04") + encode_field(2, _SAMPLE))
    return b"".join(encode_field(4, text) for text in texts) + good + encode_field(5, part) + good, 2


# ---------------------------------------------------------------- OTLP
def _make_otlp_sentinel() -> ExportMetricsServiceRequest:
    request = ExportMetricsServiceRequest()
    resource = request.resource_metrics.add()
    resource.resource.attributes.add(key="host.name").value.string_value = SENTINEL
    metric = resource.scope_metrics.add().metrics.add(name="system.cpu.load_average.1m")
    metric.gauge.data_points.add(time_unix_nano=int(NOW * 1e9), as_double=4.25)
    return request


def _enclose_otlp(part: bytes) -> Enclosed:
    good = _make_otlp_sentinel().SerializeToString()
    return good + encode_field(1, part) + good, 2


def _enclose_otlp_json(part: bytes) -> Enclosed:
    point = {"timeUnixNano": str(int(NOW * 1e9)), "asDouble": 4.25}
    metric = {"name": "system.cpu.load_average.1m", "gauge": {"dataPoints": [point]}}
    attributes = [{"key": "host.name", "value": {"stringValue": SENTINEL}}]
    good = {"resource": {"attributes": attributes}, "scopeMetrics": [{"metrics": [metric]}]}
    # A body with what is no JSON is refused as a whole.
    return _join_items(good, part, '{"resourceMetrics":[%s,%s,%s]}', is_strict=True)


# ---------------------------------------------------------------- lines
def _enclose_line(part: bytes) -> Enclosed:
    # A string that is not closed may go on in the next lines, so no quotes; at most so many lines that all are read.
    safe = part.translate(None, b'"\\\r')[:100_000]
    good = b"good,host=%b v=4.25 1795899000000000000\n" % SENTINEL.encode()
    return good + safe + b"\n" + good, 2


def _decode_lines(body: bytes, sink: Sink) -> Iterator[None]:
    precisions = list(TIME_UNITS)
    return decode_line_protocol(body, sink, NOW, precisions[zlib.crc32(body) % (2 * len(precisions)) % len(precisions)])


def _decode_ns_lines(body: bytes, sink: Sink) -> Iterator[None]:
    return decode_line_protocol(body, sink, NOW)


def _decode_dump(body: bytes, sink: Sink) -> Iterator[None]:
    return read_tsdb_dump(body.split(b"\n"), sink)


def _enclose_dump_line(part: bytes) -> Enclosed:
    good = b'{__name__="up", server="%b"} 4.25 1795899000000\n' % SENTINEL.encode()
    return good + part + b"\n" + good, 2


_DUMP_SEEDS = (
    b'{__name__="up", instance="web-01:9100", job="node"} 1 1795899000000\n'
    b'{__name__="node_load1", instance="web-01:9100"} 0.25 1795899000000\n'
    b'{__name__="a", b="c\\"d\\\\e\\n\\x00\\u00e9\\U0001f600"} NaN 1795899000000\n'
    b'{"__name__"="utf.8", "l\xc3\xa9"="x"} +Inf 1795899000000\n'
    b'{__name__="h"} {count:1, sum:2, (0.5,1]:1} 1795899000000\n'
    b'{__name__="e"} 1.5e-07 -1\n',
)


# ---------------------------------------------------------------- JSON
def _enclose_collectd(part: bytes) -> Enclosed:
    names = {"host": SENTINEL, "plugin": "load", "plugin_instance": "", "type": "load", "type_instance": ""}
    good = {"values": [4.25], "dstypes": ["gauge"], "dsnames": ["value"], "time": NOW, "interval": 1.0, **names}
    return _join_items(good, part)


def _enclose_netdata(part: bytes) -> Enclosed:
    names = {"hostname": SENTINEL, "chart_id": "system.load", "chart_context": "system.load", "id": "load1"}
    return _join_items({**names, "name": "load1", "value": 4.25, "timestamp": int(NOW)}, part)


def _enclose_datapoint(part: bytes) -> Enclosed:
    return _join_items({"metric": "m", "timestamp": int(NOW), "value": 4.25, "tags": {"host": SENTINEL}}, part)


def _enclose_telegraf(part: bytes) -> Enclosed:
    good = {"name": "mem", "tags": {"host": SENTINEL}, "fields": {"used": 4.25}, "timestamp": int(NOW)}
    return _join_items(good, part, '{"metrics":[%s,%s,%s]}')


def _enclose_plugin(part: bytes) -> Enclosed:
    parsed = _parse_json(part)
    if parsed is None:
        return None
    head = b'{"system":{"hostname":"%b"},"load":{"min1":4.25},"damaged":' % SENTINEL.encode()
    return head + parsed + b',"mem":{"percent":4.25}}', 2


def _enclose_sample(part: bytes) -> Enclosed:
    good = {"@timestamp": "2026-11-28 21:01:16", "mem": {"util": {"used": {"value": "4.25"}}}}
    form = '{"@pcp":{"@hosts":[{"@host":"' + SENTINEL + '","@timezone":"UTC","@metrics":[%s,%s,%s]}]}}'
    return _join_items(good, part, form)


def _decode_documents(body: bytes, sink: Sink) -> Iterator[None]:
    """Decode a body as the route does, or as the output of pcp2json."""
    if zlib.crc32(body) % 2:
        return decode_pcp(body, sink)

    def decode_all() -> Iterator[None]:
        for document in split_documents(body.splitlines(keepends=True), 2**22):
            yield from decode_pcp(document, sink)

    return decode_all()


def _decode_collectd(body: bytes, sink: Sink) -> Iterator[None]:
    return CollectdDecoder().decode(body, sink)


_remembering_collectd = CollectdDecoder(max_hosts=200)


# ---------------------------------------------------------------- codings
def _decode_codings(body: bytes, sink: Sink) -> Iterator[None]:
    """Decompress what follows the first byte, which chooses the coding, in pieces where the route does so."""
    coding = ("snappy", "zstd", "gzip", "deflate")[body[0] % 4] if body else "snappy"
    limit, data = (LIMIT_BYTES, 1_000)[bool(body) and body[0] & 128 > 0], body[1:]
    if coding in ("snappy", "zstd"):
        size = len(decode_block(coding, data, limit))
    else:
        decompressor, size = Decompressor(coding, limit), 0
        for begin in range(0, len(data), 7_001):
            for piece in decompressor.decode(data[begin : begin + 7_001]):
                size += len(piece)
                yield
        decompressor.finish()
    if size > limit:
        raise Finding(f"{coding}: {size} bytes, the limit is {limit}")


def _list_coding_seeds() -> list[bytes]:
    texts = [b"", b"a", b"a" * 70_000, Path(__file__).read_bytes(), bytes(2**24)]
    seeds = []
    for text in texts:
        seeds.append(b"\x00" + bytes(cramjam.snappy.compress_raw(text)))
        seeds.append(b"\x01" + bytes(cramjam.zstd.compress(text)))
        seeds.append(b"\x02" + bytes(cramjam.gzip.compress(text)))
        seeds.append(b"\x03" + zlib.compress(text))
    return [*seeds, *read_fixtures("influxdb-client/gzip")]


_LINE_FIXTURES = ("influxdb-client/point", "glances-influxdb2/*", "pcp2influxdb/*")
_LINE_SEEDS = (
    b"",
    b'm,a\\ b=c\\,d f="x\ny",g=1i,h=t 1\n# c\nm f=-1.5e3,s="\\"" \n',
    b"m v=1u\n\nm v=18446744073709551615u",
)

TARGETS = (
    FuzzTarget(
        name="remote_write_1",
        can_end=True,
        shape=BodyShape.PROTOBUF,
        decode=_decode_remote_write_1,
        list_seeds=_list_remote_write_seeds,
        enclose=_enclose_remote_write,
    ),
    FuzzTarget(
        name="remote_write_2",
        can_end=True,
        shape=BodyShape.PROTOBUF,
        decode=_decode_remote_write_2,
        list_seeds=_list_remote_write_2_seeds,
        enclose=_enclose_remote_write_2,
    ),
    FuzzTarget(
        name="codings",
        shape=BodyShape.BYTES,
        decode=_decode_codings,
        list_seeds=_list_coding_seeds,
    ),
    FuzzTarget(
        name="otlp_protobuf",
        can_end=True,
        shape=BodyShape.PROTOBUF,
        decode=lambda body, sink: decode_otlp_protobuf(body, sink, NOW),
        list_seeds=lambda: [b"", *read_fixtures("opentelemetry/*"), make_otlp(range(1), 0)],
        enclose=_enclose_otlp,
    ),
    FuzzTarget(
        name="otlp_json",
        can_end=True,
        shape=BodyShape.JSON,
        decode=lambda body, sink: decode_otlp_json(body, sink, NOW),
        list_seeds=lambda: [b"", make_otlp_json(range(1), 0), make_otlp_json(range(2), 0)],
        enclose=_enclose_otlp_json,
    ),
    FuzzTarget(
        name="line_protocol",
        shape=BodyShape.LINES,
        decode=_decode_lines,
        list_seeds=lambda: [*_LINE_SEEDS, *read_fixtures(*_LINE_FIXTURES), make_lines(range(1), 0)],
    ),
    FuzzTarget(
        name="line_protocol_ns",
        shape=BodyShape.LINES,
        decode=_decode_ns_lines,
        list_seeds=lambda: [*_LINE_SEEDS, *read_fixtures(*_LINE_FIXTURES), make_lines(range(1), 0)],
        enclose=_enclose_line,
    ),
    FuzzTarget(
        name="telegraf",
        shape=BodyShape.JSON,
        decode=lambda body, sink: decode_telegraf(body, sink, NOW),
        list_seeds=lambda: [b"{}", make_telegraf_json(range(1), 0), make_telegraf_json(range(1), 0)[12:-2]],
        enclose=_enclose_telegraf,
    ),
    FuzzTarget(
        name="glances",
        shape=BodyShape.JSON,
        decode=lambda body, sink: decode_glances(body, sink, NOW),
        list_seeds=lambda: read_fixtures("glances-restful/*"),
        enclose=_enclose_plugin,
    ),
    FuzzTarget(
        name="collectd",
        shape=BodyShape.JSON,
        decode=_decode_collectd,
        list_seeds=lambda: [*read_fixtures("collectd/*", "collectd-defaults/*"), make_collectd(range(1), 0)],
        enclose=_enclose_collectd,
    ),
    FuzzTarget(
        name="collectd_memory",
        shape=BodyShape.JSON,
        decode=_remembering_collectd.decode,
        list_seeds=lambda: [*read_fixtures("collectd/*", "collectd-defaults/*"), make_collectd(range(1), 0)],
        is_stateless=False,
    ),
    FuzzTarget(
        name="netdata",
        shape=BodyShape.JSON,
        decode=decode_netdata,
        list_seeds=lambda: [*read_fixtures("netdata-json-average/*"), make_netdata(range(1), 0)],
        enclose=_enclose_netdata,
    ),
    FuzzTarget(
        name="put",
        shape=BodyShape.JSON,
        decode=lambda body, sink: PutBody().decode(body, sink),
        list_seeds=lambda: [
            *read_fixtures("netdata-json-average/*"),
            b'[{"metric":"sys.cpu","timestamp":1795899000,"value":18,"tags":{"host":"web01","dc":"lga"}}]',
            b'{"metric":"m","timestamp":"1795899000123","value":"1.5","tags":{"host":"web01","n":1}}',
        ],
        enclose=_enclose_datapoint,
    ),
    FuzzTarget(
        name="pcp",
        shape=BodyShape.JSON,
        decode=_decode_documents,
        list_seeds=lambda: read_fixtures("pcp2json/*"),
    ),
    FuzzTarget(
        name="pcp_document",
        shape=BodyShape.JSON,
        decode=decode_pcp,
        list_seeds=lambda: [body[body.index(b'{\n  "@pcp"') :] for body in read_fixtures("pcp2json/no-header*")],
        enclose=_enclose_sample,
    ),
    FuzzTarget(
        name="tsdb_dump",
        shape=BodyShape.LINES,
        decode=_decode_dump,
        list_seeds=lambda: list(_DUMP_SEEDS),
        enclose=_enclose_dump_line,
    ),
)
"""All decoders; `collector.py` has the whole path."""
