"""Tests `streamd/http/routes/servers.py`: after `DELETE /v1/servers/{server}` nothing is left of the server."""

import asyncio

import numpy as np

from tests.http.conftest import Start
from tests.support.http_harness import (
    AS_ADMIN,
    NEED,
    HttpDaemon,
    HttpDaemonSettings,
    is_same_array,
    make_rows,
    make_sample,
    make_window,
    make_wire_forecast,
    origin,
    read_array,
    values_of,
)


async def wait_for_runs(daemon: HttpDaemon, runs: int) -> None:
    while len(daemon.backend.script.runs) < runs:
        await asyncio.sleep(0)


async def forget(daemon: HttpDaemon, server: str) -> None:
    reply = await daemon.call("DELETE", f"/v1/servers/{server}", headers=AS_ADMIN)
    assert (reply.status, reply.data) == (204, b"")


async def test_a_forgotten_server_is_unknown_to_every_call(daemon: HttpDaemon) -> None:
    async with daemon.subscribed() as reader:
        await daemon.accept(make_rows("a", 1, range(NEED)) + make_rows("b", 2, range(NEED)))
        for _ in range(2):
            await reader.receive()
    await forget(daemon, "a")
    for path in ("/v1/servers/a", "/v1/forecasts/a"):
        assert (await daemon.get(path)).code == "unknown_server"
    reply = await daemon.call("DELETE", "/v1/servers/a", headers=AS_ADMIN)
    assert (reply.status, reply.code) == (404, "unknown_server")
    assert [entry["server"] for entry in (await daemon.get("/v1/servers")).body["servers"]] == ["b"]
    assert (await daemon.get("/v1/forecasts/b")).body["origin"] == origin(NEED - 1)
    status = await daemon.status()
    assert (status["servers"], status["rows"]["forgotten"]) == (1, 0)
    metrics = (await daemon.get("/metrics")).data.decode()
    assert "streamd_servers 1.0\n" in metrics
    assert "streamd_servers_deleted_total 1.0\n" in metrics
    assert "streamd_servers_forgotten_total 0.0\n" in metrics, "that counts servers that were evicted for a new one"


async def test_a_forgotten_server_that_reports_again_is_new(daemon: HttpDaemon) -> None:
    await daemon.accept(make_rows("a", 1, range(10)))
    await daemon.service.pipeline.wait_idle()
    await forget(daemon, "a")
    # 2. Rows that would have been too old for the previous window, in the same slot.
    async with daemon.subscribed() as reader:
        await daemon.accept(make_rows("a", 7, range(-100, -100 + NEED - 1)))
        assert (await daemon.get("/v1/forecasts/a")).body["status"] == "warming"
        await daemon.accept(make_rows("a", 7, [-100 + NEED - 1]))
        message = await reader.receive()
    window = make_window(make_rows("a", 7, range(-100, -100 + NEED)), -100 + NEED - 1)
    assert (message["server"], message["context"]) == ("a", NEED)
    assert is_same_array(read_array(message["values"]), make_wire_forecast(window))
    assert is_same_array(await daemon.window("a"), window)


async def test_forecasts_in_progress_for_a_forgotten_server_are_not_delivered(start: Start) -> None:
    daemon = await start(HttpDaemonSettings(lanes=1))
    daemon.backend.script.hold = True
    async with daemon.subscribed() as reader:
        await daemon.accept(make_rows("runs", 1, range(NEED)))
        await wait_for_runs(daemon, 1)
        await daemon.accept(make_rows("waits", 2, range(NEED)))
        await daemon.accept(make_rows("stays", 3, range(NEED)))
        for server in ("runs", "waits"):
            await forget(daemon, server)
        assert (await daemon.status())["due"] == 1
        # 2. One of them reports again while its previous window is on the lane.
        await daemon.accept(make_rows("runs", 9, range(50, 50 + NEED)))
        daemon.release_lanes()
        messages = {message["server"]: message for message in [await reader.receive(), await reader.receive()]}
    assert messages.keys() == {"stays", "runs"}
    assert messages["runs"]["origin"] == origin(50 + NEED - 1)
    await daemon.service.pipeline.wait_idle()
    rows = (await daemon.status())["rows"]
    assert (rows["forgotten"], rows["delivered"]) == (2, 2)
    assert rows["due"] == sum(rows[name] for name in ("delivered", "superseded", "failed", "forgotten"))


