"""Tests `streamd/http/unsubscribing.py`: subscriptions end one by one, and the socket stays."""

from typing import Any

import pytest

from tests.support.http_harness import NEED, TYPES, HttpDaemon, Socket, make_rows
from tests.support.made_alerts import ServedAlerts, make_alert


async def subscribe_all(daemon: HttpDaemon, socket: Socket) -> None:
    """Subscribe to forecasts, alerts and the fleet, and read what comes at once."""
    assert (await socket.ask({"type": "subscribe"}))["type"] == "subscribed"
    assert (await socket.ask({"type": "subscribe-alerts"}))["type"] == "subscribed-alerts"
    assert (await socket.receive())["type"] == "alerts"
    assert (await socket.ask({"type": "subscribe-fleet"}))["type"] == "subscribed-fleet"
    assert (await socket.receive())["type"] == "fleet"
    assert count_readers(daemon) == (1, 1, 1)


def count_readers(daemon: HttpDaemon) -> tuple[int, int, int]:
    service = daemon.service
    return len(service.hub), len(service.alert_subscriptions), len(service.fleet)


@pytest.mark.parametrize("content_type", TYPES)
async def test_without_a_choice_all_subscriptions_end_and_the_socket_takes_others(
    daemon: HttpDaemon, content_type: str
) -> None:
    ServedAlerts(daemon.service)
    async with daemon.socket("/v1/forecasts", content_type) as socket:
        await subscribe_all(daemon, socket)
        answer = await socket.ask({"type": "unsubscribe"})
        assert answer == {"type": "unsubscribed", "of": ["forecasts", "alerts", "fleet"]}
        assert count_readers(daemon) == (0, 0, 0)
        await daemon.accept(make_rows("a", 1, range(NEED)))
        await daemon.service.pipeline.wait_idle()
        answer = await socket.ask({"type": "subscribe", "last_event_id": 0})
        assert (answer["type"], (await socket.receive())["server"]) == ("subscribed", "a")


@pytest.mark.parametrize(
    ("of", "left"),
    [(["forecasts"], (0, 1, 1)), (["fleet", "alerts", "fleet"], (1, 0, 0)), ([], (1, 1, 1))],
)
async def test_only_the_subscriptions_that_are_named_end(
    daemon: HttpDaemon, of: list[str], left: tuple[int, int, int]
) -> None:
    served = ServedAlerts(daemon.service)
    async with daemon.socket("/v1/forecasts") as socket:
        await subscribe_all(daemon, socket)
        answer = await socket.ask({"type": "unsubscribe", "of": of})
        assert answer["of"] == [kind for kind in ("forecasts", "alerts", "fleet") if kind in of]
        assert count_readers(daemon) == left
        served.put(make_alert())
        if "alerts" not in of:
            assert (await socket.receive())["type"] == "alerts"


async def test_a_socket_without_subscriptions_may_end_them(daemon: HttpDaemon) -> None:
    async with daemon.socket("/v1/forecasts") as socket:
        for _ in range(2):
            assert (await socket.ask({"type": "unsubscribe", "of": ["fleet"]}))["of"] == ["fleet"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"of": ["samples"]}, "Invalid enum value 'samples' - at `$.of[0]`"), ({"of": "fleet"}, "Expected `array`")],
)
async def test_a_subscription_that_does_not_exist_is_refused_and_the_others_stay(
    daemon: HttpDaemon, fields: dict[str, Any], message: str
) -> None:
    ServedAlerts(daemon.service)
    async with daemon.socket("/v1/forecasts") as socket:
        await subscribe_all(daemon, socket)
        error = await socket.ask({"type": "unsubscribe", **fields})
        assert (error["code"], message in error["message"]) == ("malformed", True), error
        assert count_readers(daemon) == (1, 1, 1)
