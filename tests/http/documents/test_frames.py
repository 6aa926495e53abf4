"""Tests `streamd/http/documents/frames.py`: the types of the frames are those of real frames and events."""

import json
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from streamd.core.alerts.settings import AlertSettings
from streamd.http.documents.agent_answers import PointsAnswer
from streamd.http.documents.alert_calls import AlertsFrame, SubscribedAlertsFrame
from streamd.http.documents.answers import ErrorAnswer
from streamd.http.documents.fleet_calls import FleetFrame, SubscribedFleetFrame
from streamd.http.documents.frames import (
    AckFrame,
    ForecastsFrame,
    LaggedFrame,
    PushedForecast,
    SubscribedFrame,
    UnsubscribedFrame,
)
from tests.http.conftest import Start
from tests.support.documented_answers import check_documented
from tests.support.http_harness import NEED, HttpDaemon, HttpDaemonSettings, at, make_rows, make_sample
from tests.support.made_alerts import ServedAlerts, make_alert

FRAMES: Mapping[str, type[msgspec.Struct]] = {
    "ack": AckFrame,
    "error": ErrorAnswer,
    "subscribed": SubscribedFrame,
    "forecast": PushedForecast,
    "forecasts": ForecastsFrame,
    "lagged": LaggedFrame,
    "subscribed-alerts": SubscribedAlertsFrame,
    "alerts": AlertsFrame,
    "subscribed-fleet": SubscribedFleetFrame,
    "fleet": FleetFrame,
    "unsubscribed": UnsubscribedFrame,
}
"""The type of each kind of frame."""


def check_frame(frame: Any, kind: str) -> None:
    assert frame["type"] == kind
    check_documented(frame, FRAMES[kind])


async def feed(daemon: HttpDaemon, *servers: str) -> None:
    for server in servers:
        await daemon.accept(make_rows(server, 1, range(NEED)))
    await daemon.service.pipeline.wait_idle()


async def test_the_answers_to_frames_of_samples_are_as_documented(daemon: HttpDaemon) -> None:
    async with daemon.socket("/v1/ingest") as socket:
        check_frame(await socket.ask({"id": 1, "samples": [make_sample("a", 0)]}), "ack")
        check_frame(await socket.ask({"id": "x", "samples": [{"server": ""}]}), "ack")
        check_frame(await socket.ask([]), "error")


@pytest.mark.parametrize("choice", [{}, {"ids": True}, {"every": 2}])
async def test_the_frames_of_a_subscription_are_as_documented(daemon: HttpDaemon, choice: dict[str, Any]) -> None:
    for batch, kind in ((False, "forecast"), (True, "forecasts")):
        async with daemon.socket("/v1/forecasts") as socket:
            check_frame(await socket.ask({"type": "subscribe", "batch": batch, **choice}), "subscribed")
            await feed(daemon, f"server-{batch}")
            check_frame(await socket.receive(), kind)


@pytest.mark.parametrize("batch", [False, True])
async def test_the_frames_with_unknown_targets_are_as_documented(daemon: HttpDaemon, batch: bool) -> None:
    async with daemon.subscribed(batch=batch) as socket:
        await daemon.accept([make_sample("half", step, {"cpu_user": 1.0}) for step in range(NEED)])
        frame = await socket.receive()
    assert frame["unknown"] == ([["load_average"]] if batch else ["load_average"])
    check_frame(frame, frame["type"])


async def test_the_frame_of_a_reader_that_lags_is_as_documented(daemon: HttpDaemon) -> None:
    async with daemon.subscribed() as socket:
        for subscription in daemon.service.hub._subscriptions:
            subscription.count_dropped(2)
        await feed(daemon, "a")
        check_frame(await socket.receive(), "lagged")


async def test_the_frames_of_alerts_are_as_documented(daemon: HttpDaemon) -> None:
    served = ServedAlerts(daemon.service, make_alert())
    async with daemon.socket("/v1/forecasts") as socket:
        slowly = {"type": "subscribe", "batch": True, "interval_seconds": 0.5}
        check_frame(await socket.ask(slowly), "subscribed")
        check_frame(await socket.ask({"type": "subscribe-alerts", "rules": ["disk_fills"]}), "subscribed-alerts")
        check_frame(await socket.receive(), "alerts")
        served.put(make_alert(server="db-08", is_above=False))
        check_frame(await socket.receive(), "alerts")


async def test_the_frames_of_the_fleet_are_as_documented(start: Start) -> None:
    high = {"target": "cpu_user", "above": 1.0}
    daemon = await start(HttpDaemonSettings(alerts=AlertSettings(rules={"r": high}), wall=lambda: at(NEED) + 10.0))
    assert daemon.service.alerts is not None
    alert = make_alert("r", "web-1")
    daemon.service.alerts.active[alert.key] = alert
    await feed(daemon, "web-1")
    for group in (False, True):
        async with daemon.socket("/v1/forecasts") as socket:
            check_frame(await socket.ask({"type": "subscribe-fleet", "group": group}), "subscribed-fleet")
            frame = await socket.receive()
            check_frame(frame, "fleet")
            assert frame["groups" if group else "servers"][0]["crossing"]["rule"] == "r"


async def test_the_answer_to_an_unsubscribe_message_is_as_documented(daemon: HttpDaemon) -> None:
    async with daemon.socket("/v1/forecasts") as socket:
        check_frame(await socket.ask({"type": "unsubscribe", "of": ["fleet"]}), "unsubscribed")


async def test_the_events_of_forecasts_are_as_documented(daemon: HttpDaemon) -> None:
    await feed(daemon, "a")
    async with daemon.session.get(f"{daemon.url}/v1/forecasts/stream?last_event_id=0") as response:
        check_frame(await read_event(response.content), "forecast")


async def test_the_events_of_alerts_are_as_documented(daemon: HttpDaemon) -> None:
    ServedAlerts(daemon.service, make_alert())
    async with daemon.session.get(f"{daemon.url}/v1/alerts/stream") as response:
        check_frame(await read_event(response.content), "subscribed-alerts")
        check_frame(await read_event(response.content), "alerts")


async def read_event(lines: Any) -> Any:
    async for line in lines:
        if line.startswith(b"data: "):
            return json.loads(line.removeprefix(b"data: "))
    raise AssertionError("the stream ended")


async def test_the_answer_to_a_frame_of_telegraf_is_as_documented(daemon: HttpDaemon) -> None:
    async with daemon.socket("/telegraf") as socket:
        await socket.send_bytes(b"no line")
        check_documented(await socket.receive(), PointsAnswer)
