"""Tests `streamd/client/forecast_reader.py`: events, connections that are lost, and daemons that are killed."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamd.client import (
    Client,
    ClientSample,
    DaemonUnreachableError,
    ForecastBatch,
    ForecastEvent,
    ForecastReader,
    MissedForecasts,
    MissReason,
    Reconnected,
    RefusedError,
    ServerForecast,
    connection,
)
from streamd.core.access.scopes import Scope
from tests.support.access_tokens import make_access_list, make_test_token
from tests.support.http_harness import (
    CONTRACT,
    NEED,
    HttpDaemon,
    HttpDaemonSettings,
    is_same_array,
    make_rows,
    make_sample,
    make_window,
    make_wire_forecast,
    open_listener,
    origin,
    run_http_daemon,
)
from tests.support.relay import Relay, open_relay
from tests.support.stalled_peer import BIG


def expect_forecast(number: int, newest: int) -> Any:
    return make_wire_forecast(make_window(make_rows("x", number, range(newest + 1)), newest))


async def post(daemon: HttpDaemon, server: str, steps: range, number: int = 1) -> None:
    """Send rows one by one, each until its forecast is posted."""
    for step in steps:
        await daemon.accept(make_rows(server, number, [step]))
        await daemon.service.pipeline.wait_idle()


async def read_all(events: ForecastReader, last: tuple[str, int]) -> list[ForecastEvent]:
    """Read up to the forecast of a server and origin."""
    found: list[ForecastEvent] = []
    while list_forecasts(found[-1:]) != [last]:
        found.append(await anext(events))
    return found


def list_forecasts(events: list[ForecastEvent]) -> list[tuple[str, float]]:
    return [(event.server, event.origin) for event in events if isinstance(event, ServerForecast)]


# ---------------------------------------------------------------- events
async def test_a_forecast_comes_as_an_array_with_its_names(client: Client, daemon: HttpDaemon) -> None:
    async with client.subscribe(["a"], targets=["load_average"], quantiles=[0.5, 0.9], every=2) as events:
        await post(daemon, "b", range(NEED))
        await post(daemon, "a", range(NEED))
        event = await anext(events)
    assert isinstance(event, ServerForecast)
    assert (event.server, event.origin, event.targets, event.quantiles) == (
        *("a", origin(NEED - 1)),
        *(("load_average",), (0.5, 0.9)),
    )
    assert is_same_array(event.values, np.ascontiguousarray(expect_forecast(1, NEED - 1)[1:, 1::2, 1:]))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
async def test_a_batch_is_one_array_and_yields_each_forecast(client: Client, daemon: HttpDaemon, dtype: str) -> None:
    names = ["a", "b", "c"]
    async with client.subscribe(batch=True, dtype=dtype) as events:
        rows = [make_rows(name, number, range(NEED)) for number, name in enumerate(names)]
        await daemon.accept([row for each in rows for row in each])
        found: dict[str, ServerForecast] = {}
        while len(found) < len(names):
            batch = await anext(events)
            assert isinstance(batch, ForecastBatch)
            assert batch.values.shape == (len(batch), *CONTRACT.forecast_shape[:2], 3)
            found |= {forecast.server: forecast for forecast in batch}
    for number, name in enumerate(names):
        expected = expect_forecast(number, NEED - 1).astype(dtype)
        assert np.array_equal(found[name].values, expected)
        assert (found[name].origin, found[name].context) == (origin(NEED - 1), NEED)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("batch", [False, True])
async def test_an_unknown_target_is_nan_and_named(client: Client, daemon: HttpDaemon, batch: bool, dtype: str) -> None:
    await post(daemon, "whole", range(NEED))
    await daemon.accept([make_sample("half", step, {"cpu_user": 1.0}) for step in range(NEED)])
    await daemon.service.pipeline.wait_idle()
    found: dict[str, ServerForecast] = {}
    async with client.subscribe(batch=batch, dtype=dtype, last_event_id=0) as events:
        while len(found) < 2:
            event = await anext(events)
            assert isinstance(event, ForecastBatch | ServerForecast)
            found |= {each.server: each for each in ([event] if isinstance(event, ServerForecast) else event)}
    latest = await client.get_forecast("half")
    assert isinstance(latest, ServerForecast)
    for half in (found["half"], latest):
        assert half.unknown == ("load_average",)
        assert np.isnan(half.get_curve("load_average", 0.5)).all()
        assert np.isfinite(half.get_curve("cpu_user", 0.5)).all()
    assert found["whole"].unknown == ()
    assert np.isfinite(found["whole"].values).all()


async def test_closing_ends_the_iteration(client: Client) -> None:
    async with client.subscribe() as events:
        reading = asyncio.create_task(anext(events, None))
        await asyncio.sleep(0)
        await events.close()
        assert await reading is None
    assert await anext(events, None) is None


async def test_a_wait_that_is_cancelled_loses_nothing(client: Client, daemon: HttpDaemon) -> None:
    async with client.subscribe() as events:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(events), 0.001)
        await post(daemon, "a", range(NEED))
        assert list_forecasts([await anext(events)]) == [("a", origin(NEED - 1))]


async def test_a_subscription_that_the_model_cannot_serve_is_refused(client: Client) -> None:
    with pytest.raises(RefusedError, match="disk_usage") as caught:
        async with client.subscribe(targets=["disk_usage"]):
            pass
    assert (caught.value.code, caught.value.status) == ("invalid_selection", None)


async def test_a_slow_reader_gets_the_newest_and_how_many_it_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_small_socket(address: Any) -> socket.socket:
        small = socket.socket(*address[:3])
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        return small

    monkeypatch.setattr(connection, "_open_probed_socket", open_small_socket)
    settings = HttpDaemonSettings(contract=BIG, listener=open_listener(send_buffer_bytes=4_096))
    async with run_http_daemon(tmp_path / "x", settings) as daemon, Client(daemon.url) as client:
        async with client.subscribe() as events:
            step = 0
            while not daemon.service.hub.dropped:
                samples = [
                    ClientSample("a", {"a": 1.0, "b": 2.0}, step * 60.0),
                    ClientSample("b", {"a": 1.0, "b": 2.0}, step * 60.0),
                ]
                await client.push_samples(samples)
                await daemon.service.pipeline.wait_idle()
                step += 1
            missed, newest = 0, {"a": 0.0, "b": 0.0}
            while min(newest.values()) < step * 60:
                event = await anext(events)
                if isinstance(event, MissedForecasts):
                    assert event.reason is MissReason.LAGGED
                    missed += event.count
                elif isinstance(event, ServerForecast):
                    newest[event.server] = event.origin
        assert missed == daemon.service.hub.dropped > 0


# ---------------------------------------------------------------- connections that are lost
async def test_after_a_lost_connection_it_continues_and_says_what_it_missed(
    client: Client, daemon: HttpDaemon, relay: Relay
) -> None:
    async with client.subscribe() as events:
        await post(daemon, "a", range(NEED))
        await post(daemon, "b", range(NEED), 2)
        assert list_forecasts([await anext(events), await anext(events)]) == [
            ("a", origin(NEED - 1)),
            ("b", origin(NEED - 1)),
        ]
        relay.cut()
        await post(daemon, "a", range(NEED, NEED + 3))  # two of them are replaced while it is away
        await post(daemon, "c", range(NEED), 3)
        found = await read_all(events, ("c", origin(NEED - 1)))
        assert isinstance(found[0], Reconnected)
        assert found[0].attempts == 1
        assert found[1] == MissedForecasts(2, MissReason.AWAY)
        assert list_forecasts(found) == [("a", origin(NEED + 2)), ("c", origin(NEED - 1))]
        await post(daemon, "b", range(NEED, NEED + 1), 2)
        assert list_forecasts([await anext(events)]) == [("b", origin(NEED))], "and goes on"


async def test_a_reader_that_had_nothing_yet_continues_where_it_subscribed(
    client: Client, daemon: HttpDaemon, relay: Relay
) -> None:
    await post(daemon, "old", range(NEED))
    async with client.subscribe() as events:
        relay.cut()
        await post(daemon, "new", range(NEED))
        assert list_forecasts(await read_all(events, ("new", origin(NEED - 1)))) == [("new", origin(NEED - 1))]


@pytest.mark.parametrize("batch", [False, True])
async def test_what_was_sent_before_the_loss_is_not_repeated(
    client: Client, daemon: HttpDaemon, relay: Relay, batch: bool
) -> None:
    """The id of a frame does not pass forecasts that still wait, so after it some are sent again."""
    names = ["a", "b", "c"]
    async with client.subscribe(batch=batch) as events:
        for name in names:
            await post(daemon, name, range(NEED))
        found: list[tuple[str, float]] = []

        def take(event: ForecastEvent) -> None:
            found.extend(list_forecasts([*event] if isinstance(event, ForecastBatch) else [event]))

        while len(found) < 3:
            take(await anext(events))
        events.last_event_id = 0  # as if all had waited
        relay.cut()
        assert isinstance(await anext(events), Reconnected)
        await post(daemon, "d", range(NEED))
        while len(found) < 4:
            take(await anext(events))
    assert found == [(name, origin(NEED - 1)) for name in [*names, "d"]]


async def test_forecasts_are_missed_by_none_that_loses_its_connection_again_and_again(
    client: Client, daemon: HttpDaemon, relay: Relay
) -> None:
    names, steps = [f"s{number}" for number in range(5)], NEED + 12
    newest: dict[str, float] = {}

    async def disturb() -> None:
        for step in range(steps):
            for name in names:
                await daemon.accept(make_rows(name, 1, [step]))
            relay.cut()

    async with client.subscribe(batch=True) as events:
        disturbing = asyncio.create_task(disturb())
        async with asyncio.timeout(20):
            while any(newest.get(name) != origin(steps - 1) for name in names):
                event = await anext(events)
                if isinstance(event, ForecastBatch):
                    for forecast in event:
                        assert newest.get(forecast.server, 0.0) < forecast.origin, "none comes twice"
                        newest[forecast.server] = forecast.origin
        await disturbing


async def test_a_later_subscription_continues_from_the_id_of_an_earlier_one(client: Client, daemon: HttpDaemon) -> None:
    async with client.subscribe() as events:
        await post(daemon, "a", range(NEED))
        await anext(events)
    await post(daemon, "b", range(NEED))
    async with client.subscribe(last_event_id=events.last_event_id) as later:
        assert list_forecasts([await anext(later)]) == [("b", origin(NEED - 1))]


async def test_the_id_counts_only_what_was_returned(client: Client, daemon: HttpDaemon, relay: Relay) -> None:
    async with client.subscribe() as events:
        await post(daemon, "a", range(NEED))
        await anext(events)
        begin = events.last_event_id
        relay.cut()
        await post(daemon, "a", range(NEED, NEED + 2))
        assert isinstance(await anext(events), Reconnected)
        assert isinstance(await anext(events), MissedForecasts)
        assert events.last_event_id == begin, "the forecast behind it is not returned yet"
        await anext(events)
        assert events.last_event_id is not None
        assert begin is not None
        assert events.last_event_id > begin


@asynccontextmanager
async def run_killed_daemons(folder: Path, relay: Relay) -> AsyncIterator[HttpDaemon]:
    """Run one more daemon on the state of the one before, behind the same relay."""
    async with run_http_daemon(folder, HttpDaemonSettings()) as daemon:
        relay.target_port, relay.is_away = daemon.port, False
        yield daemon
        relay.is_away = True
        relay.cut()


async def test_a_daemon_that_is_started_again_goes_on_with_its_readers(tmp_path: Path) -> None:
    async with open_relay(0) as relay, Client(relay.url) as client:
        events = client.subscribe()
        async with run_killed_daemons(tmp_path, relay) as daemon:
            await events.__aenter__()
            await post(daemon, "a", range(NEED))
            assert list_forecasts([await anext(events)]) == [("a", origin(NEED - 1))]
        async with run_killed_daemons(tmp_path, relay) as daemon:
            await post(daemon, "a", range(NEED, NEED + 1))
            found = await read_all(events, ("a", origin(NEED)))
            assert [type(event) for event in found] == [Reconnected, ServerForecast]
            await events.close()


async def test_who_does_not_want_to_wait_gets_the_loss_as_an_error(client: Client, relay: Relay) -> None:
    async with client.subscribe(reconnect_seconds=0.0) as events:
        relay.is_away = True
        relay.cut()
        with pytest.raises(DaemonUnreachableError, match="connection is lost"):
            await anext(events)


async def test_a_token_that_is_revoked_ends_the_iteration_with_its_refusal(tmp_path: Path) -> None:
    token = make_test_token("reader", {Scope.SUBSCRIBE: ["*"]})
    access = make_access_list(token)
    async with run_http_daemon(tmp_path / "x", HttpDaemonSettings(access=access)) as daemon:
        async with Client(daemon.url, token.token) as client, client.subscribe() as events:
            access.replace([])
            daemon.http_app.sockets.end_revoked()
            with pytest.raises(RefusedError, match="HTTP 401") as caught:
                await anext(events)
            assert caught.value.code == "unauthorized"
        async with Client(daemon.url, "wrong", retry_seconds=0.0) as client:
            with pytest.raises(RefusedError, match="HTTP 401"):
                await client.subscribe().__aenter__()


async def test_one_name_may_stand_for_a_list(client: Client, daemon: HttpDaemon) -> None:
    async with client.subscribe("a", targets="load_average") as events:
        await post(daemon, "b", range(NEED))
        await post(daemon, "a", range(NEED))
        event = await anext(events)
    assert isinstance(event, ServerForecast)
    assert (event.server, event.targets) == ("a", ("load_average",))


async def test_more_sockets_may_be_open_than_a_session_of_aiohttp_permits_by_default(client: Client) -> None:
    readers = [client.subscribe() for _ in range(102)]
    async with asyncio.timeout(20):
        await asyncio.gather(*(reader.__aenter__() for reader in readers))
        await asyncio.gather(*(reader.close() for reader in readers))
