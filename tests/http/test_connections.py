"""Tests `streamd/http/connections.py`, `turn_reader.py` and `connection_table.py`: peers that flood or stall."""

import asyncio
import gc
import json
from collections.abc import Callable, Iterator

import pytest
import structlog
from aiohttp.http import HttpProcessingError

from streamd.http.connection_table import CloseReason
from streamd.http.connections import Connection
from streamd.http.requests import TransportLimits
from streamd.runtime.pauses import Pauses
from tests.http.conftest import Connect, Start
from tests.support.http_harness import HttpDaemon, HttpDaemonSettings, at, make_sample, open_listener
from tests.support.paused_clock import PausableClock
from tests.support.raw_peers import HEAD, RawPeer, make_masked_frame
from tests.support.stalled_peer import BIG, StalledReader

GET = f"GET /healthz HTTP/1.1\r\n{HEAD}\r\n".encode()
STREAM = f"GET /v1/forecasts/stream HTTP/1.1\r\n{HEAD}\r\n".encode()
SAMPLE = b'{"samples":[{"server":"a","time":%d,"values":{"cpu_user":1}}]}' % at(0)


@pytest.fixture
def events() -> Iterator[list[structlog.typing.EventDict]]:
    with structlog.testing.capture_logs() as captured:
        yield captured


def stop_clock(daemon: HttpDaemon) -> PausableClock:
    """Stop the clock of all deadlines; from then on the test moves it."""
    pauses: Pauses = daemon.service.pauses
    now = pauses.clock()
    pauses.clock = clock = PausableClock(pauses)
    clock.base = lambda: now
    return clock


def count_closed(daemon: HttpDaemon) -> dict[str, int]:
    return {reason: count for reason, count in daemon.http_app.connections.table.closed.items() if count}


def list_connections(daemon: HttpDaemon) -> list[Connection]:
    assert daemon.runner.server is not None
    return [each for each in daemon.runner.server.connections if isinstance(each, Connection)]


async def wait_for_bytes(daemon: HttpDaemon) -> None:
    """Wait until the daemon has read what peers have sent: it answers a request that came later."""
    for _ in range(3):
        assert (await daemon.get("/healthz")).status == 200


# ---------------------------------------------------------------- slow heads, idle connections
@pytest.mark.parametrize("sent", [b"", b"G", GET[:-2], b"\r\n"], ids=["nothing", "a byte", "all but the end", "a line"])
async def test_a_head_that_is_not_complete_in_time_ends_its_connection(
    daemon: HttpDaemon, connect: Connect, events: list[structlog.typing.EventDict], sent: bytes
) -> None:
    clock, table = stop_clock(daemon), daemon.http_app.connections.table
    peers = [await connect(daemon) for _ in range(3)]
    for peer in peers:
        await peer.send(sent)
    await wait_for_bytes(daemon)
    table.close_overdue()
    clock.run(9.5)
    table.close_overdue()
    assert count_closed(daemon) == {}
    clock.run(1.0)
    table.close_overdue()
    for peer in peers:
        assert await peer.receive_rest() == b""
    assert count_closed(daemon) == {"slow_head": 3}
    table.close()
    assert [(each["reason"], each["count"]) for each in events if each["event"] == "connections_closed"] == [
        ("slow_head", 3)
    ]


async def test_a_head_that_comes_byte_by_byte_has_no_more_time(daemon: HttpDaemon, connect: Connect) -> None:
    clock, table = stop_clock(daemon), daemon.http_app.connections.table
    peer = await connect(daemon)
    sent = 0
    while not count_closed(daemon):
        await peer.send(GET[sent : sent + 1])
        sent += 1
        await wait_for_bytes(daemon)
        clock.run(1.5)
        table.close_overdue()
    assert sent <= 8, "a byte each 1.5 s, and 10 s in all"
    assert await peer.receive_rest() == b""
    assert count_closed(daemon) == {"slow_head": 1}


async def test_a_connection_that_had_a_request_may_be_idle_for_longer(daemon: HttpDaemon, connect: Connect) -> None:
    clock, table = stop_clock(daemon), daemon.http_app.connections.table
    peer = await connect(daemon)
    await peer.send(GET)
    await peer.receive_until(b"\r\n\r\n")
    table.close_overdue()
    clock.run(890.0)
    table.close_overdue()
    assert count_closed(daemon) == {}
    clock.run(11.0)
    table.close_overdue()
    await peer.receive_rest()
    assert count_closed(daemon)["idle"] >= 1


