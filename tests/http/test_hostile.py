"""Tests `streamd/http/wire/*.py`: hostile bytes get their documented answer and never reach a window."""

import asyncio
import functools
import gzip
import json
import re
import zlib
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.errors import InvalidInputError, MalformedError, StreamdError
from streamd.core.state.samples import Sample
from streamd.http.requests import TransportLimits
from streamd.http.wire.bodies import decode_body
from streamd.http.wire.codecs import Decoder, Encoding
from streamd.http.wire.tensors import decode_tensor
from tests.http.conftest import Start
from tests.support.http_harness import (
    JSON,
    MSGPACK,
    NEED,
    TYPES,
    HttpDaemon,
    HttpDaemonSettings,
    at,
    is_same_array,
    make_rows,
    make_sample,
    make_window,
    pack,
    values_of,
)
from tests.support.memory_use import resident_bytes

ONE = b'{"server":"a","time":%d,"values":{"cpu_user":1}}' % at(0)


# ---------------------------------------------------------------- bodies of which nothing can be read
UNREADABLE: list[tuple[str, bytes, str]] = [
    ("empty", b"", JSON),
    ("spaces", b"  \n", JSON),
    ("null", b"null", JSON),
    ("a list", b"[]", JSON),
    ("a number", b"1", JSON),
    ("a string", b'"samples"', JSON),
    ("an empty object", b"{}", JSON),
    ("samples null", b'{"samples":null}', JSON),
    ("samples an object", b'{"samples":{}}', JSON),
    ("samples a string", b'{"samples":"x"}', JSON),
    ("cut off in a sample", b'{"samples":[' + ONE + b"," + ONE[:30], JSON),
    ("cut off at the end", b'{"samples":[' + ONE, JSON),
    ("more behind the end", b'{"samples":[' + ONE + b"]}]", JSON),
    ("a comma too many", b'{"samples":[' + ONE + b",]}", JSON),
    ("single quotes", b"{'samples':[]}", JSON),
    ("a comment", b'{"samples":[] /* none */}', JSON),
    ("NaN for samples", b'{"samples":NaN}', JSON),
    ("NaN for an id", b'{"id":NaN,"samples":[' + ONE + b"]}", JSON),
    ("a lone surrogate in the id", b'{"id":"\\ud800","samples":[' + ONE + b"]}", JSON),
    ("NaN for a key", b'{NaN:1,"samples":[' + ONE + b"]}", JSON),
    ("a lone surrogate in no string", b'{"samples":[\\ud800,' + ONE + b"]}", JSON),
    ("NaN and cut off", b'{"samples":[' + ONE.replace(b":1}", b":NaN}"), JSON),
    ("words like NaN", b'{"samples":[' + ONE.replace(b":1}", b":NaNny}") + b"]}", JSON),
    ("minus NaN", b'{"samples":[' + ONE.replace(b":1}", b":-NaN}") + b"]}", JSON),
    ("deep lists", b"[" * 200_000, JSON),
    ("deep lists in samples", b'{"samples":' + b"[" * 200_000, JSON),
    ("deep objects", b'{"a":' * 200_000, JSON),
    ("deep objects closed", b'{"samples":[' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"]}", JSON),
    ("UTF-16", '{"samples":[]}'.encode("utf-16"), JSON),
    ("a byte order mark", b'\xef\xbb\xbf{"samples":[]}', JSON),
    ("MessagePack called JSON", pack({"samples": [make_sample("a", 0)]}, MSGPACK), JSON),
    ("JSON called MessagePack", pack({"samples": [make_sample("a", 0)]}, JSON), MSGPACK),
    ("empty", b"", MSGPACK),
    ("nil", b"\xc0", MSGPACK),
    ("an array", b"\x90", MSGPACK),
    ("the byte that is never used", b"\xc1", MSGPACK),
    ("cut off", pack({"samples": [make_sample("a", 0)]}, MSGPACK)[:-3], MSGPACK),
    ("more behind the end", pack({"samples": []}, MSGPACK) + b"\x00", MSGPACK),
    ("an array of 4 G", b"\x81\xa7samples\xdd\xff\xff\xff\xff", MSGPACK),
    ("a map of 4 G", b"\xdf\xff\xff\xff\xff", MSGPACK),
    ("a string of 4 G", b"\x81\xdb\xff\xff\xff\xffx", MSGPACK),
    ("bytes of 4 G", b"\x81\xa7samples\xc6\xff\xff\xff\xff", MSGPACK),
    ("deep arrays", b"\x81\xa7samples" + b"\x91" * 200_000, MSGPACK),
    ("deep maps", b"\x81\xa1a" * 200_000, MSGPACK),
    ("an extension", b"\xd4\x05\x00", MSGPACK),
    ("samples an extension", b"\x81\xa7samples\xc7\x01\x05\x00", MSGPACK),
    ("a number for a key", b"\x81\x01\x90", MSGPACK),
]


