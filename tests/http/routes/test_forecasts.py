"""Tests `streamd/http/routes/forecasts.py`: the WebSocket and the latest forecast of a server.

Each forecast is of exactly the window that was sent.
"""

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import yarl

from streamd.core.arrays import Float32
from streamd.http.requests import TransportLimits
from streamd.inference.fake import FakeBackend, FakeLane
from tests.http.conftest import Start
from tests.support.http_harness import (
    CONTRACT,
    MODEL,
    MSGPACK,
    NEED,
    TYPES,
    HttpDaemon,
    HttpDaemonSettings,
    Message,
    is_same_array,
    make_rows,
    make_sample,
    make_window,
    make_wire_forecast,
    open_listener,
    origin,
    read_array,
    values_of,
)
from tests.support.stalled_peer import BIG, StalledReader

ALL = {"targets": list(CONTRACT.targets), "quantiles": list(CONTRACT.quantiles)}
SEVEN = make_rows("web-01", 7, range(NEED))
FORECAST = make_wire_forecast(make_window(SEVEN, NEED - 1))


# ---------------------------------------------------------------- one forecast
@pytest.mark.parametrize("content_type", TYPES)
async def test_a_subscriber_gets_the_forecast_of_the_window_that_was_sent(
    daemon: HttpDaemon, content_type: str
) -> None:
    async with daemon.socket("/v1/forecasts", content_type) as reader:
        answer = await reader.ask({"type": "subscribe", "servers": ["web-*"]})
        assert answer == {
            "type": "subscribed",
            "servers": ["web-*"],
            **ALL,
            "every": 1,
            "batch": False,
            "dtype": "float32",
            "step_seconds": CONTRACT.step_seconds,
            "model": MODEL,
        }
        await daemon.accept(SEVEN)
        message = await reader.receive()
    values = message.pop("values")
    assert message == {
        "type": "forecast",
        "server": "web-01",
        "origin": origin(NEED - 1),
        "step_seconds": CONTRACT.step_seconds,
        "model": MODEL,
        **ALL,
        "context": NEED,
    }
    if content_type == MSGPACK:
        assert (values["dtype"], values["shape"]) == ("float32", [2, CONTRACT.horizon, 3])
    assert is_same_array(read_array(values), FORECAST)


async def test_context_is_the_number_of_rows_that_the_window_had(daemon: HttpDaemon) -> None:
    steps = [0, 1, 4, 5, 6, 12]  # the last leaves only 5, 6 and itself in the window of 8
    async with daemon.subscribed() as reader:
        contexts = []
        for count, step in enumerate(steps, start=1):
            await daemon.accept(make_rows("a", 1, [step]))
            if count >= NEED:
                contexts.append((await reader.receive())["context"])
    assert contexts == [3, 4, 5, 3]


async def test_an_all_missing_row_is_never_forecast(daemon: HttpDaemon) -> None:
    async with daemon.subscribed() as reader:
        await daemon.accept([make_sample("a", step, {"cpu_user": None}, status=1) for step in range(20)])
        await daemon.accept(make_rows("b", 1, range(NEED)))
        assert (await reader.receive())["server"] == "b"
    assert (await daemon.get("/v1/forecasts/a")).body == {
        "server": "a",
        "status": "warming",
        "have": 0,
        "need": NEED,
    }
    assert daemon.service.row_counts()["due"] == 1


@pytest.mark.parametrize("content_type", TYPES)
async def test_no_window_gets_the_forecast_of_another(start: Start, content_type: str) -> None:
    servers, steps = 60, 12
    backend = FakeBackend(CONTRACT, (1, 4, 16))
    backend.script.latency_seconds = lambda count: 0.0005 * (count % 3)  # so that lanes end out of order
    daemon = await start(HttpDaemonSettings(backend=backend, lanes=3))
    sent = {f"s-{number:02}": make_rows(f"s-{number:02}", number, range(steps)) for number in range(servers)}
    seen: dict[str, list[int]] = {name: [] for name in sent}

    async def read() -> None:
        async with daemon.subscribed(content_type) as reader:
            subscribed.set()
            while any(origins[-1:] != [origin(steps - 1)] for origins in seen.values()):
                message = await reader.receive()
                if message["type"] == "lagged":
                    continue
                step = message["origin"] // 60 - origin(0) // 60
                window = make_window(sent[message["server"]][: step + 1], step)
                assert is_same_array(read_array(message["values"]), make_wire_forecast(window))
                assert message["context"] == min(step + 1, CONTRACT.context_length)
                seen[message["server"]].append(message["origin"])

    subscribed = asyncio.Event()
    reading = asyncio.create_task(read())
    await subscribed.wait()
    async with daemon.socket("/v1/ingest") as agent:
        for step in range(steps):
            for part in range(0, servers, 7):
                rows = [sent[name][step] for name in list(sent)[part : part + 7]]
                assert (await agent.ask({"samples": rows}))["accepted"] == len(rows)
    await reading
    for origins in seen.values():  # in order, each once
        assert origins == sorted(set(origins))
    await daemon.service.pipeline.wait_idle()
    counts = daemon.service.row_counts()
    assert counts["due"] == servers * (steps - NEED + 1)
    assert counts["due"] == counts["delivered"] + counts["superseded"]
    assert sum(map(len, seen.values())) == counts["delivered"] - daemon.service.hub.dropped