async def test_a_connection_whose_request_is_in_progress_is_never_idle(daemon: HttpDaemon, connect: Connect) -> None:
    clock, table = stop_clock(daemon), daemon.http_app.connections.table
    peer = await connect(daemon)
    await peer.send(STREAM)
    await peer.receive_until(b"\r\n\r\n")
    for _ in range(3):
        clock.run(900.0)
        table.close_overdue()
    assert len(daemon.http_app.sockets) == 1


# ---------------------------------------------------------------- the number of connections
async def test_the_connection_that_waited_longest_makes_space_for_a_new_one(start: Start, connect: Connect) -> None:
    daemon = await start(HttpDaemonSettings(limits=TransportLimits(max_connections=4)))
    clock = stop_clock(daemon)
    assert (await daemon.get("/healthz")).status == 200  # the session's connection; it was of use
    silent = []
    for _ in range(3):
        silent.append(await connect(daemon))
        await wait_for_bytes(daemon)
        clock.run(1.0)
    newcomer = await connect(daemon)
    await newcomer.send(GET)
    assert (await newcomer.receive_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    assert await silent[0].receive_rest() == b""
    assert count_closed(daemon) == {"made_space": 1}
    assert len(list_connections(daemon)) == 4


async def test_a_connection_is_refused_with_an_answer_if_all_have_requests(start: Start, connect: Connect) -> None:
    daemon = await start(HttpDaemonSettings(limits=TransportLimits(max_connections=3)))
    readers = [await connect(daemon) for _ in range(3)]
    for reader in readers:
        await reader.send(STREAM)
        await reader.receive_until(b"\r\n\r\n")
    refused = await connect(daemon)
    head, _, body = (await refused.receive_rest()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503")
    assert b"Retry-After: 1" in head
    assert json.loads(body)["code"] == "too_busy"
    assert count_closed(daemon) == {"refused": 1}
    readers[0].close()
    while len(daemon.http_app.sockets) == 3:
        await asyncio.sleep(0)
    assert (await daemon.get("/healthz")).status == 200


# ---------------------------------------------------------------- floods
async def count_most_in_a_turn(read: Callable[[], int], until: int) -> int:
    """Return the highest rise of a count in one turn of the loop, until it reaches a value."""
    most, before = 0, read()
    while before < until:
        await asyncio.sleep(0)
        now = read()
        most, before = max(most, now - before), now
    return most


async def test_tiny_frames_of_several_peers_do_not_keep_the_loop(daemon: HttpDaemon) -> None:
    peers, frames = [RawPeer() for _ in range(4)], 10_000
    refused = daemon.service.ingest.refused
    for peer in peers:
        await peer.open_websocket(daemon.port, "/v1/ingest?ack=none")
    counting = asyncio.create_task(count_most_in_a_turn(lambda: refused.get("malformed", 0), 4 * frames))
    flooding = asyncio.gather(*(peer.send(make_masked_frame(b"") * frames) for peer in peers))
    while not refused.get("malformed"):
        await asyncio.sleep(0)
    assert (await daemon.get("/healthz")).status == 200
    assert refused["malformed"] < 4 * frames, "the answer came before the flood was over"
    await flooding
    assert await counting < 4_096, "as many as aiohttp buffers for one connection"
    assert daemon.http_app.connections.turns.waits > 0
    for peer in peers:
        peer.close()


async def test_pings_are_answered_in_turns_and_frames_among_them_are_taken(daemon: HttpDaemon) -> None:
    peer, pings = RawPeer(), 5_000
    await peer.open_websocket(daemon.port, "/v1/ingest")
    sending = asyncio.create_task(peer.send(make_masked_frame(b"", 0x89) * pings + make_masked_frame(SAMPLE)))
    answers = b""
    while b'"accepted":1' not in answers:
        answers += await asyncio.get_running_loop().sock_recv(peer.socket, 2**16)
    await sending
    assert 1 <= answers.count(b"\x8a\x00") <= pings
    peer.close()


async def test_a_peer_that_reads_no_pongs_costs_no_memory(daemon: HttpDaemon) -> None:
    peer = RawPeer()
    peer.socket.setsockopt(1, 8, 4_096)  # SO_RCVBUF
    await peer.open_websocket(daemon.port, "/v1/ingest")
    (connection,) = [each for each in list_connections(daemon) if each._partial is not None]
    ping = make_masked_frame(b"x" * 125, 0x89)
    for _ in range(200):
        await peer.send(ping * 100)
        await asyncio.sleep(0)
        assert connection.transport is not None
        assert connection.transport.get_write_buffer_size() < 2**16
    peer.close()


async def test_requests_behind_an_event_stream_are_not_read_without_limit(daemon: HttpDaemon, connect: Connect) -> None:
    peer = await connect(daemon)
    await peer.send(STREAM)
    await peer.receive_until(b"\r\n\r\n")
    post = f"POST /v1/samples HTTP/1.1\r\n{HEAD}Content-Type: application/json\r\nContent-Length: 400000\r\n\r\n"
    flood, blocked = (post.encode() + b" " * 400_000) * 40, 0
    while blocked < 50:
        blocked = blocked + 1 if not peer.send_what_fits(flood) else 0
        await daemon.get("/healthz")
    assert daemon.http_app.connections.budget.held_bytes < 2**20


async def test_after_a_head_that_is_not_http_nothing_is_parsed_and_nothing_stays(
    daemon: HttpDaemon, connect: Connect
) -> None:
    peer = await connect(daemon)
    while not (connections := list_connections(daemon)):
        await asyncio.sleep(0)
    gc.collect()
    gc.disable()  # what a cycle keeps stays now
    try:
        await peer.send(f"GET /healthz HTTP/1.1\r\n{HEAD}".encode() + b"A:b\r\n" * 40_000)
        assert b"Too many headers" in await peer.receive_rest()
        await daemon.get("/healthz")
        assert not [each for each in gc.get_objects() if isinstance(each, HttpProcessingError)]
    finally:
        gc.enable()
    assert connections[0]._request_count == 1


def find_connections_in_memory() -> list[Connection]:
    return [each for each in gc.get_objects() if isinstance(each, Connection)]


async def test_a_connection_that_is_over_is_freed_without_the_garbage_collector(
    daemon: HttpDaemon, connect: Connect
) -> None:
    gc.collect()
    gc.disable()  # what a cycle keeps stays now
    before = len(find_connections_in_memory())  # of other tests
    try:
        for sent in (GET, b"not HTTP\r\n\r\n"):
            peer = await connect(daemon)
            await peer.send(sent)
            await peer.receive_until(b"\r\n\r\n")
            peer.close()
            for _ in range(1_000):  # turns of the loop, until it knows
                if len(find_connections_in_memory()) <= before:
                    break
                await asyncio.sleep(0)
            assert len(find_connections_in_memory()) <= before
    finally:
        gc.enable()


async def test_requests_behind_one_in_progress_are_freed_when_their_peer_leaves(
    daemon: HttpDaemon, connect: Connect
) -> None:
    peer = await connect(daemon)
    await peer.send(STREAM)
    await peer.receive_until(b"\r\n\r\n")
    (connection,) = list_connections(daemon)
    for sent, count in ((GET * 3, 3), (b"not HTTP\r\n\r\n", 4)):
        await peer.send(sent)
        while len(connection._messages) < count:
            await asyncio.sleep(0)
    error = connection._messages[-1][0].exc  # type: ignore[union-attr]
    assert error.__traceback__ is None, "its frames hold what was received"
    peer.close()
    while list_connections(daemon):
        await asyncio.sleep(0)
    assert not connection._messages


async def test_a_request_whose_peer_leaves_before_its_turn_is_not_handled(
    daemon: HttpDaemon, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, has_turn = daemon.http_app.connections, iter([True])  # to be parsed, and then none to be handled
    is_waiting, is_handled = asyncio.Event(), asyncio.Event()

    async def wait_for_ever() -> None:
        is_waiting.set()
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(parts.turns, "is_over", lambda *_: not next(has_turn, False))
    monkeypatch.setattr(parts.turns, "wait", wait_for_ever)
    monkeypatch.setattr("streamd.http.routes.health.describe_status", lambda *_: is_handled.set())
    gc.collect()
    gc.disable()  # what a cycle keeps stays now
    before = len(find_connections_in_memory())  # of other tests
    try:
        peer = await connect(daemon)
        await peer.send(f"GET /v1/status HTTP/1.1\r\n{HEAD}\r\n".encode())
        await is_waiting.wait()
        peer.close()
        while not parts.counts.peers_left:
            await asyncio.sleep(0)
        assert not is_handled.is_set()
        assert not len(parts.table), "its place is free"
        await asyncio.sleep(0)  # the loop drops what it still holds for it
        await asyncio.sleep(0)
        assert len(find_connections_in_memory()) <= before, "its error keeps it"
    finally:
        gc.enable()


# ---------------------------------------------------------------- unfinished messages
async def test_unfinished_messages_of_all_sockets_are_bounded_and_others_are_served(start: Start) -> None:
    daemon = await start(HttpDaemonSettings(limits=TransportLimits(max_pending_body_bytes=2**20)))
    budget, peers = daemon.http_app.connections.budget, [RawPeer() for _ in range(20)]
    frame = make_masked_frame(b"x" * 200_000)
    for peer in peers:
        await peer.open_websocket(daemon.port, "/v1/ingest")
        await peer.send(frame[:150_000])
        await wait_for_bytes(daemon)
        assert budget.held_bytes <= 2**20
    dropped = count_closed(daemon)["memory"]
    assert dropped >= len(peers) - 2**20 // 150_000
    assert budget.held_bytes >= 2**20 - 300_000, "no more are closed than must be"
    await daemon.accept([make_sample("a", 0)])
    ended: set[RawPeer] = set()
    while len(ended) < dropped:
        ended |= {peer for peer in peers if peer not in ended and has_ended(peer)}
        await daemon.get("/healthz")
    for peer in peers:
        peer.close()
    while budget.held_bytes:
        await daemon.get("/healthz")


def has_ended(peer: RawPeer) -> bool:
    """Whether the daemon has closed the socket, with the code for trying again later if it sent one."""
    try:
        data = peer.socket.recv(2**16)
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
    assert data in (b"", b"\x88\x02\x03\xf5")
    return True


async def test_a_message_that_is_not_complete_in_time_ends_its_socket(daemon: HttpDaemon) -> None:
    clock, table = stop_clock(daemon), daemon.http_app.connections.table
    peer, other = RawPeer(), RawPeer()
    for each in (peer, other):
        await each.open_websocket(daemon.port, "/v1/ingest")
    await peer.send(make_masked_frame(SAMPLE)[:20])
    await wait_for_bytes(daemon)
    clock.run(29.0)
    table.close_overdue()
    assert count_closed(daemon) == {}
    clock.run(1.5)
    table.close_overdue()
    assert (await peer.receive_rest()).endswith(b"\x88\x02\x03\xf0")  # 1008
    assert count_closed(daemon)["slow_frame"] == 1
    await other.send(make_masked_frame(SAMPLE))
    await other.receive_until(b"}")
    peer.close()
    other.close()


async def test_a_sender_that_is_too_fast_waits_and_keeps_its_connection(start: Start) -> None:
    """Ten times the budget through one socket: all is taken, nothing is evicted."""
    daemon = await start(HttpDaemonSettings(limits=TransportLimits(max_pending_body_bytes=2**19)))
    peer, count = RawPeer(), 400
    await peer.open_websocket(daemon.port, "/v1/ingest?ack=none")
    padded = make_masked_frame(SAMPLE[:-1] + b" " * 13_000 + b"}")
    await peer.send(padded * count)
    while daemon.service.ingest.accepted < count:
        await daemon.get("/healthz")
    assert count_closed(daemon) == {}
    assert daemon.http_app.connections.budget.held_bytes <= 2**19
    peer.close()


# ---------------------------------------------------------------- peers that do not read
@pytest.mark.parametrize(
    "path", ["/v1/forecasts?servers=*", "/v1/forecasts/stream", "/v1/forecasts?servers=*&batch=true"]
)
async def test_a_reader_that_stalls_holds_little_is_dropped_and_counted(start: Start, path: str) -> None:
    daemon = await start(HttpDaemonSettings(contract=BIG, listener=open_listener(4_096)))
    clock, table = stop_clock(daemon), daemon.http_app.connections.table
    reader = StalledReader()
    await reader.connect(daemon.port, path)
    step = largest = 0
    while not daemon.has_stalled_reader() or step < 40:
        await daemon.accept([make_sample("x", step, {"a": 1.0, "b": 1.0})])
        step += 1
        await daemon.service.pipeline.wait_idle()
        sizes = [each.transport.get_write_buffer_size() for each in list_connections(daemon) if each.transport]
        largest = max(largest, *sizes)
    assert largest < 2**18
    clock.run(31.0)
    table.close_overdue()
    while len(daemon.service.hub):
        await daemon.get("/healthz")
    assert count_closed(daemon)[CloseReason.STALLED_READER] == 1
    reader.close()


async def test_a_caller_that_reads_no_answers_is_dropped(start: Start, connect: Connect) -> None:
    daemon = await start(HttpDaemonSettings(listener=open_listener(4_096)))
    clock, table = stop_clock(daemon), daemon.http_app.connections.table
    peer = await connect(daemon)
    request = f"GET /metrics HTTP/1.1\r\n{HEAD}\r\n".encode()
    while not daemon.has_stalled_reader():
        peer.send_what_fits(request * 100)
        await daemon.get("/healthz")
    clock.run(31.0)
    table.close_overdue()
    assert count_closed(daemon) == {"stalled_reader": 1}
    await peer.receive_rest()
