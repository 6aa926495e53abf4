"""Tests `streamd/http/direct/connection.py` over real sockets: a plain call ends as one that aiohttp serves."""

import asyncio

import numpy as np
import pytest

from streamd.core.access.scopes import Scope
from streamd.http.body_turns import LARGE_BODY_BYTES
from streamd.http.connections import Connection
from streamd.http.requests import TransportLimits
from streamd.http.turn_reader import PARSE_BYTES
from streamd.runtime.service import ServiceLimits
from tests.http.conftest import Connect, Start
from tests.support.access_tokens import ALL, grant_all, make_access_list, make_test_token
from tests.support.http_harness import MODEL, MSGPACK, HttpDaemon, HttpDaemonSettings, Message, pack
from tests.support.predict_inputs import REFUSED, Inputs, as_tensors, make_inputs
from tests.support.raw_peers import RawPeer

BODY = pack(as_tensors(make_inputs(1)), MSGPACK)
UNKNOWN = "X-Other: 1\r\n"
"""A field by which a request is left to aiohttp."""


def make_request(body: bytes = BODY, more: str = "", path: str = "/v1/predict") -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {MSGPACK}\r\n{more}"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


async def read_answer(peer: RawPeer) -> tuple[bytes, bytes]:
    """Return the head, without its date, and the body of an answer."""
    head = await peer.receive_until(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.startswith(b"Date: ")]
    size = next(int(line.partition(b": ")[2]) for line in lines if line.startswith(b"Content-Length: "))
    body = b""
    while len(body) < size:
        body += await asyncio.get_running_loop().sock_recv(peer.socket, size - len(body))
    return b"\r\n".join(lines), body


async def ask(peer: RawPeer, data: bytes) -> tuple[bytes, bytes]:
    await peer.send(data)
    return await read_answer(peer)


async def begin_stop(daemon: HttpDaemon) -> "asyncio.Task[None]":
    stopping = asyncio.create_task(daemon.runner.cleanup())
    for _ in range(10):
        await asyncio.sleep(0)
    return stopping


def find_connection(daemon: HttpDaemon) -> Connection:
    assert daemon.runner.server is not None
    (connection,) = (each for each in daemon.runner.server.connections if isinstance(each, Connection))
    return connection


def is_direct(connection: Connection) -> bool:
    return connection._framer is not None


def forbid_aiohttp(daemon: HttpDaemon) -> None:
    """Let every call fail that a handler of aiohttp serves."""

    async def predict(*args: object) -> None:
        raise AssertionError("aiohttp served the call")

    daemon.service.predict = predict  # type: ignore[method-assign, assignment]


# ---------------------------------------------------------------- the same answers
@pytest.mark.parametrize("missing", [None, 2], ids=["all known", "a target unknown"])
async def test_a_plain_call_is_answered_as_by_aiohttp_and_without_it(
    daemon: HttpDaemon, connect: Connect, missing: int | None
) -> None:
    given = make_inputs(1)
    if missing is not None:
        given["encoder_cont"][:, :, missing] = np.nan
    body = pack(as_tensors(given), MSGPACK)
    expected = await ask(await connect(daemon), make_request(body, more=UNKNOWN))
    assert expected[0].startswith(b"HTTP/1.1 200 OK")
    assert f"X-Streamd-Model: {MODEL}".encode() in expected[0]
    forbid_aiohttp(daemon)
    peer = await connect(daemon)
    for path in ("/v1/predict", "/predict", "/v1/predict"):
        answer = await ask(peer, make_request(body, path=path))
        assert sorted(answer[0].split(b"\r\n")) == sorted(expected[0].split(b"\r\n"))
        assert answer[1] == expected[1]


REFUSED_BODIES = [
    *(pytest.param(pack(as_tensors(given), MSGPACK), id=name) for name, given, _ in REFUSED),
    *(b"", b"\xc1", b"\x80", b"\x81\x01\x01", pack({"inputs": 5}, MSGPACK), pack([], MSGPACK)),
    pack({"inputs": {f"x{number}": None for number in range(70)}}, MSGPACK),
]