class CrossingBackend(FakeBackend):
    """A backend whose lanes return the quantiles in the wrong order."""

    def make_lane(self, index: int) -> FakeLane:
        lane = super().make_lane(index)
        run: Callable[[int], Float32] = lane.run
        lane.run = lambda count: run(count)[..., ::-1]  # type: ignore[method-assign]
        return lane


async def test_quantiles_never_cross(start: Start) -> None:
    daemon = await start(HttpDaemonSettings(backend=CrossingBackend(CONTRACT)))
    async with daemon.subscribed() as reader:
        await daemon.accept(SEVEN)
        values = read_array((await reader.receive())["values"])
    assert np.all(np.diff(values, axis=-1) > 0)
    assert is_same_array(values, FORECAST)


# ---------------------------------------------------------------- the choice
@pytest.mark.parametrize(
    ("globs", "expected"),
    [
        (["*"], {"web-1", "web-2", "db-1", "Web-1", "web-[x]"}),
        (["web-*"], {"web-1", "web-2", "web-[x]"}),
        (["web-?"], {"web-1", "web-2"}),
        (["web-[12]", "db-*"], {"web-1", "web-2", "db-1"}),
        (["web-[!1]"], {"web-2"}),
        (["web-1", "none"], {"web-1"}),
        (["web-[[]x]"], {"web-[x]"}),
        (["none"], set()),
    ],
)
async def test_globs_choose_servers(daemon: HttpDaemon, globs: list[str], expected: set[str]) -> None:
    async with daemon.subscribed(servers=[*globs, "the-end"]) as reader:
        for name in ("web-1", "web-2", "db-1", "Web-1", "web-[x]"):
            await daemon.accept(make_rows(name, 1, range(NEED)))
        await daemon.accept(make_rows("the-end", 1, range(NEED)))
        got = [(await reader.receive())["server"] for _ in range(len(expected) + 1)]
    assert set(got) == expected | {"the-end"}


@pytest.mark.parametrize("content_type", TYPES)
@pytest.mark.parametrize(
    ("choice", "cut"),
    [
        ({"targets": ["load_average"]}, np.s_[1:]),
        ({"targets": ["load_average", "cpu_user"]}, np.s_[::-1]),
        ({"quantiles": [0.5]}, np.s_[:, :, 1:2]),
        ({"quantiles": [0.9, 0.1]}, np.s_[:, :, ::-2]),
        ({"every": 2}, np.s_[:, 1::2]),
        ({"every": 4}, np.s_[:, 3:]),
        ({"every": 3}, np.s_[:, 2:3]),
        ({"targets": ["cpu_user"], "quantiles": [0.1], "every": 2}, np.s_[:1, 1::2, :1]),
    ],
)
async def test_a_subscriber_gets_the_part_of_a_forecast_that_it_chose(
    daemon: HttpDaemon, content_type: str, choice: Message, cut: Any
) -> None:
    async with daemon.socket("/v1/forecasts", content_type) as reader:
        answer = await reader.ask({"type": "subscribe", **choice})
        await daemon.accept(SEVEN)
        message = await reader.receive()
    for name in ("targets", "quantiles"):
        assert answer[name] == message[name] == choice.get(name, ALL[name])
    assert answer["every"] == choice.get("every", 1)
    assert is_same_array(read_array(message["values"]), FORECAST[cut])