@pytest.mark.parametrize(
    ("data", "content_type"),
    [pytest.param(data, kind, id=f"{kind.partition('/')[2]} {name}") for name, data, kind in UNREADABLE],
)
async def test_an_unreadable_body_is_400_and_nothing_is_taken(
    daemon: HttpDaemon, data: bytes, content_type: str
) -> None:
    reply = await daemon.post_bytes("/v1/samples", data, content_type)
    assert (reply.status, reply.code) == (400, "malformed")
    status = await daemon.status()
    assert status["servers"] == 0
    assert status["samples"]["accepted"] == 0


def make_body_with(bad: bytes) -> bytes:
    """Return a body of three good samples with a bad one between them."""
    good = [json.dumps(each).encode() for each in make_rows("good", 5, range(NEED))]
    return b'{"samples":[' + b",".join([good[0], bad, *good[1:]]) + b"]}"


BAD_IN_JSON: list[tuple[str, bytes, str]] = [
    ("bad UTF-8 in the server", ONE.replace(b'"a"', b'"\xff\xfe"'), "invalid_sample"),
    ("bad UTF-8 in a feature", ONE.replace(b"cpu_user", b"cpu\xc3\x28"), "invalid_sample"),
    ("an overlong slash", ONE.replace(b'"a"', b'"\xc0\xaf"'), "invalid_sample"),
    ("a surrogate in UTF-8", ONE.replace(b'"a"', b'"\xed\xa0\x80"'), "invalid_sample"),
    ("a time of 1e999", ONE.replace(b"%d" % at(0), b"1e999"), "invalid_time"),
    ("a time of 400 digits", ONE.replace(b"%d" % at(0), b"9" * 400), "invalid_time"),
    ("a time of 5000 digits", ONE.replace(b"%d" % at(0), b"9" * 5_000), "invalid_time"),
    ("a time of 30 digits", ONE.replace(b"%d" % at(0), b"9" * 30), "too_far_ahead"),
    ("a time in year 9999", ONE.replace(b"%d" % at(0), b'"9999-12-31T23:59:59Z"'), "too_far_ahead"),
    ("a time in year 1", ONE.replace(b"%d" % at(0), b'"0001-01-01T00:00:00+23:59"'), "invalid_time"),
    ("the last of February 30", ONE.replace(b"%d" % at(0), b'"2023-02-30T00:00:00Z"'), "invalid_time"),
    ("a value of 1e999", ONE.replace(b":1}", b":1e999}"), "invalid_value"),
    ("a value of -1e39", ONE.replace(b":1}", b":-1e39}"), "invalid_value"),
    ("a value of 40 digits", ONE.replace(b":1}", b":" + b"9" * 40 + b"}"), "invalid_value"),
    ("a value of 5000 digits", ONE.replace(b":1}", b":" + b"9" * 5_000 + b"}"), "invalid_value"),
    ("values true", ONE.replace(b":1}", b":true}"), "invalid_value"),
    ("deep, but closed", b"[" * 500 + b"]" * 500, "invalid_sample"),
    ("a server of 257 bytes", ONE.replace(b'"a"', b'"' + b"a" * 257 + b'"'), "invalid_server"),
    ("a server of a megabyte", ONE.replace(b'"a"', b'"' + b"a" * 2**20 + b'"'), "invalid_server"),
    ("an empty server", ONE.replace(b'"a"', b'""'), "invalid_server"),
    ("NaN", ONE.replace(b":1}", b":NaN}"), "invalid_value"),
    ("Infinity", ONE.replace(b":1}", b":Infinity}"), "invalid_value"),
    ("minus infinity", ONE.replace(b":1}", b": -Infinity }"), "invalid_value"),
    ("NaN of an unknown feature", ONE.replace(b"cpu_user", b"fan_speed").replace(b":1}", b":NaN}"), "invalid_value"),
    ("NaN for values", ONE.replace(b'{"cpu_user":1}', b"NaN"), "invalid_value"),
    ("NaN for a server", ONE.replace(b'"a"', b"NaN"), "invalid_server"),
    ("NaN for a time", ONE.replace(b"%d" % at(0), b"NaN"), "invalid_time"),
    ("Infinity for a time", ONE.replace(b"%d" % at(0), b"Infinity"), "invalid_time"),
    ("NaN for a status", ONE.replace(b"}}", b'},"status":NaN}'), "invalid_sample"),
    ("NaN for a sample", b"NaN", "invalid_sample"),
    ("a lone surrogate", ONE.replace(b'"a"', b'"\\ud800"'), "invalid_server"),
    ("a host name that was not UTF-8", ONE.replace(b'"a"', b'"web-\\udcff\\udcfe"'), "invalid_server"),
    ("the halves of a pair in the wrong order", ONE.replace(b'"a"', b'"\\ude00\\ud83d"'), "invalid_server"),
    ("half a pair and another escape", ONE.replace(b'"a"', b'"\\uD83d\\n"'), "invalid_server"),
    ("a lone surrogate in a feature", ONE.replace(b"cpu_user", b"\\uDC80"), "invalid_sample"),
    ("a lone surrogate for a time", ONE.replace(b"%d" % at(0), b'"\\ud800"'), "invalid_time"),
    ("a lone surrogate for a value", ONE.replace(b":1}", b':"\\ud800"}'), "invalid_value"),
    ("a time of -1e-9", ONE.replace(b"%d" % at(0), b"-1e-9"), "invalid_time"),
]