async def test_a_reader_does_not_get_unread_forecasts_of_a_forgotten_server(start: Start) -> None:
    daemon = await start(HttpDaemonSettings())
    async with daemon.subscribed():
        (subscription,) = daemon.service.hub._subscriptions
        await daemon.accept(make_rows("a", 1, range(NEED)))
        await daemon.service.pipeline.wait_idle()
        # The task of the reader may have read already, so publish again; it cannot run before the next `await`.
        slot = daemon.service.state.directory.slots["a"]
        daemon.service.hub.publish(np.array([slot]), 0.0)
        assert subscription.waiting == 1
        daemon.service.forget(slot)
        assert subscription.waiting == 0
    last = daemon.service.state.board.last_serial
    reply = daemon.session.get(f"{daemon.url}/v1/forecasts/stream", headers={"Last-Event-ID": "0"})
    async with reply as events:
        await daemon.accept(make_rows("b", 1, range(NEED)))
        lines = [await events.content.readline() for _ in range(3)]
    assert lines[0] == b"id: %d\n" % (last + 1), "the serial of a forgotten forecast is never another's"
    assert b'"server":"b"' in lines[2]


async def test_the_open_row_of_a_forgotten_server_is_not_closed_later(daemon: HttpDaemon) -> None:
    service = daemon.service
    await daemon.accept([make_sample("a", 1, {"cpu_user": 1.0})])
    slot = service.state.directory.slots["a"]
    assert service.state.windows.get_next_deadline() is not None
    closed = service.state.windows.closed_rows
    await forget(daemon, "a")
    assert service.state.windows.get_next_deadline() is None
    assert service.state.windows.close_overdue_rows(float("inf")) == []
    assert service.state.windows.closed_rows == closed
    # 2. Nor does its open row reach the next server in the slot.
    await daemon.accept([make_sample("b", 1, {"mem_used": 2.0}), make_sample("b", 2, values_of(0, 2))])
    assert service.state.directory.slots == {"b": slot}
    assert is_same_array(
        await daemon.window("b"), make_window([make_sample("b", 1, {"mem_used": 2.0}), make_sample("b", 2)], 2)
    )


async def test_pending_forecasts_of_a_forgotten_server_are_removed(daemon: HttpDaemon) -> None:
    service = daemon.service
    scorer = service.accuracy.scorer
    await daemon.accept(make_rows("a", 1, range(8)))
    await service.pipeline.wait_idle()
    slot = service.state.directory.slots["a"]
    assert slot in scorer.pending
    await forget(daemon, "a")
    assert slot not in scorer.pending
    assert np.isnan(scorer._deviations.compute_deviation(slot)).all()
    assert (await daemon.status())["accuracy"]["sampled"]["forgotten"] == 1


async def test_a_body_in_progress_continues_with_a_new_window(daemon: HttpDaemon) -> None:
    service = daemon.service
    rows = [row for step in range(800) for row in (make_sample("a", step), make_sample("b", step))]
    sending = asyncio.create_task(daemon.post("/v1/samples", {"samples": rows}))
    while "a" not in service.state.directory.slots:
        await asyncio.sleep(0)
    assert service.ingest.load.bodies, "it is taken in slices, between which other tasks run"
    service.forget(service.state.directory.slots["a"])
    assert (await sending).body["accepted"] == len(rows)
    for server in ("a", "b"):
        assert is_same_array(
            await daemon.window(server), make_window([make_sample(server, step) for step in range(800)], 799)
        )