@pytest.mark.parametrize("body", REFUSED_BODIES)
async def test_a_call_that_is_wrong_gets_the_same_answer_on_both_ways(
    daemon: HttpDaemon, connect: Connect, body: bytes
) -> None:
    expected = await ask(await connect(daemon), make_request(body, UNKNOWN))
    assert expected[0].startswith(b"HTTP/1.1 4")
    peer = await connect(daemon)
    assert await ask(peer, make_request(body)) == expected
    assert not daemon.backend.script.runs
    forbid_aiohttp(daemon)
    assert (await ask(peer, make_request()))[0].startswith(b"HTTP/1.1 200 "), "the next plain call is plain"


@pytest.mark.parametrize(
    "message",
    [
        as_tensors(make_inputs(1))["inputs"],
        {**as_tensors(make_inputs(1)), "more": 1},
        {"inputs": {name: array.tolist() for name, array in make_inputs(1).items() if "cat" not in name}},
    ],
)
async def test_a_call_of_another_form_is_answered_by_aiohttp(
    daemon: HttpDaemon, connect: Connect, message: Message
) -> None:
    body = pack(message, MSGPACK)
    expected = await ask(await connect(daemon), make_request(body, UNKNOWN))
    assert await ask(await connect(daemon), make_request(body)) == expected


async def test_a_full_queue_and_a_late_answer_get_the_same_answers_on_both_ways(start: Start, connect: Connect) -> None:
    limits = ServiceLimits(max_waiting_requests=2, predict_timeout_seconds=0.05)
    daemon = await start(HttpDaemonSettings(service_limits=limits, lanes=1))
    for windows in (3, 1):
        daemon.backend.script.hold = windows == 1
        body = pack(as_tensors(make_inputs(windows)), MSGPACK)
        answers = [await ask(await connect(daemon), make_request(body, more)) for more in ("", UNKNOWN)]
        for head, _ in answers:
            assert head.startswith(b"HTTP/1.1 429 ")
            assert b"Retry-After: 1" in head
        assert answers[0][1] == answers[1][1]
    assert daemon.service.scheduler.calls == daemon.service.scheduler.waiting_requests == 0
    daemon.release_lanes()


async def test_tokens_and_hosts_are_checked_at_each_plain_call(start: Start, connect: Connect) -> None:
    token, other = make_test_token("any", grant_all()), make_test_token("other", {Scope.READ: ALL})
    access = make_access_list(token, other)
    daemon = await start(HttpDaemonSettings(access=access))
    forbidden: list[tuple[dict[str, str], bytes]] = [
        ({}, b"401"),
        (other.headers, b"403"),
        ({"Authorization": "x"}, b"401"),
    ]
    peer = await connect(daemon)
    for headers, status in forbidden:
        more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        answer = await ask(peer, make_request(more=more))
        assert answer[0].startswith(b"HTTP/1.1 " + status)
        assert answer == await ask(await connect(daemon), make_request(more=more + UNKNOWN))
    right = make_request(more=f"Authorization: {token.headers['Authorization']}\r\n")
    assert (await ask(peer, right))[0].startswith(b"HTTP/1.1 200 ")
    access.replace([])
    assert (await ask(peer, right))[0].startswith(b"HTTP/1.1 401 ")


async def test_a_host_of_another_site_is_refused_at_each_plain_call(daemon: HttpDaemon, connect: Connect) -> None:
    peer = await connect(daemon)
    for host, status in (
        ("localhost", b"200"),
        ("evil.example", b"421"),
        ("evil.example", b"421"),
        ("[::1]:1", b"200"),
    ):
        request = make_request().replace(b"Host: localhost", f"Host: {host}".encode())
        assert (await ask(peer, request))[0].startswith(b"HTTP/1.1 " + status)


