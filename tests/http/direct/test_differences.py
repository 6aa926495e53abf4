"""Tests `streamd/http/direct/*.py`: the same bytes to two daemons, one without direct calls, have the same answers."""

import asyncio
import contextlib
from dataclasses import replace
from random import Random

import pytest

from benchmarks.fuzzing.plain_requests import PlainRequestMaker, list_predict_bodies
from streamd.core.access.scopes import Scope
from tests.http.conftest import Start
from tests.support.access_tokens import ALL, grant_all, make_access_list, make_test_token
from tests.support.http_harness import CONTRACT, MSGPACK, HttpDaemon, HttpDaemonSettings
from tests.support.raw_peers import RawPeer

ANSWER_SECONDS = 0.1
PATIENT_SECONDS = 3.0
"""The begin of a request that is malformed further on may be held for a second."""

BODIES = list_predict_bodies(CONTRACT)
TOKEN, READER = make_test_token("any", grant_all()), make_test_token("reader", {Scope.READ: ALL})
RIGHT = f"Authorization: Bearer {TOKEN.token}"
AUTHORIZATIONS = [
    RIGHT,
    f"Authorization: Bearer {READER.token}",
    f"authorization: token {TOKEN.token}",
    f"Authorization: bearer   {TOKEN.token}",
    f"Authorization: Bearer {TOKEN.token}, x",
    f"{RIGHT}\r\n{RIGHT}",
    "Authorization: Bearer x",
    "Authorization:",
    "X: 1",
]

Exchange = tuple[list[tuple[bytes, ...]], bool]
"""The answers, each with its sorted fields and its body, and whether the daemon closed the connection."""


async def exchange(daemon: HttpDaemon, pieces: list[bytes], seconds: float) -> Exchange | None:
    """Send pieces and read what comes back; `None` if the connection was reset, so that answers may be lost."""
    peer, answer = RawPeer(), b""
    await peer.connect(daemon.port)
    try:
        for piece in pieces:
            await peer.send(piece)
            await asyncio.sleep(0.001)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while data := await asyncio.get_running_loop().sock_recv(peer.socket, 2**16):
                    answer += data
                return split_answers(answer), True
        return split_answers(answer), False
    except ConnectionError:
        return None
    finally:
        peer.close()


def split_answers(data: bytes) -> list[tuple[bytes, ...]]:
    answers = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        status, *fields = head.split(b"\r\n")
        size = next((int(field[16:]) for field in fields if field.startswith(b"Content-Length: ")), 0)
        answers.append((status, *sorted(field for field in fields if not field.startswith(b"Date: ")), data[:size]))
        data = data[size:]
    return answers


def is_same(direct: Exchange, other: Exchange) -> bool:
    """Whether two exchanges are the same.

    Requests that come in one piece with a malformed one are never answered by aiohttp; here they may be.
    """
    if direct == other:
        return True
    answers, expected = direct[0], other[0]
    is_malformed = bool(expected) and b"is not valid HTTP" in expected[-1][-1]
    return is_malformed and answers[-1:] == expected[-1:] and answers[: len(expected) - 1] == expected[:-1]


async def compare(direct: HttpDaemon, other: HttpDaemon, pieces: list[bytes]) -> None:
    """Send the same to both daemons; what is different must stay so if there is more time for the answers."""
    for seconds in (ANSWER_SECONDS, PATIENT_SECONDS):
        found, expected = await asyncio.gather(exchange(direct, pieces, seconds), exchange(other, pieces, seconds))
        if found is None or expected is None or is_same(found, expected):
            return
    assert found == expected, pieces


async def start_both(start: Start, setup: HttpDaemonSettings) -> tuple[HttpDaemon, HttpDaemon]:
    direct, other = await start(setup), await start(setup)
    assert other.runner.server is not None
    parts = replace(other.http_app.connections, direct=None)
    other.runner.server._parts = parts  # type: ignore[attr-defined]
    return direct, other


@pytest.mark.parametrize("has_tokens", [False, True])
async def test_damaged_requests_are_answered_as_by_aiohttp_alone(start: Start, has_tokens: bool) -> None:
    access = make_access_list(TOKEN, READER) if has_tokens else None
    direct, other = await start_both(start, HttpDaemonSettings(access=access))
    maker = PlainRequestMaker(BODIES, Random(7), AUTHORIZATIONS if has_tokens else ())
    for _ in range(12):
        await asyncio.gather(*(compare(direct, other, maker.cut(maker.make_requests())) for _ in range(12)))
    assert direct.http_app.connections.budget.held_bytes == 0
    assert direct.service.scheduler.calls == 0
    assert direct.backend.script.runs


def make_head(*fields: str, first: str = "POST /v1/predict HTTP/1.1", size: int = len(BODIES[0])) -> bytes:
    lines = [first, "Host: localhost", f"Content-Type: {MSGPACK}", f"Content-Length: {size}", *fields]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


NEXT = make_head() + BODIES[0]
"""A right request; in place of a body or behind one, it must be read as by aiohttp."""


@pytest.mark.parametrize(
    "data",
    [
        make_head("Content-Length: 0") + NEXT,
        make_head("Transfer-Encoding: chunked") + b"0\r\n\r\n" + NEXT,
        make_head("Transfer-Encoding: identity") + NEXT,
        make_head(size=0) + NEXT,
        make_head(size=len(NEXT)) + NEXT + NEXT,
        make_head("Expect: 100-continue") + BODIES[0] + NEXT,
        make_head("Connection: close") + BODIES[0] + NEXT,
        make_head("Connection: Upgrade", "Upgrade: websocket") + BODIES[0] + NEXT,
        make_head(first="POST /v1/predict HTTP/1.0") + BODIES[0] + NEXT,
        make_head(first="POST http://localhost/v1/predict HTTP/1.1") + BODIES[0] + NEXT,
        make_head(first="post /v1/predict HTTP/1.1") + BODIES[0] + NEXT,
        make_head(" folded") + BODIES[0] + NEXT,
        make_head("A: b\nX: y") + BODIES[0] + NEXT,
        make_head("A: b\x00") + BODIES[0] + NEXT,
        make_head().replace(b"\r\n", b"\n") + BODIES[0] + NEXT,
        NEXT + b"\r\n" + NEXT,
        NEXT + b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" + NEXT,
        NEXT * 20,
        make_head("Origin: http://evil.example") + BODIES[0] + NEXT,
        make_head("User-Agent: " + "y" * 20_000) + BODIES[0],
    ],
)
@pytest.mark.parametrize("pieces", [1, 7])
async def test_nothing_is_hidden_between_two_parsers(start: Start, data: bytes, pieces: int) -> None:
    direct, other = await start_both(start, HttpDaemonSettings())
    size = -(-len(data) // pieces)
    await compare(direct, other, [data[begin : begin + size] for begin in range(0, len(data), size)])
