"""Tests `streamd/http/direct/heads.py`: what is plain is what aiohttp reads, and everything doubtful is not plain."""

import asyncio

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpProcessingError, HttpRequestParser
from hypothesis import example, given
from hypothesis import strategies as st

from streamd.http.direct import heads
from streamd.http.direct.heads import PlainHeads, parse_head

HOST, TYPE, LENGTH = "Host: localhost:8002", "Content-Type: application/msgpack", "Content-Length: 12"


def make_head(*lines: str, first: str = "POST /v1/predict HTTP/1.1") -> bytes:
    return "".join(f"{line}\r\n" for line in (first, *lines)).encode("latin-1") + b"\r\n"


def test_a_usual_head_is_plain() -> None:
    head = make_head(HOST, "content-TYPE: application/msgpack", LENGTH, "Accept: */*", "Authorization: Bearer x  y")
    found = parse_head(head)
    assert found is not None
    assert (found.path, found.head_bytes, found.body_bytes) == ("/v1/predict", len(head), 12)
    assert (found.host, found.content_type) == ("localhost:8002", "application/msgpack")
    assert found.authorization == "Bearer x  y"


@pytest.mark.parametrize(
    "head",
    [
        make_head(HOST, TYPE, LENGTH, first="GET /v1/predict HTTP/1.1"),
        make_head(HOST, TYPE, LENGTH, first="POST /v1/predict HTTP/1.0"),
        make_head(HOST, TYPE, LENGTH, first="POST /v1/predict  HTTP/1.1"),
        make_head(HOST, TYPE, LENGTH, first="POST http://localhost/v1/predict HTTP/1.1"),
        make_head(TYPE, LENGTH),
        make_head(HOST, LENGTH),
        make_head(HOST, TYPE),
        make_head(HOST, TYPE, LENGTH, LENGTH),
        make_head(HOST, HOST, TYPE, LENGTH),
        make_head(HOST, TYPE, "Content-Length: +12"),
        make_head(HOST, TYPE, "Content-Length: 1 2"),
        make_head(HOST, TYPE, "Content-Length: 12,12"),
        make_head(HOST, TYPE, "Content-Length: 123456789"),
        make_head(HOST, TYPE, "Content-Length : 12"),
        make_head(HOST, TYPE, " Content-Length: 12", LENGTH),
        make_head(HOST, TYPE, LENGTH, "Transfer-Encoding: chunked"),
        make_head(HOST, TYPE, LENGTH, "Content-Encoding: gzip"),
        make_head(HOST, TYPE, LENGTH, "Connection: close"),
        make_head(HOST, TYPE, LENGTH, "Connection: upgrade"),
        make_head(HOST, TYPE, LENGTH, "Upgrade: websocket"),
        make_head(HOST, TYPE, LENGTH, "Expect: 100-continue"),
        make_head(HOST, TYPE, LENGTH, "Origin: http://localhost:8002"),
        make_head(HOST, TYPE, LENGTH, "Accept: a\x00b"),
        make_head(HOST, TYPE, LENGTH, "Accept: a\nTransfer-Encoding: chunked"),
        make_head(HOST, TYPE, LENGTH, "Accept: \xe4"),
        make_head(HOST, TYPE, LENGTH, "Accept:"),
        make_head(HOST, TYPE, LENGTH, "Accept"),
    ],
)
def test_a_head_that_is_unusual_in_any_way_is_not_plain(head: bytes) -> None:
    assert parse_head(head) is None


_LINES = st.sampled_from(
    [
        *(HOST, TYPE, LENGTH, "content-length: 0012", "Accept: a, b", "User-Agent:x", "Connection: Keep-Alive"),
        *("Authorization: Basic eA==", "Accept:  two", "Accept: trailing ", "X-Request-Id: !~", "Connection: close"),
        *("Transfer-Encoding: chunked", "Accept: a\rb", "Accept\t: a", "Accept: a\tb", "", " folded", "Foo: bar"),
    ]
)


@given(st.lists(_LINES, max_size=7), st.sampled_from(["/v1/predict", "/predict", "/a%20b", "/a?b=c", "//a", "/\x7f"]))
@example([HOST, TYPE, LENGTH], "/v1/predict")
def test_aiohttp_reads_a_plain_head_in_the_same_way(lines: list[str], path: str) -> None:
    head = make_head(*lines, first=f"POST {path} HTTP/1.1")
    found = parse_head(head)
    if found is None:
        return
    loop = asyncio.new_event_loop()
    try:
        parser = HttpRequestParser(BaseProtocol(loop), loop, 2**16)
        try:
            messages, _, tail = parser.feed_data(head + b"x" * found.body_bytes + b"POST")
        except HttpProcessingError as error:
            raise AssertionError(f"aiohttp refuses {head!r}") from error
        ((message, payload),) = messages
        assert (message.method, message.path, message.version) == ("POST", found.path, (1, 1))
        assert not any((message.should_close, message.upgrade, message.chunked, message.compression))
        assert message.headers["Host"] == found.host
        assert message.headers["Content-Type"] == found.content_type
        assert message.headers.get("Authorization") == found.authorization
        assert int(message.headers["Content-Length"]) == found.body_bytes
        assert len(message.headers) == len(lines)
        assert payload.is_eof() or not found.body_bytes
        assert payload.total_bytes == found.body_bytes
        assert tail == b""
    finally:
        loop.close()


# ---------------------------------------------------------------- many heads
def make_finder(*paths: str, max_body_bytes: int = 100) -> PlainHeads:
    return PlainHeads(paths or ("/v1/predict",), ["application/msgpack"], max_body_bytes)


@pytest.mark.parametrize("times", [1, 2])
def test_a_head_is_found_at_the_begin_of_what_was_received(times: int) -> None:
    finder, head = make_finder(), make_head(HOST, TYPE, LENGTH)
    for _ in range(times):
        found = finder.find(head + b"body\r\n\r\n")
        assert found is not None
        assert found.head_bytes == len(head)


@pytest.mark.parametrize("times", [1, 2])
def test_other_paths_types_and_larger_bodies_are_not_plain(times: int) -> None:
    for _ in range(times):
        finder = make_finder("/a", max_body_bytes=11)
        assert finder.find(make_head(HOST, TYPE, LENGTH)) is None
        assert finder.find(make_head(HOST, TYPE, LENGTH, first="POST /a HTTP/1.1")) is None
        assert finder.find(make_head(HOST, TYPE, "Content-Length: 11", first="POST /a HTTP/1.1")) is not None
        other = make_head(HOST, "Content-Type: text/plain", "Content-Length: 11", first="POST /a HTTP/1.1")
        assert finder.find(other) is None


def test_a_begin_may_become_plain_and_anything_else_may_not() -> None:
    finder, head = make_finder(), make_head(HOST, TYPE, LENGTH)
    for end in range(1, len(head)):
        assert finder.find(head[:end]) is None
        assert finder.may_become_plain(head[:end])
    for other in (b"GET /", b"P ", b"PO\r\n", head.replace(b"Host", b"Foo"), b"POST /" + b"x" * heads.MAX_HEAD_BYTES):
        assert finder.find(other) is None
        assert not finder.may_become_plain(other)


def test_not_more_heads_are_remembered_than_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "MAX_REMEMBERED", 10)
    finder = make_finder()
    for number in range(100):
        assert finder.find(make_head(HOST, TYPE, LENGTH, f"X-Request-Id: {number}")) is not None
        assert len(finder._remembered) <= 10
