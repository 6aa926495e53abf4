"""Tests `streamd/tools/loadtest/capture_poster.py`: answers of each protocol, a busy daemon, and one that is away."""

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from streamd.core.errors import MalformedError
from streamd.protocols.otlp.answers import OtlpEncoding, encode_export_answer, encode_export_error
from streamd.tools.captures.requests import CapturedRequest
from streamd.tools.loadtest import capture_poster as module
from streamd.tools.loadtest.capture_poster import AnswerKind, CapturePoster, judge_answer
from streamd.tools.loadtest.errors import LinkLostError

JSON, PROTOBUF, TEXT = "application/json", "application/x-protobuf", "text/plain; charset=utf-8"
TAKEN, PARTLY, REFUSED = AnswerKind
WRITTEN = {"X-Prometheus-Remote-Write-Samples-Written": "1"}


def dump(message: Any) -> bytes:
    return json.dumps(message).encode()


@pytest.mark.parametrize(
    ("status", "content_type", "body", "kind", "text"),
    [
        (204, "", b"", TAKEN, ""),
        (200, JSON, dump({"taken": 1, "rejected": 0, "errors": []}), TAKEN, ""),
        (
            200,
            JSON,
            dump({"rejected": 2, "errors": [{"message": "x\nis bad"}]}),
            PARTLY,
            "2 points were rejected: x is bad",
        ),
        (200, PROTOBUF, encode_export_answer(OtlpEncoding.PROTOBUF), TAKEN, ""),
        (200, PROTOBUF, encode_export_answer(OtlpEncoding.PROTOBUF, 3, "no server"), PARTLY, "no server"),
        (200, JSON, encode_export_answer(OtlpEncoding.JSON, 3, "no server"), PARTLY, "no server"),
        (400, PROTOBUF, encode_export_error(OtlpEncoding.PROTOBUF, MalformedError("cut off")), REFUSED, "cut off"),
        (400, JSON, encode_export_error(OtlpEncoding.JSON, MalformedError("cut off")), REFUSED, "cut off"),
        (400, JSON, dump({"code": "invalid", "message": "partial write: 1 line"}), PARTLY, "partial write: 1 line"),
        (400, JSON, dump({"error": {"message": "no", "details": "why"}}), REFUSED, "no: why"),
        (413, JSON, dump({"type": "error", "message": "too large"}), REFUSED, "too large"),
        (415, TEXT, b"unsupported: \x1b[1m\n", REFUSED, "unsupported: ?[1m"),
        (404, TEXT, b"", REFUSED, "no reason given"),
        (500, PROTOBUF, b"\xff", REFUSED, "no reason given"),
        (200, PROTOBUF, b"\xff", TAKEN, ""),
        (200, JSON, b"[" * 100_000, TAKEN, ""),
        (200, JSON, dump({"rejected": 1, "errors": ["x"]}), PARTLY, "1 points were rejected:"),
    ],
)
def test_an_answer_is_judged(status: int, content_type: str, body: bytes, kind: AnswerKind, text: str) -> None:
    answer = judge_answer(status, {"Content-Type": content_type}, body)
    assert (answer.kind, answer.status, answer.text.strip()) == (kind, status, text)


def test_a_partial_remote_write_and_lines_without_a_timestamp_are_seen_by_headers() -> None:
    assert judge_answer(400, WRITTEN, b"1 of 2 samples").kind is PARTLY
    assert judge_answer(204, {"X-Streamd-Stamped": "7"}, b"").stamped == 7
    assert judge_answer(204, {"X-Streamd-Stamped": "many"}, b"").stamped == 0


class FakeReceiver:
    """Answers with each of `answers` once, then with 204, and keeps what came."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.requests.append((request.path_qs, dict(request.headers), await request.read()))
        status, headers = self.answers.pop(0) if self.answers else (204, {})
        return web.Response(status=status, headers=headers)


@pytest.fixture
async def receiver() -> AsyncIterator[FakeReceiver]:
    fake = FakeReceiver()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", fake.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield fake
    await runner.cleanup()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def make_poster(session: aiohttp.ClientSession, url: str) -> CapturePoster:
    return CapturePoster(session, url, answer_seconds=30.0, reconnect_seconds=0.0)


def make_request(**headers: str) -> CapturedRequest:
    return CapturedRequest(name="x.body", path="/write", body=b"a b=1", query={"precision": "s"}, headers=headers)


async def test_a_request_has_the_recorded_headers_and_no_others(
    session: aiohttp.ClientSession, receiver: FakeReceiver
) -> None:
    poster = make_poster(session, f"{receiver.url}/behind/a/proxy")
    assert (await poster.post(make_request(**{"x-a": "1"}))).kind is TAKEN
    ((path, headers, body),) = receiver.requests
    assert (path, body) == ("/behind/a/proxy/write?precision=s", b"a b=1")
    assert {name.lower() for name in headers} <= {
        "host",
        "x-a",
        "content-encoding",
        "content-length",
        "accept-encoding",
    }
    assert "user-agent" not in {name.lower() for name in headers}


async def test_a_daemon_that_is_busy_gets_the_request_again(
    session: aiohttp.ClientSession, receiver: FakeReceiver
) -> None:
    receiver.answers = [(503, {"Retry-After": "0"}), (429, {"Retry-After": "0"})]
    assert (await make_poster(session, receiver.url).post(make_request())).kind is TAKEN
    assert len(receiver.requests) == 3


async def test_a_daemon_that_stays_busy_has_refused_the_request(
    session: aiohttp.ClientSession, receiver: FakeReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BUSY_TRIES", 3)
    receiver.answers = [(503, {"Retry-After": "0"})] * 9
    answer = await make_poster(session, receiver.url).post(make_request())
    assert (answer.kind, answer.status) == (REFUSED, 503)
    assert len(receiver.requests) == 3


async def test_a_redirect_is_not_followed(session: aiohttp.ClientSession, receiver: FakeReceiver) -> None:
    receiver.answers = [(302, {"Location": "/elsewhere"})]
    assert (await make_poster(session, receiver.url).post(make_request())).status == 302
    assert len(receiver.requests) == 1


async def test_a_header_that_cannot_be_sent_costs_its_request(
    session: aiohttp.ClientSession, receiver: FakeReceiver
) -> None:
    poster = make_poster(session, receiver.url)
    answer = await poster.post(make_request(**{"x-a": "1\r\nx-b: 2"}))
    assert (answer.kind, answer.status) == (REFUSED, 0)
    assert answer.text.startswith("cannot be sent: ")
    assert (await poster.post(make_request())).kind is TAKEN


async def test_a_daemon_that_is_away_is_lost(session: aiohttp.ClientSession) -> None:
    with pytest.raises(LinkLostError, match=r"x\.body: Cannot connect"):
        await make_poster(session, "http://127.0.0.1:1").post(make_request())