# ---------------------------------------------------------------- how bytes arrive
async def test_a_request_may_come_in_pieces(daemon: HttpDaemon, connect: Connect) -> None:
    forbid_aiohttp(daemon)
    peer, request = await connect(daemon), make_request()
    for cuts in ([1], [20, 21], [len(request) - 1], [len(request) - len(BODY)], list(range(0, len(request), 97))):
        for begin, end in zip([0, *cuts], [*cuts, len(request)], strict=True):
            await peer.send(request[begin:end])
            await asyncio.sleep(0.001)
        assert (await read_answer(peer))[0].startswith(b"HTTP/1.1 200 ")


async def test_requests_behind_one_in_progress_are_answered_in_order(daemon: HttpDaemon, connect: Connect) -> None:
    bodies = [pack(as_tensors(make_inputs(windows)), MSGPACK) for windows in (1, 2, 3)]
    expected = [(await ask(await connect(daemon), make_request(body)))[1] for body in bodies]
    peer = await connect(daemon)
    health = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    await peer.send(b"".join(map(make_request, bodies)) + health + make_request(bodies[0]))
    assert [(await read_answer(peer))[1] for _ in bodies] == expected
    assert (await read_answer(peer))[0].startswith(b"HTTP/1.1 200 ")
    assert (await read_answer(peer))[1] == expected[0]