@pytest.mark.parametrize(("bad", "code"), [pytest.param(bad, code, id=name) for name, bad, code in BAD_IN_JSON])
async def test_one_bad_sample_among_good_ones_is_refused_alone(daemon: HttpDaemon, bad: bytes, code: str) -> None:
    answer = (await daemon.post_bytes("/v1/samples", make_body_with(bad))).body
    assert (answer["accepted"], answer["rejected"]) == (NEED, 1)
    assert [(error["index"], error["code"]) for error in answer["errors"]] == [(1, code)]
    assert is_same_array(await daemon.window("good"), make_window(make_rows("good", 5, range(NEED)), NEED - 1))
    assert (await daemon.status())["servers"] == 1


async def test_bad_utf8_in_one_packed_sample_refuses_only_it(daemon: HttpDaemon) -> None:
    good = [msgspec.msgpack.encode(each) for each in make_rows("good", 5, range(NEED))]
    bad = msgspec.msgpack.encode(make_sample("xy", 0)).replace(b"xy", b"\xff\xfe")
    body = b"\x81\xa7samples\x94" + b"".join([good[0], bad, *good[1:]])
    answer = (await daemon.post_bytes("/v1/samples", body, MSGPACK)).body
    assert (answer["accepted"], [error["index"] for error in answer["errors"]]) == (NEED, [1])
    assert is_same_array(await daemon.window("good"), make_window(make_rows("good", 5, range(NEED)), NEED - 1))


async def test_of_a_key_given_twice_the_last_counts(daemon: HttpDaemon) -> None:
    data = b'{"samples":[{"server":"x","server":"a","time":1,"time":%d,"values":{"cpu_user":1,"cpu_user":2}}]}' % at(0)
    assert (await daemon.post_bytes("/v1/samples", data)).body["accepted"] == 1
    await daemon.accept([make_sample("a", 1)])
    assert (await daemon.window("a"))[-2, 0] == 2
    assert (await daemon.get("/v1/servers/x")).status == 404


async def test_a_server_with_nul_is_a_server_of_its_own(daemon: HttpDaemon) -> None:
    await daemon.accept([make_sample("a\x00", 0), make_sample("a\x00", 1), make_sample("a", 0), make_sample("\x00", 0)])
    names = [(entry["server"], entry["have"]) for entry in (await daemon.get("/v1/servers")).body["servers"]]
    assert names == [("\x00", 1), ("a", 1), ("a\x00", 2)]


# ---------------------------------------------------------------- bodies that are compressed, cut into chunks, slow
async def test_gzip_and_deflate_are_decoded(daemon: HttpDaemon) -> None:
    data = pack({"samples": make_rows("a", 1, range(NEED))}, JSON)
    for encoding, packed in (("gzip", gzip.compress(data)), ("deflate", zlib.compress(data))):
        reply = await daemon.post_bytes("/v1/samples", packed, **{"Content-Encoding": encoding})
        assert reply.body["accepted"] == NEED


