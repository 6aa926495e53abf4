"""Tests `streamd/protocols/`: a large JSON body gives the points of a small one, and is decoded in short steps."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache

import pytest

from streamd.core.errors import MalformedError
from streamd.protocols.collectd import CollectdDecoder
from streamd.protocols.glances import decode_glances
from streamd.protocols.json_items import MAX_PART_BYTES
from streamd.protocols.netdata import decode_netdata
from streamd.protocols.opentsdb import PutBody
from streamd.protocols.otlp.json import decode_otlp_json
from streamd.protocols.pcp import MAX_SAMPLE_BYTES, decode_pcp
from streamd.protocols.telegraf import decode_telegraf_json
from tests.support.recording_sink import RecordingSink
from tests.support.step_times import measure_longest_step

NOW = 1_700_000_000.0
PADDING = b" " * MAX_PART_BYTES

Decode = Callable[[bytes, RecordingSink], Iterator[None]]

DECODERS: dict[str, Decode] = {
    "collectd": lambda body, sink: CollectdDecoder().decode(body, sink),
    "glances": lambda body, sink: decode_glances(body, sink, NOW),
    "netdata": decode_netdata,
    "put": lambda body, sink: PutBody().decode(body, sink),
    "otlp": lambda body, sink: decode_otlp_json(body, sink, NOW),
    "pcp": decode_pcp,
    "telegraf": lambda body, sink: decode_telegraf_json(body, sink, NOW),
}

COLLECTD = (
    b'{"values":[%s],"dstypes":["gauge"],"dsnames":["value"],"time":1700000000,"host":"h","plugin":"p","type":"%d"}'
)
NETDATA = b'{"hostname":"h","chart_id":"c","id":"i%d","value":%s,"timestamp":1700000000}'
PUT = b'{"metric":"m%d","timestamp":1700000000,"value":%s,"tags":{"host":"h"}}'
OTLP = (
    b'{"resourceMetrics":[{"resource":{"attributes":[{"key":"host.name","value":{"stringValue":"h"}}]},'
    b'"scopeMetrics":[{"metrics":[{"name":"m","gauge":{"dataPoints":[%s]}}]}]}]}'
)
OTLP_POINT = b'{"timeUnixNano":"1700000000000000000","asDouble":1,"attributes":[%s]}'
OTLP_ATTRIBUTE = b'{"key":"a","value":{"stringValue":"%s"}}'
PCP = b'{"//":"a comment"}\n{"@pcp":{"@hosts":[{"@host":"h","@timezone":"UTC+9","@metrics":[%s]}]}}'
PCP_SAMPLE = b'{"@timestamp":"2026-11-28 21:01:16","m":{"value":"%s"},"n":{"@instances":[{"name":"x","value":"2"}]}}'
TELEGRAF = b'{"metrics":[%s]}'
TELEGRAF_METRIC = b'{"name":"m","tags":{"host":"h"},"fields":{"a":1,"b":%s},"timestamp":1700000000}'
GLANCES = (
    b'{"system":{"hostname":"h"},"now":{"iso":"2026-11-28T21:01:16+00:00"},"cpu":{"user":1,"x":"text"},%s"load":%s}'
)

LARGE = b'"' + b"x" * MAX_PART_BYTES + b'"'

BODIES = [
    ("collectd", b"[" + COLLECTD % (b"1", 1) + b"," + COLLECTD % (b"null", 2) + b",7,{}" + b"]"),
    ("netdata", b"[" + NETDATA % (1, b"1.5") + b"," + NETDATA % (2, b'"x"') + b"," + NETDATA % (3, b"7") + b"]"),
    ("put", b"[" + NETDATA % (1, b"1") + b"," + PUT % (2, b"2") + b"," + PUT % (3, b"[]") + b',{"a":1}]'),
    ("put", b"[" + PUT % (1, b'"1"') + b"," + NETDATA % (2, b"2") + b"]"),
    ("otlp", OTLP % (OTLP_POINT % b"" + b"," + OTLP_POINT % (OTLP_ATTRIBUTE % b"x") + b",7")),
    ("otlp", (OTLP % (OTLP_POINT % b"")).replace(b'"attributes":[{"key"', b'"attributes":[{"no"', 1)),
    ("pcp", PCP % (PCP_SAMPLE % b"1" + b"," + PCP_SAMPLE % b"text" + b",7,{}")),
    ("telegraf", TELEGRAF % (TELEGRAF_METRIC % b"2" + b"," + TELEGRAF_METRIC % b"[]" + b",7,{}")),
    ("glances", GLANCES % (b'"fs":[],', b'{"min1":3}')),
]


def decode(name: str, body: bytes) -> tuple[object, ...]:
    """Return all that a decoder gave to the sink."""
    sink = RecordingSink()
    for _ in DECODERS[name](body, sink):
        pass
    return sink.points, [type(error).__name__ for error in sink.rejected], sink.skipped


@pytest.mark.parametrize(("name", "body"), BODIES)
def test_a_large_body_gives_what_a_small_one_gives(name: str, body: bytes) -> None:
    small = decode(name, body)
    assert small[0], "there are points"
    end = max(body.rfind(b"]"), body.rfind(b"}"))
    assert decode(name, body[:end] + PADDING + body[end:]) == small


@pytest.mark.parametrize(
    ("name", "body", "points"),
    [
        ("collectd", b"[" + COLLECTD % (LARGE, 1) + b"," + COLLECTD % (b"1", 2) + b"]", 1),
        ("put", b"[" + PUT % (1, LARGE) + b"," + PUT % (2, b"1") + b"]", 1),
        ("otlp", OTLP % (OTLP_POINT % (OTLP_ATTRIBUTE % LARGE[1:-1]) + b"," + OTLP_POINT % b""), 1),
        ("pcp", PCP % (PCP_SAMPLE % (b"1" * MAX_SAMPLE_BYTES) + b"," + PCP_SAMPLE % b"1"), 2),
        ("telegraf", TELEGRAF % (TELEGRAF_METRIC % LARGE + b"," + TELEGRAF_METRIC % b"2"), 2),
        ("glances", GLANCES % (b'"big":{"a":%s},' % LARGE, b'{"min1":3}'), 2),
    ],
)
def test_a_part_that_is_too_large_is_rejected_alone(name: str, body: bytes, points: int) -> None:
    taken, rejected, _ = decode(name, body)
    assert isinstance(taken, list)
    assert len(taken) == points
    assert rejected == ["InvalidSampleError"]


def test_the_points_of_a_resource_that_is_too_large_are_rejected() -> None:
    body = (OTLP % (OTLP_POINT % b"")).replace(b'"h"', LARGE)
    assert decode("otlp", body) == ([], ["InvalidSampleError"], {})


def test_a_single_large_metric_of_telegraf_is_refused() -> None:
    with pytest.raises(MalformedError, match="at most 1048576"):
        decode("telegraf", TELEGRAF_METRIC % LARGE)


@pytest.mark.parametrize("name", DECODERS)
def test_a_huge_body_that_is_not_json_is_refused(name: str) -> None:
    opening = b"[" if name in ("collectd", "netdata", "put") else b"{"
    with pytest.raises(MalformedError):
        decode(name, opening + b" " * 2 * MAX_PART_BYTES + b"NaN,")


@cache
def make_members(count: int, value: bytes) -> bytes:
    """Make the members of a JSON object, all with this value."""
    return b",".join(b'"%d":%s' % (number, value) for number in range(count))


HUGE: dict[str, Callable[[], bytes]] = {
    "collectd": lambda: b"[" + b",".join([COLLECTD % (b"1", 1)] * 40_000) + b"]",
    "put": lambda: b'[{"metric":"m","timestamp":1,"value":1,"tags":{' + make_members(400_000, b"1") + b"}}]",
    "telegraf": lambda: TELEGRAF_METRIC % (b"{" + make_members(400_000, b"1") + b"}"),
    "glances": lambda: GLANCES % (b"", b"{" + make_members(400_000, b"1") + b"}"),
    "pcp": lambda: PCP % (b'{"@timestamp":"1700000000",' + make_members(200_000, b'{"value":1}') + b"}"),
}
"""Made when a test runs: each process of pytest imports this module."""


def decode_until_refused(name: str, body: bytes) -> Iterator[None]:
    """Decode a body in its steps; to be refused ends them."""
    with suppress(MalformedError):
        yield from DECODERS[name](body, RecordingSink())


@pytest.mark.parametrize("name", HUGE)
def test_a_hostile_body_never_keeps_the_loop_for_long(name: str) -> None:
    """To decode one as a whole takes 5 to 11 times the unit, a step a third of it."""
    body = HUGE[name]()
    assert measure_longest_step(lambda: decode_until_refused(name, body), 5) < 1.5
