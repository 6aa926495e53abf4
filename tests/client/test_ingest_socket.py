"""Tests `streamd/client/ingest_socket.py`: frames in flight, acks, and connections that are lost between them."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from streamd.client import Client, ClientError, ClientSample, DaemonUnreachableError, PushResult, RefusedError
from streamd.core.access.scopes import Scope
from streamd.http.requests import TransportLimits
from tests.support.access_tokens import make_access_list, make_test_token
from tests.support.http_harness import (
    CONTRACT,
    HttpDaemon,
    HttpDaemonSettings,
    at,
    is_same_array,
    make_rows,
    make_window,
    run_http_daemon,
    values_of,
)
from tests.support.relay import Relay

FEATURES = list(CONTRACT.features)


def make_row(server: str, step: int, number: int = 1) -> ClientSample:
    return ClientSample(server, values_of(number, step), at(step))


async def test_each_frame_gets_its_own_answer(client: Client, daemon: HttpDaemon) -> None:
    async with client.open_ingest() as ingest:
        good = await ingest.send_samples([make_row("a", 0)])
        bad = await ingest.send_samples([make_row("a", 1), ClientSample("", {})])
        columns = await ingest.send_columns(["a", "b"], at(2), FEATURES, np.ones((2, 3)))
        assert await good == PushResult(1, 0)
        result = await bad
        assert (result.accepted, [each.code for each in result.errors]) == (1, ["invalid_server"])
        assert await columns == PushResult(2, 0)
        assert await ingest.push_columns(["b"], [at(3)], FEATURES, np.ones((1, 3))) == PushResult(1, 0)
    assert len(daemon.service.state.directory.slots) == 2


async def test_no_more_frames_are_in_flight_than_permitted(client: Client, relay: Relay) -> None:
    async with client.open_ingest(max_in_flight=2) as ingest:
        relay.loses_answers = True
        frames = [await ingest.send_samples([make_row("a", step)]) for step in range(2)]
        third = asyncio.create_task(ingest.push_samples([make_row("a", 2)]))
        for _ in range(50):
            await asyncio.sleep(0)
        assert not third.done()
        assert not any(frame.done() for frame in frames)
        relay.loses_answers = False
        relay.cut()
        assert await third == PushResult(1, 0)
        assert await asyncio.gather(*frames) == [PushResult(1, 0)] * 2
        assert ingest.reconnects == 1


async def test_a_loss_under_load_costs_no_acked_row(client: Client, daemon: HttpDaemon, relay: Relay) -> None:
    servers, steps, losses = [f"s{number}" for number in range(6)], 60, 10

    async def send(number: int, server: str) -> list[PushResult]:
        return [await ingest.push_samples([make_row(server, step, number)]) for step in range(steps)]

    async def disturb() -> None:
        for number in range(losses):
            before = relay.passed_up
            while relay.passed_up < before + 4:
                await asyncio.sleep(0)
            relay.loses_answers = bool(number % 2)  # rows that arrive, and whose acks do not
            for _ in range(20):
                await asyncio.sleep(0)
            relay.cut()
            relay.loses_answers = False

    async with client.open_ingest(max_in_flight=4) as ingest:
        disturbing = asyncio.create_task(disturb())
        results = await asyncio.gather(*(send(number, server) for number, server in enumerate(servers)))
        await disturbing
        assert ingest.reconnects == losses
    assert results == [[PushResult(1, 0)] * steps] * len(servers)
    for number, server in enumerate(servers):
        window = make_window(make_rows(server, number, range(steps)), steps - 1)
        assert is_same_array(await daemon.window(server), window)


async def test_what_cannot_be_read_fails_alone(client: Client) -> None:
    async with client.open_ingest() as ingest:
        before = await ingest.send_samples([make_row("a", 0)])
        broken = await ingest._send({"samples": 5})
        after = await ingest.send_samples([make_row("a", 1)])
        assert await before == await after == PushResult(1, 0)
        with pytest.raises(RefusedError, match="malformed") as caught:
            await broken
        assert caught.value.code == "malformed"
        assert ingest.reconnects == 0


async def test_a_frame_that_is_too_large_fails_alone(tmp_path: Path) -> None:
    settings = HttpDaemonSettings(limits=TransportLimits(max_frame_bytes=1_000))
    async with (
        run_http_daemon(tmp_path / "x", settings) as daemon,
        Client(daemon.url) as client,
        client.open_ingest() as ingest,
    ):
        small = await ingest.send_samples([make_row("a", 0)])
        large = await ingest.send_samples([make_row(f"server-{number}", 0) for number in range(50)])
        later = await ingest.send_samples([make_row("a", 1)])
        with pytest.raises(RefusedError, match="larger than max_frame_bytes") as caught:
            await large
        assert caught.value.code == "too_large"
        assert await small == await later == PushResult(1, 0)


async def test_a_caller_that_stops_waiting_holds_up_no_other(client: Client, relay: Relay) -> None:
    async with client.open_ingest(max_in_flight=1) as ingest:
        relay.loses_answers = True
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ingest.push_samples([make_row("a", 0)]), 0.01)
        relay.loses_answers = False
        relay.cut()
        assert await ingest.push_samples([make_row("a", 1)]) == PushResult(1, 0)
        await ingest.wait_acked()


async def test_an_ack_that_does_not_come_opens_the_connection_again(
    daemon: HttpDaemon, client: Client, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamd.client.ingest_socket.ACK_SECONDS", 0.02)
    async with client.open_ingest() as ingest:
        relay.loses_answers = True
        pushing = asyncio.create_task(ingest.push_samples([make_row("a", 0)]))
        while relay.accepted < 2:
            await asyncio.sleep(0)
        relay.loses_answers = False
        relay.cut()
        assert await pushing == PushResult(1, 0)


async def test_a_token_that_is_revoked_fails_all_that_is_sent_later(tmp_path: Path) -> None:
    token = make_test_token("agent", {Scope.INGEST: ["*"]})
    access = make_access_list(token)
    async with run_http_daemon(tmp_path / "x", HttpDaemonSettings(access=access)) as daemon:

        async def push_on() -> None:
            async with Client(daemon.url, token.token) as client, client.open_ingest() as ingest:
                await ingest.push_samples([make_row("a", 0)])
                access.replace([])
                daemon.http_app.sockets.end_revoked()
                while True:
                    await ingest.push_samples([make_row("a", 1)])

        with pytest.raises(RefusedError, match="HTTP 401"):
            await push_on()
        async with Client(daemon.url, retry_seconds=0.0) as client:
            with pytest.raises(RefusedError, match="HTTP 401"):
                await client.open_ingest().__aenter__()


async def test_leaving_waits_for_the_acks_and_an_error_does_not(client: Client, relay: Relay) -> None:
    async with client.open_ingest() as ingest:
        frame = await ingest.send_samples([make_row("a", 0)])
    assert frame.done()
    ingest = await client.open_ingest().__aenter__()
    relay.loses_answers = True
    frame = await ingest.send_samples([make_row("a", 1)])
    await ingest.__aexit__(KeyError, KeyError(), None)
    with pytest.raises(ClientError, match="closed before the frame was acked"):
        await frame
    with pytest.raises(RuntimeError, match="async with"):
        await ingest.send_samples([])


async def test_who_does_not_want_to_wait_gets_the_loss_as_an_error(client: Client, relay: Relay) -> None:
    ingest = await client.open_ingest(reconnect_seconds=0.0).__aenter__()
    relay.loses_answers = True
    frame = await ingest.send_samples([make_row("a", 0)])
    relay.cut()
    for lost in (lambda: frame, ingest.wait_acked, lambda: ingest.__aexit__(None, None, None)):
        with pytest.raises(DaemonUnreachableError, match="connection for samples was lost"):
            await lost()


async def test_a_client_that_is_closed_ends_what_is_sent(daemon: HttpDaemon) -> None:
    client = await Client(daemon.url).__aenter__()
    ingest = await client.open_ingest().__aenter__()
    await ingest.push_samples([make_row("a", 0)])
    await client.close()
    with pytest.raises(ClientError, match="not open"):
        await ingest.push_samples([make_row("a", 1)])
    with pytest.raises(ClientError, match="not open"):
        await ingest.__aexit__(None, None, None)