async def test_after_any_other_byte_all_is_left_to_aiohttp(daemon: HttpDaemon, connect: Connect) -> None:
    for begin in (b"\r\n", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", make_request(more=UNKNOWN)):
        peer = await connect(daemon)
        await peer.send(begin)
        if len(begin) > 2:
            await read_answer(peer)
        assert (await ask(peer, make_request()))[0].startswith(b"HTTP/1.1 200 ")
        assert not is_direct(find_connection(daemon))
        peer.close()
        while daemon.runner.server is not None and daemon.runner.server.connections:
            await asyncio.sleep(0)


async def test_the_body_of_a_refused_request_is_never_read_as_a_request(start: Start, connect: Connect) -> None:
    token = make_test_token("any", grant_all())
    daemon = await start(HttpDaemonSettings(access=make_access_list(token)))
    daemon.http_app.connections.turns._turn_seconds = 0.0  # so each piece of a request is parsed in a later turn
    hidden = make_request(more=f"Authorization: {token.headers['Authorization']}\r\n")
    for padding in (PARSE_BYTES, 2 * PARSE_BYTES, 3 * PARSE_BYTES, LARGE_BODY_BYTES - len(hidden) - 200):
        head = make_request(b"")[:-4].replace(b"Content-Length: 0", b"")
        first = head + b"Content-Length: %d\r\n\r\n" % (padding + len(hidden))
        peer = await connect(daemon)
        await peer.send(first + b"x" * (padding - len(first)) + hidden + b"x" * len(first))
        assert (await read_answer(peer))[0].startswith(b"HTTP/1.1 401 ")
        await daemon.get("/healthz")
        peer.close()
    assert not daemon.backend.script.runs


async def test_the_memory_of_a_request_in_pieces_is_given_back(daemon: HttpDaemon, connect: Connect) -> None:
    body = pack(as_tensors(make_inputs(40)), MSGPACK)
    peer, request = await connect(daemon), make_request(body)
    await peer.send(request[:-1])
    while not daemon.http_app.connections.budget.held_bytes:
        await asyncio.sleep(0)
    assert (await ask(peer, request[-1:]))[0].startswith(b"HTTP/1.1 200 ")
    assert daemon.http_app.connections.budget.held_bytes == 0


async def test_a_request_that_does_not_go_on_is_left_to_aiohttp_with_its_deadlines(
    start: Start, connect: Connect
) -> None:
    limits = TransportLimits(head_timeout_seconds=0.2, body_timeout_seconds=0.2)
    daemon = await start(HttpDaemonSettings(limits=limits))
    peer, request = await connect(daemon), make_request()
    await peer.send(request[:-1])
    head, body = await read_answer(peer)
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"did not arrive within" in body
    peer = await connect(daemon)
    await peer.send(request[:30])
    await peer.receive_rest()
    assert daemon.http_app.connections.table.closed["slow_head"] == 1


async def test_what_came_first_is_parsed_first_by_aiohttp(
    daemon: HttpDaemon, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The begin of a request is held, its rest waits for a turn, and then the request is left to aiohttp."""
    peer, request = await connect(daemon), make_request(b"x" * 9_000)
    await peer.send(request[:5_000])
    while not (connection := find_connection(daemon)).unframed_bytes:
        await asyncio.sleep(0)
    with monkeypatch.context() as patch:
        patch.setattr(daemon.http_app.connections.turns, "is_over", lambda *args: True)
        await peer.send(request[5_000:])
        while not connection._deferred:
            await asyncio.sleep(0)
        connection.leave_to_aiohttp()
    answer = await read_answer(peer)
    assert answer[0].startswith(b"HTTP/1.1 400 ")
    assert answer == await ask(await connect(daemon), make_request(b"x" * 9_000, UNKNOWN))


async def test_the_begin_of_another_request_is_left_to_aiohttp_at_once(daemon: HttpDaemon, connect: Connect) -> None:
    for begin in (
        b"POST /v1/predict HTTP/1.1\nHost: a",
        b"POST /v1/predict HTTP/1.1\r\n folded\r\nA",
        b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nA: b",
        b"POST /v1/samples HTTP/1.1\r\nHost: a",
    ):
        peer = await connect(daemon)
        await peer.send(begin)
        assert daemon.runner.server is not None
        while not daemon.runner.server.connections:
            await asyncio.sleep(0)
        connection = find_connection(daemon)
        while is_direct(connection):
            assert not connection.unframed_bytes
            await asyncio.sleep(0)
        peer.close()
        while daemon.runner.server.connections:
            await asyncio.sleep(0)


async def test_the_bytes_of_unfinished_requests_are_bounded(
    start: Start, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However slow the machine: a request that takes long would be left to aiohttp, and end as a body that is too slow.
    monkeypatch.setattr("streamd.http.connections.SLOW_REQUEST_SECONDS", 1e6)
    limits = TransportLimits(max_pending_body_bytes=100_000, head_timeout_seconds=1e6, body_timeout_seconds=1e6)
    daemon = await start(HttpDaemonSettings(limits=limits))
    request = make_request(b"x" * 70_000)
    peers = [await connect(daemon) for _ in range(2)]
    await peers[0].send(request[:60_000])
    while daemon.http_app.connections.budget.held_bytes < 60_000:
        await asyncio.sleep(0)
    await peers[1].send(request[:60_000])
    answered, _ = await asyncio.wait(
        [asyncio.ensure_future(read_answer(peer)) for peer in peers], return_when=asyncio.FIRST_COMPLETED
    )
    assert answered.pop().result()[0].startswith(b"HTTP/1.1 429 ")
    assert daemon.http_app.connections.budget.held_bytes <= 100_000


# ---------------------------------------------------------------- bodies of a known form
def make_changed(name: str, value: float) -> Inputs:
    """Return inputs of the usual form with one number replaced, in the second window."""
    given = make_inputs(2)
    given[name][1, 0, 1] = value
    return given


def make_missing() -> Inputs:
    given = make_inputs(2)
    given["encoder_cont"][1] = np.nan
    return given


WRONG_NUMBERS = {
    "infinity": make_changed("encoder_cont", np.inf),
    "the future missing": make_changed("decoder_cont", np.nan),
    "status 16": make_changed("encoder_cat", 16),
    "status negative": make_changed("decoder_cat", -1),
    "all missing": make_missing(),
}


@pytest.mark.parametrize("given", WRONG_NUMBERS.values(), ids=WRONG_NUMBERS)
async def test_wrong_numbers_in_a_known_form_get_the_same_answer_and_harm_no_other_call(
    daemon: HttpDaemon, connect: Connect, given: Inputs
) -> None:
    right, wrong = (pack(as_tensors(each), MSGPACK) for each in (make_inputs(2), given))
    expected = [await ask(await connect(daemon), make_request(body, UNKNOWN)) for body in (right, wrong)]
    assert expected[1][0].startswith(b"HTTP/1.1 4")
    peers = [await connect(daemon) for _ in range(3)]
    assert await ask(peers[0], make_request(right)) == expected[0]
    begun = daemon.service.predict_calls.begin
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(daemon.service.predict_calls, "begin", None)  # bodies are not decoded
        patch.setattr(daemon.service.pipeline, "schedule_dispatch", lambda: None)
        for peer, body in zip(peers, (right, wrong, right), strict=True):
            await peer.send(make_request(body) + make_request(right))
        await wait_for_calls(daemon, 3)
        patch.setattr(daemon.service.predict_calls, "begin", begun)
    daemon.service.pipeline.schedule_dispatch()
    for peer, answer in zip(peers, (expected[0], expected[1], expected[0]), strict=True):
        assert await read_answer(peer) == answer
        assert await read_answer(peer) == expected[0], "the request behind it is answered, too"
    assert daemon.service.scheduler.calls == daemon.service.scheduler.waiting_requests == 0


async def test_a_call_that_is_left_to_aiohttp_is_parsed_before_what_is_behind_it(
    daemon: HttpDaemon, connect: Connect
) -> None:
    right, wrong = make_inputs(200), make_inputs(200)
    wrong["encoder_cat"][-1, 0, 1] = 16
    bodies = [pack(as_tensors(each), MSGPACK) for each in (right, wrong)]
    expected = [await ask(await connect(daemon), make_request(body, UNKNOWN)) for body in bodies]
    assert expected[1][0].startswith(b"HTTP/1.1 422 ")
    peer = await connect(daemon)
    assert await ask(peer, make_request(bodies[0])) == expected[0]
    daemon.http_app.connections.turns._turn_seconds = 0.0  # so each piece of a request is parsed in a later turn
    await peer.send(make_request(bodies[1]) + make_request(bodies[0]) + make_request(bodies[1]))
    assert [await read_answer(peer) for _ in range(3)] == [expected[1], expected[0], expected[1]]


async def test_wrong_numbers_found_while_the_daemon_stops_are_answered(daemon: HttpDaemon, connect: Connect) -> None:
    right, wrong = (pack(as_tensors(each), MSGPACK) for each in (make_inputs(2), make_missing()))
    peer = await connect(daemon)
    assert (await ask(peer, make_request(right)))[0].startswith(b"HTTP/1.1 200 ")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(daemon.service.pipeline, "schedule_dispatch", lambda: None)
        await peer.send(make_request(wrong))
        await wait_for_calls(daemon, 1)
        stopping = asyncio.create_task(daemon.runner.cleanup())
        while not find_connection(daemon)._force_close:
            await asyncio.sleep(0)
    daemon.service.pipeline.schedule_dispatch()
    assert (await read_answer(peer))[0].startswith(b"HTTP/1.1 503 ")
    assert await peer.receive_rest() == b""
    await stopping


async def test_a_connection_that_closes_behind_its_call_lets_aiohttp_answer_first(
    daemon: HttpDaemon, connect: Connect
) -> None:
    right, wrong = (pack(as_tensors(each), MSGPACK) for each in (make_inputs(2), make_missing()))
    peer = await connect(daemon)
    assert (await ask(peer, make_request(right)))[0].startswith(b"HTTP/1.1 200 ")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(daemon.service.pipeline, "schedule_dispatch", lambda: None)
        await peer.send(make_request(wrong))
        await wait_for_calls(daemon, 1)
        find_connection(daemon).close()
    daemon.service.pipeline.schedule_dispatch()
    assert (await read_answer(peer))[0].startswith(b"HTTP/1.1 422 ")
    assert await peer.receive_rest() == b""


# ---------------------------------------------------------------- how calls end
async def wait_for_calls(daemon: HttpDaemon, count: int) -> None:
    while daemon.service.scheduler.calls != count:
        await asyncio.sleep(0)


async def test_who_leaves_takes_the_call_out_of_the_line(daemon: HttpDaemon, connect: Connect) -> None:
    daemon.backend.script.hold = True
    peers = [await connect(daemon) for _ in range(5)]
    for peer in peers:
        await peer.send(make_request())
    await wait_for_calls(daemon, 5)
    for peer in peers:
        peer.close()
    await wait_for_calls(daemon, 0)
    assert daemon.http_app.connections.counts.peers_left == 5
    assert daemon.service.scheduler.waiting_requests == 0
    daemon.release_lanes()
    await daemon.service.pipeline.wait_idle()


async def test_a_stop_waits_for_the_answer(daemon: HttpDaemon, connect: Connect) -> None:
    daemon.backend.script.hold = True
    peer = await connect(daemon)
    await peer.send(make_request())
    await wait_for_calls(daemon, 1)
    stopping = await begin_stop(daemon)
    assert not stopping.done()
    daemon.release_lanes()
    assert (await read_answer(peer))[0].startswith(b"HTTP/1.1 200 ")
    assert await peer.receive_rest() == b""
    await stopping


async def test_a_stop_does_not_wait_for_a_caller_that_leaves(daemon: HttpDaemon, connect: Connect) -> None:
    daemon.backend.script.hold = True
    peer = await connect(daemon)
    await peer.send(make_request())
    await wait_for_calls(daemon, 1)
    stopping = await begin_stop(daemon)
    peer.close()
    await stopping
    assert daemon.service.scheduler.calls == 0
    daemon.release_lanes()


async def test_a_connection_with_calls_is_neither_idle_nor_closed_by_its_age(
    daemon: HttpDaemon, connect: Connect
) -> None:
    peer = await connect(daemon)
    await ask(peer, make_request())
    connection = find_connection(daemon)
    closes_at = connection._next_keepalive_close_time
    assert connection.has_served
    assert connection.is_waiting()
    daemon.backend.script.hold = True
    await peer.send(make_request())
    await wait_for_calls(daemon, 1)
    assert not connection.is_waiting()
    daemon.release_lanes()
    await read_answer(peer)
    assert connection._next_keepalive_close_time > closes_at


async def test_a_call_may_take_longer_than_a_connection_may_be_idle(start: Start, connect: Connect) -> None:
    """aiohttp sees no request in progress, and has a timer since the request that it served."""
    daemon = await start(HttpDaemonSettings(limits=TransportLimits(idle_timeout_seconds=0.1)))
    peer = await connect(daemon)
    await ask(peer, make_request(b"\xc1"))
    assert is_direct(find_connection(daemon))
    daemon.backend.script.hold = True
    await peer.send(make_request())
    await wait_for_calls(daemon, 1)
    timer = find_connection(daemon)._keepalive_handle
    assert timer is not None
    while find_connection(daemon)._keepalive_handle is timer:
        await asyncio.sleep(0.01)
    daemon.release_lanes()
    assert (await read_answer(peer))[0].startswith(b"HTTP/1.1 200 ")


async def test_a_caller_that_reads_no_answers_is_not_read_on(daemon: HttpDaemon, connect: Connect) -> None:
    peer = await connect(daemon)
    body = pack(as_tensors(make_inputs(50)), MSGPACK)
    sent = 0
    while not daemon.has_stalled_reader():
        sent += peer.send_what_fits(make_request(body)[sent % len(make_request(body)) :])
        await asyncio.sleep(0)
    await daemon.service.pipeline.wait_idle()
    runs = len(daemon.backend.script.runs)
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(daemon.backend.script.runs) == runs