@functools.cache
def make_bomb() -> bytes:
    """Return 128 MiB of spaces, compressed to less than 256 KiB."""
    packer = zlib.compressobj(9, wbits=31)
    data = b"".join(packer.compress(b" " * 2**20) for _ in range(128)) + packer.flush()
    assert len(data) < 2**18
    return data


@pytest.mark.parametrize("content_type", TYPES)
@pytest.mark.parametrize("path", ["/v1/samples", "/v1/predict"])
async def test_a_gzip_bomb_is_413_and_takes_no_memory(start: Start, path: str, content_type: str) -> None:
    daemon = await start(HttpDaemonSettings(limits=TransportLimits(max_body_bytes=2**20)))
    before = resident_bytes()
    reply = await daemon.post_bytes(path, make_bomb(), content_type, **{"Content-Encoding": "gzip"})
    assert (reply.status, reply.code) == (413, "too_large")
    assert resident_bytes() - before < 48 * 2**20
    assert (await daemon.post("/v1/samples", {"samples": [make_sample("a", 0)]})).body["accepted"] == 1


async def send_raw(daemon: HttpDaemon, *pieces: bytes, shut: bool = False) -> bytes:
    """Send bytes and return the answer, empty if the daemon closes the connection; `shut` ends the sending side."""
    reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port)
    answer = b""
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if shut:
            writer.write_eof()
        answer = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"Content-Length: (\d+)", answer)
        assert length is not None
        answer += await reader.readexactly(int(length[1]))
    except (ConnectionResetError, asyncio.IncompleteReadError):
        pass
    writer.close()
    return answer


def parse_status(answer: bytes) -> int:
    """Return the status of an answer; bytes that are not HTTP are answered as HTTP/1.0, requests as HTTP/1.1."""
    assert re.match(rb"HTTP/1\.[01] \d{3} ", answer)
    return int(answer[9:12])


def make_head(*lines: str, path: str = "/v1/samples") -> bytes:
    return "\r\n".join(
        [
            f"POST {path} HTTP/1.1",
            "Host: localhost",
            "Content-Type: application/json",
            "Connection: close",
            *lines,
            "",
            "",
        ]
    ).encode()


BODY = b'{"samples":[' + ONE + b"]}"
SIZE = f"Content-Length: {len(BODY)}"
RAW: list[tuple[str, list[bytes], int]] = [
    ("as it should be", [make_head(SIZE), BODY], 200),
    ("in chunks", [make_head("Transfer-Encoding: chunked"), b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)], 200),
    ("a byte a piece", [make_head(SIZE), *(BODY[place : place + 1] for place in range(len(BODY)))], 200),
    ("a broken gzip", [make_head(SIZE, "Content-Encoding: gzip"), BODY], 400),
    (
        "chunks over the limit",
        [make_head("Transfer-Encoding: chunked"), b"7d0\r\n%s\r\n0\r\n\r\n" % (b" " * 2_000)],
        413,
    ),
    ("a chunk without end", [make_head("Transfer-Encoding: chunked"), b"ffffffff\r\n", b" " * 2_000], 413),
    ("chunks of no size", [make_head("Transfer-Encoding: chunked"), b"zz\r\n"], 400),
    ("a length over the limit", [make_head("Content-Length: 1001")], 413),
    ("a length beyond all", [make_head("Content-Length: 99999999999999999999")], 400),
    ("a length that is short", [make_head("Content-Length: 10"), BODY], 400),
    ("a length that is none", [make_head("Content-Length: many"), BODY], 400),
    ("a negative length", [make_head("Content-Length: -5"), BODY], 400),
    ("two lengths", [make_head(SIZE, "Content-Length: 3"), BODY], 400),
    ("a length and chunks", [make_head(SIZE, "Transfer-Encoding: chunked"), BODY], 400),
    ("no body promised", [make_head()], 400),
    ("a header too long", [make_head("X: " + "x" * 20_000)], 400),
    ("no HTTP at all", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"], 400),
    ("a type of raw bytes", [make_head("Content-Length: 0").replace(b"application/json", b"\xff\xfe")], 415),
    ("a path of raw bytes", [b"GET /v1/servers/%ff%fe HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"], 404),
]