@pytest.mark.parametrize("content_type", TYPES)
async def test_float16_is_sent_and_clipped_to_its_range(daemon: HttpDaemon, content_type: str) -> None:
    async with daemon.subscribed(content_type, dtype="float16") as reader:
        await daemon.accept(SEVEN)
        await daemon.accept(
            [make_sample("big", step, {**values_of(0, step), "cpu_user": 9e29}) for step in range(NEED)]
        )
        messages = {}
        for _ in range(2):
            message = await reader.receive()
            messages[message["server"]] = message["values"]
    if content_type == MSGPACK:
        assert messages["web-01"]["dtype"] == "float16"
        assert len(messages["web-01"]["data"]) == FORECAST.size * 2
    assert np.array_equal(read_array(messages["web-01"]).astype(np.float16), FORECAST.astype(np.float16))
    assert np.all(read_array(messages["big"])[0] == np.finfo(np.float16).max)


@pytest.mark.parametrize("content_type", TYPES)
async def test_a_micro_batch_is_sent_in_one_frame(daemon: HttpDaemon, content_type: str) -> None:
    sent = [each for number in range(5) for each in make_rows(f"s{number}", number, range(NEED))]
    async with daemon.subscribed(content_type, batch=True, targets=["load_average"], every=2) as reader:
        await daemon.accept(sent)
        seen: dict[str, Float32] = {}
        while len(seen) < 5:
            message = await reader.receive()
            assert message["type"] == "forecasts"
            assert message["origins"] == [origin(NEED - 1)] * len(message["servers"])
            assert message["contexts"] == [NEED] * len(message["servers"])
            assert (message["model"], message["targets"], message["every"]) == (MODEL, ["load_average"], 2)
            assert message["step_seconds"] == CONTRACT.step_seconds
            values = read_array(message["values"])
            assert values.shape == (len(message["servers"]), 1, 2, 3)
            seen |= dict(zip(message["servers"], values, strict=True))
    for number in range(5):
        window = make_window(make_rows("", number, range(NEED)), NEED - 1)
        assert is_same_array(seen[f"s{number}"], make_wire_forecast(window)[1:, 1::2])


async def test_with_an_interval_forecasts_gather_for_the_next_frame(daemon: HttpDaemon) -> None:
    async with daemon.socket("/v1/forecasts?batch=true&interval_seconds=60") as reader:
        assert (await reader.receive())["interval_seconds"] == 60
        for server in ("a", "b", "c"):
            await daemon.accept(make_rows(server, 1, range(NEED)))
            await daemon.service.pipeline.wait_idle()
            if server == "a":
                assert (await reader.receive())["servers"] == ["a"]
        finishing = asyncio.create_task(daemon.service.hub.finish())  # which waits for no interval
        assert (await reader.receive())["servers"] == ["b", "c"]
        await finishing


async def test_forecasts_that_wait_together_are_sent_in_one_frame(daemon: HttpDaemon) -> None:
    daemon.backend.script.hold = True
    async with daemon.subscribed(batch=True) as reader:
        # Both lanes are held in one window each, so that the others wait together.
        for number in range(6):
            await daemon.accept(make_rows(f"s{number}", number, range(NEED)))
        daemon.release_lanes()
        sizes: list[int] = []
        while sum(sizes) < 6:
            sizes.append(len((await reader.receive())["servers"]))
    assert max(sizes) > 1


# ---------------------------------------------------------------- query parameters, and another choice
async def test_query_parameters_subscribe(daemon: HttpDaemon) -> None:
    query = "servers=web-*,db&targets=load_average&quantiles=0.1,0.9&every=2"
    async with daemon.socket(f"/v1/forecasts?{query}") as reader:
        answer = await reader.receive()
        assert answer["type"] == "subscribed"
        assert (answer["servers"], answer["targets"]) == (["web-*", "db"], ["load_average"])
        assert (answer["quantiles"], answer["every"]) == ([0.1, 0.9], 2)
        await daemon.accept(make_rows("other", 1, range(NEED)) + SEVEN)
        message = await reader.receive()
    assert message["server"] == "web-01"
    assert is_same_array(read_array(message["values"]), FORECAST[1:, 1::2, ::2])


async def test_query_parameters_choose_the_encoding(daemon: HttpDaemon) -> None:
    async with daemon.socket("/v1/forecasts?format=msgpack&batch=true&dtype=float16", MSGPACK) as reader:
        assert (await reader.receive())["batch"] is True
        await daemon.accept(SEVEN)
        assert (await reader.receive())["values"]["dtype"] == "float16"


