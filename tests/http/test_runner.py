"""Tests `streamd/http/runner.py`: urgent requests are answered at once, but not those of one connection in a row."""

from types import SimpleNamespace
from typing import Any

import pytest

from streamd.http.peer_turns import PeerTurns
from streamd.http.runner import URGENT_A_TURN, UrgentRequests
from tests.support.http_harness import HttpDaemon
from tests.support.raw_peers import HEAD, RawPeer


def make_request(connection: object, path: str = "/healthz") -> Any:
    return SimpleNamespace(path=path, protocol=connection)


def test_a_connection_has_one_urgent_request_a_turn() -> None:
    turns = PeerTurns()
    urgent = UrgentRequests(turns)
    first, second = object(), object()
    assert urgent.is_next(make_request(first))
    assert not urgent.is_next(make_request(first)), "it sends probes without waiting for their answers"
    assert urgent.is_next(make_request(second, "/readyz")), "another connection does not wait for it"
    turns.number += 1
    assert urgent.is_next(make_request(first))


def test_urgent_requests_of_one_turn_are_bounded() -> None:
    urgent = UrgentRequests(PeerTurns())
    answers = [urgent.is_next(make_request(object())) for _ in range(URGENT_A_TURN + 2)]
    assert answers == [True] * URGENT_A_TURN + [False] * 2


def test_other_requests_are_not_urgent() -> None:
    assert not UrgentRequests(PeerTurns()).is_next(make_request(object(), "/metrics"))


async def test_each_turn_of_the_loop_has_a_number() -> None:
    turns = PeerTurns()
    await turns.wait()
    before = turns.number
    await turns.wait()
    assert turns.number > before


@pytest.mark.parametrize("expected", [b"a cup of tea", b"\xad"])
async def test_an_expectation_that_is_not_known_is_refused(daemon: HttpDaemon, expected: bytes) -> None:
    peer = RawPeer()
    await peer.connect(daemon.port)
    await peer.send(
        f"POST /v1/samples HTTP/1.1\r\n{HEAD}Content-Length: 2\r\nExpect: ".encode() + expected + b"\r\n\r\n{}"
    )
    answer = await peer.receive_until(b"}")
    assert answer.startswith(b"HTTP/1.1 417 ")
    assert b'"expectation_failed"' in answer
    peer.socket.close()