@pytest.mark.parametrize(("pieces", "expected"), [pytest.param(pieces, begin, id=name) for name, pieces, begin in RAW])
async def test_raw_requests_get_their_documented_status(start: Start, pieces: list[bytes], expected: int) -> None:
    daemon = await start(HttpDaemonSettings(limits=TransportLimits(max_body_bytes=1_000)))
    assert parse_status(await send_raw(daemon, *pieces)) == expected
    assert (await daemon.status())["samples"]["accepted"] == (expected == 200)
    assert len(daemon.http_app.sockets) == 0


async def test_a_body_that_ends_before_its_length_is_not_taken(daemon: HttpDaemon) -> None:
    answer = await send_raw(daemon, make_head(f"Content-Length: {len(BODY) + 5}"), BODY, shut=True)
    assert not answer or parse_status(answer) == 400
    assert (await daemon.status())["samples"]["accepted"] == 0
    assert (await daemon.post_bytes("/v1/samples", BODY)).body["accepted"] == 1


@pytest.mark.parametrize("path", ["/v1/samples", "/v1/predict"])
async def test_a_body_that_does_not_arrive_in_time_is_400(start: Start, path: str) -> None:
    daemon = await start(HttpDaemonSettings(limits=TransportLimits(body_timeout_seconds=0.05)))
    answer = await send_raw(daemon, make_head(SIZE, path=path), BODY[:10])
    assert parse_status(answer) == 400
    assert b'"malformed"' in answer
    assert (await daemon.post_bytes("/v1/samples", BODY)).body["accepted"] == 1


# ---------------------------------------------------------------- memory
async def test_names_of_features_that_do_not_recur_are_not_retained(daemon: HttpDaemon) -> None:
    """A sender with other names of features in every sample must not fill the memory of the daemon."""

    async def send(agent: Any, number: int) -> None:
        names = {f"{number}-{place}": 1 for place in range(10_000)}
        assert (await agent.ask({"samples": [make_sample("a", number, {**names, **values_of(1, number)})]}))[
            "accepted"
        ] == 1

    async with daemon.socket("/v1/ingest", MSGPACK) as agent:
        for number in range(10):
            await send(agent, number)
        before = resident_bytes()
        for number in range(10, 150):
            await send(agent, number)
    assert resident_bytes() - before < 48 * 2**20


# ---------------------------------------------------------------- the decoders alone, for any bytes
_any_message = Decoder(dict[str, msgspec.Raw])


def _check_body(data: bytes, encoding: Encoding) -> None:
    """Decode a body; asserts that it is malformed, or that each sample or its error is in its place."""
    try:
        _, samples = decode_body(data, encoding)
    except MalformedError:
        return
    for place, (index, one) in enumerate(samples):
        assert index == place
        assert isinstance(one, Sample | InvalidInputError)


def _check_tensors(data: bytes, encoding: Encoding) -> None:
    try:
        for name, value in _any_message.decode(data, encoding).items():
            assert isinstance(decode_tensor(name, value, encoding), np.ndarray)
    except StreamdError:
        return


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(
    ["samples", "columns", "id", "server", "servers", "time", "values", "status", "features", "data"]
)
MESSAGES = st.recursive(
    JSON_VALUES | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.sampled_from(["shape", "dtype"]), inner),
    max_leaves=20,
)


@pytest.mark.parametrize("decode", [_check_body, _check_tensors])
@pytest.mark.parametrize("encoding", list(Encoding))
@given(data=st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused(
    decode: Callable[[bytes, Encoding], None], encoding: Encoding, data: bytes
) -> None:
    decode(data, encoding)


@given(message=st.dictionaries(KEYS, MESSAGES), place=st.integers(0, 300), other=st.integers(0, 255))
def test_any_message_with_any_byte_changed_is_decoded_or_refused(message: Any, place: int, other: int) -> None:
    for encoding, data in (
        (Encoding.MSGPACK, msgspec.msgpack.encode(_within_64_bits(message))),
        (Encoding.JSON, msgspec.json.encode(message)),
    ):
        changed = bytearray(data)
        changed[place % len(data)] = other
        for decode in (_check_body, _check_tensors):
            decode(data, encoding)
            decode(bytes(changed), encoding)


def _within_64_bits(message: Any) -> Any:
    if isinstance(message, dict):
        return {key: _within_64_bits(value) for key, value in message.items()}
    if isinstance(message, list):
        return [_within_64_bits(value) for value in message]
    if isinstance(message, int) and not -(2**63) <= message < 2**64:
        return float(message) if abs(message) < 2**1000 else None
    return message