@pytest.mark.parametrize(
    "query",
    [
        "targets=disk",
        "quantiles=0.3",
        "quantiles=many",
        "every=0",
        "every=x",
        "batch=perhaps",
        "interval_seconds=soon",
        "interval_seconds=5",
        "dtype=int8",
        "format=xml",
        "color=red",
        "targets=cpu_user,cpu_user",
    ],
)
@pytest.mark.parametrize("path", ["/v1/forecasts/stream", "/v1/forecasts/web-01"])
async def test_unknown_query_parameters_and_values_are_400(daemon: HttpDaemon, path: str, query: str) -> None:
    await daemon.accept(SEVEN)
    reply = await daemon.get(f"{path}?{query}")
    assert (reply.status, reply.code) == (400, "invalid_selection")


async def test_subscribing_again_replaces_the_choice(daemon: HttpDaemon) -> None:
    async with daemon.subscribed(servers=["a"]) as reader:
        await daemon.accept(make_rows("a", 1, range(NEED)))
        assert (await reader.receive())["server"] == "a"
        answer = await reader.ask({"type": "subscribe", "servers": ["b"], "targets": ["cpu_user"]})
        assert answer["type"] == "subscribed"
        await daemon.accept(make_rows("a", 1, range(NEED, NEED + 3)) + make_rows("b", 2, range(NEED)))
        message = await reader.receive()
        assert (message["server"], message["targets"]) == ("b", ["cpu_user"])
    assert len(daemon.service.hub) <= 1


@pytest.mark.parametrize("content_type", TYPES)
@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"type": "subscribe", "targets": ["cpu_user", "disk"]}, "invalid_selection"),
        ({"type": "subscribe", "targets": ["mem_used"]}, "invalid_selection"),  # a feature, not a target
        ({"type": "subscribe", "targets": []}, "invalid_selection"),
        ({"type": "subscribe", "targets": ["cpu_user", "cpu_user"]}, "invalid_selection"),
        ({"type": "subscribe", "quantiles": [0.2]}, "invalid_selection"),
        ({"type": "subscribe", "quantiles": []}, "invalid_selection"),
        ({"type": "subscribe", "every": 0}, "invalid_selection"),
        ({"type": "subscribe", "every": CONTRACT.horizon + 1}, "invalid_selection"),
        ({"type": "subscribe", "dtype": "float64"}, "invalid_selection"),
        ({"type": "subscribe", "servers": ["*" + "x" * 9_000]}, "invalid_selection"),
        ({"type": "subscribe", "servers": ["x"] * 10_001}, "invalid_selection"),
        ({"type": "subscribe", "servers": []}, "malformed"),
        ({"type": "subscribe", "servers": "*"}, "malformed"),
        ({"type": "subscribe", "batch": 1}, "malformed"),
        ({"type": "subscribe", "interval_seconds": "1"}, "malformed"),
        ({"type": "subscribe", "interval_seconds": 1}, "invalid_selection"),  # without batch
        ({"type": "subscribe", "batch": True, "interval_seconds": -1}, "invalid_selection"),
        ({"type": "subscribe", "batch": True, "interval_seconds": 61}, "invalid_selection"),
        ({"type": "resubscribe"}, "malformed"),
        ({}, "malformed"),
        ([], "malformed"),
        (None, "malformed"),
    ],
)
async def test_an_invalid_choice_is_an_error_and_the_previous_one_stays(
    daemon: HttpDaemon, content_type: str, message: Any, code: str
) -> None:
    async with daemon.subscribed(content_type) as reader:
        answer = await reader.ask(message)
        assert set(answer) == {"type", "code", "message"}
        assert (answer["type"], answer["code"]) == ("error", code)
        await daemon.accept(SEVEN)
        assert (await reader.receive())["server"] == "web-01"


async def test_readers_of_different_forms_get_the_same_forecast(daemon: HttpDaemon) -> None:
    async with (
        daemon.subscribed() as first,
        daemon.subscribed() as second,
        daemon.subscribed(MSGPACK) as packed,
        daemon.subscribed(targets=["load_average"]) as part,
    ):
        await daemon.accept(SEVEN)
        assert await first.receive() == await second.receive()
        assert is_same_array(read_array((await packed.receive())["values"]), FORECAST)
        assert is_same_array(read_array((await part.receive())["values"]), FORECAST[1:])


