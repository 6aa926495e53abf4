"""Tests `streamd/client/addresses.py`: a client that has the addresses of several nodes uses one that answers."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from streamd.client import Client, ClientSample, DaemonUnreachableError, Reconnected, RefusedError, ServerForecast
from streamd.client.addresses import Addresses
from tests.support.http_harness import NEED, HttpDaemon, HttpDaemonSettings, make_rows, origin, run_http_daemon
from tests.support.relay import Relay

A, B, C = "http://a:1", "http://b:1/streamd", "http://c:1"
GONE = DaemonUnreachableError("no answer")


def test_the_first_address_is_used_until_it_fails() -> None:
    addresses = Addresses([A, f"{B}/", A])
    assert addresses.current == A
    assert addresses.leave(A, GONE)
    assert addresses.current == B


def test_a_round_in_which_all_failed_is_followed_by_a_wait() -> None:
    addresses = Addresses([A, B, C])
    assert [addresses.leave(each, GONE) for each in (A, B, C, A, B, C)] == [True, True, False, True, True, False]


def test_an_address_that_answered_counts_as_fresh_again() -> None:
    addresses = Addresses([A, B])
    addresses.leave(A, GONE)
    addresses.note_answer(B)
    addresses.note_answer(A)
    assert addresses.leave(B, GONE)
    assert addresses.current == A


def test_of_several_tasks_that_lost_an_address_only_the_first_moves_on() -> None:
    addresses = Addresses([A, B, C])
    for _ in range(3):
        addresses.leave(A, GONE)
    assert addresses.current == B


@pytest.mark.parametrize(
    ("error", "moves"),
    [
        (RefusedError("", code="unavailable", status=503), True),
        (RefusedError("", code="draining"), True),
        (RefusedError("", code="rate_limited", status=429), False),
        (RefusedError("", code="too_busy"), False),
        (RefusedError("", code="unknown_server", status=404), False),
        (DaemonUnreachableError("", is_temporary=False), False),
    ],
)
def test_only_a_failure_of_the_node_itself_is_a_reason_for_another_one(error: RefusedError, moves: bool) -> None:
    addresses = Addresses([A, B])
    assert addresses.leave(A, error) is moves
    assert addresses.current == (B if moves else A)


def test_one_address_stays() -> None:
    addresses = Addresses(A)
    assert not addresses.leave(A, GONE)
    assert addresses.current == A


def test_no_address_is_refused() -> None:
    with pytest.raises(ValueError, match="no address"):
        Addresses([])


# ---------------------------------------------------------------- two daemons, of which the first is behind a relay
@pytest.fixture
async def second(tmp_path: Path) -> AsyncIterator[HttpDaemon]:
    async with run_http_daemon(tmp_path / "second", HttpDaemonSettings()) as daemon:
        yield daemon


async def post(daemon: HttpDaemon, server: str, *steps: int) -> None:
    await daemon.accept(make_rows(server, 1, steps))
    await daemon.service.pipeline.wait_idle()


def go_away(relay: Relay) -> None:
    relay.is_away = True
    relay.cut()


async def test_a_call_goes_to_the_next_address_without_the_wait_of_the_first(relay: Relay, second: HttpDaemon) -> None:
    await post(second, "only-there", 0)
    go_away(relay)
    async with Client([relay.url, second.url], retry_seconds=5.0) as client:
        assert [each.server async for each in client.list_servers()] == ["only-there"]


async def test_a_subscription_goes_on_at_the_next_address(relay: Relay, daemon: HttpDaemon, second: HttpDaemon) -> None:
    async with Client([relay.url, second.url]) as client, client.subscribe() as events:
        await post(daemon, "a", *range(NEED))
        first = await anext(events)
        go_away(relay)
        assert isinstance(await anext(events), Reconnected)
        await post(second, "a", *range(NEED + 1))
        then = await anext(events)
    assert isinstance(first, ServerForecast)
    assert isinstance(then, ServerForecast)
    assert [first.origin, then.origin] == [origin(NEED - 1), origin(NEED)]


async def test_frames_without_an_ack_are_sent_to_the_next_address(relay: Relay, second: HttpDaemon) -> None:
    async with Client([relay.url, second.url]) as client, client.open_ingest() as ingest:
        await ingest.push_samples([ClientSample("a", {"cpu_user": 1.0})])
        relay.loses_answers = True
        sent = await ingest.send_samples([ClientSample("b", {"cpu_user": 1.0})])
        go_away(relay)
        assert (await sent).accepted == 1
    assert "b" in second.service.state.directory.slots


async def test_without_any_address_that_answers_the_error_is_raised(relay: Relay) -> None:
    go_away(relay)
    async with Client([relay.url, f"{relay.url}/other"], retry_seconds=0.05) as client:
        with pytest.raises(DaemonUnreachableError):
            await client.get_status()