# ---------------------------------------------------------------- a reader that does not read
async def test_a_reader_that_does_not_read_loses_old_forecasts_and_gets_their_count(start: Start) -> None:
    daemon = await start(HttpDaemonSettings(contract=BIG, listener=open_listener(4_096)))
    slow = StalledReader()
    await slow.connect(daemon.port, "/v1/forecasts?servers=*")
    assert (await slow.receive())["type"] == "subscribed"
    sent = 0
    async with daemon.subscribed() as fast:
        while not daemon.service.hub.dropped or sent < 200:
            for name in ("x", "y"):
                await daemon.accept([make_sample(name, sent, {"a": float(sent), "b": 1.0})])
                if sent >= NEED - 1:
                    message = await fast.receive()
                    assert (message["server"], message["origin"]) == (name, origin(sent))
            sent += 1
        # The mailbox holds at most one forecast a server, whatever was sent.
        assert daemon.service.hub.waiting <= 2
        expected = 2 * (sent - NEED + 1)
        # 2. When it reads again, it gets the count of what it missed, and the newest forecast of each server.
        got: dict[str, list[int]] = {"x": [], "y": []}
        dropped = 0
        while [origins[-1:] for origins in got.values()] != [[origin(sent - 1)]] * 2:
            message = await slow.receive()
            if message["type"] == "lagged":
                dropped += message["dropped"]
            else:
                got[message["server"]].append(message["origin"])
                values = read_array(message["values"])
                assert values[0, 0, 1] == np.float32(message["origin"] // 60 - origin(0) // 60) + np.float32(0.001)
    slow.close()
    assert dropped == daemon.service.hub.dropped > 0
    assert sum(map(len, got.values())) + dropped == expected
    for origins in got.values():
        assert origins == sorted(set(origins))


@pytest.mark.parametrize("path", ["/v1/forecasts?servers=*", "/v1/forecasts/stream"])
async def test_a_peer_that_reads_nothing_for_too_long_is_dropped(start: Start, path: str) -> None:
    limits = TransportLimits(send_timeout_seconds=0.05)
    daemon = await start(HttpDaemonSettings(contract=BIG, listener=open_listener(4_096), limits=limits))
    slow = StalledReader()
    await slow.connect(daemon.port, path)
    sent = 0
    while not sent or len(daemon.service.hub):
        await daemon.accept([make_sample("x", sent, {"a": 1.0, "b": 1.0})])
        sent += 1
    while len(daemon.http_app.sockets):
        await daemon.get("/healthz")
    slow.close()


# ---------------------------------------------------------------- the latest forecast of a server
async def test_the_latest_forecast_of_a_server(daemon: HttpDaemon) -> None:
    reply = await daemon.get("/v1/forecasts/web-01")
    assert (reply.status, reply.code) == (404, "unknown_server")
    for have in range(1, NEED):
        await daemon.accept(SEVEN[have - 1 : have])
        body = (await daemon.get("/v1/forecasts/web-01")).body
        assert body == {"server": "web-01", "status": "warming", "have": have, "need": NEED}
    async with daemon.subscribed() as reader:
        await daemon.accept(SEVEN[NEED - 1 :])
        pushed = await reader.receive()
    assert (await daemon.get("/v1/forecasts/web-01")).body == pushed
    packed = (await daemon.get("/v1/forecasts/web-01", MSGPACK)).body
    assert is_same_array(read_array(packed["values"]), FORECAST)
    part = (await daemon.get("/v1/forecasts/web-01?targets=load_average&quantiles=0.5&every=4")).body
    assert is_same_array(read_array(part["values"]), FORECAST[1:, 3:, 1:2])


async def test_a_window_that_waits_for_its_first_forecast_is_pending(start: Start) -> None:
    daemon = await start(HttpDaemonSettings(lanes=0))
    await daemon.accept(SEVEN)
    body = (await daemon.get("/v1/forecasts/web-01")).body
    assert body == {"server": "web-01", "status": "pending", "have": NEED, "need": NEED}
    async with daemon.subscribed() as reader:
        daemon.open_lanes(1)
        assert is_same_array(read_array((await reader.receive())["values"]), FORECAST)


@pytest.mark.parametrize("name", ["rack/7/web", "wéb ☃", "a%b?c#d", "x" * 256, "é" * 128, "a\x00b", "..x", "a b"])
async def test_names_may_contain_any_characters(daemon: HttpDaemon, name: str) -> None:
    async with daemon.subscribed(servers=[name]) as reader:
        await daemon.accept(make_rows(name, 7, range(NEED)))
        assert (await reader.receive())["server"] == name
    for path in ("forecasts", "servers"):
        url = yarl.URL(f"{daemon.url}/v1/{path}/{quote(name, safe='')}", encoded=True)
        async with daemon.session.get(url) as response:
            assert response.status == 200
            assert (await response.json())["server"] == name
