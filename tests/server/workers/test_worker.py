"""Tests `streamd/server/workers/worker.py`: what callers of a daemon of several processes see."""

import asyncio
import json
import os
import resource
import signal
import stat
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import cache
from pathlib import Path
from typing import Any

import aiohttp

from streamd.client import Client, ServerForecast
from streamd.server.workers.plan import decode_plan
from tests.support.daemon_process import NEED, DaemonProcess, make_whole_rows
from tests.support.worker_fleet import ADMIN_TOKEN, StartProcesses, find_parts, kill_part


@cache
def find_first_step() -> int:
    """Return the step at which these tests began; not that of their import, since which a whole suite may have run."""
    return int(time.time()) // 300


def name_servers(prefix: str) -> list[str]:
    return [f"{prefix}-{number}" for number in range(8)]


def make_body(daemon: DaemonProcess, servers: Sequence[str], steps: Sequence[int]) -> dict[str, Any]:
    features = daemon.get("/v1/status")[1]["contract"]["features"]
    rows = [row for server in servers for row in make_whole_rows(server, steps, features)]
    for row, step in zip(rows, [step for _ in servers for step in steps], strict=True):
        row["time"] = (find_first_step() + step) * 300 + 1
    return {"samples": rows}


async def read_servers(socket: aiohttp.ClientWebSocketResponse, count: int) -> set[str]:
    found: set[str] = set()
    async with asyncio.timeout(20):
        while len(found) < count:
            message = await socket.receive_json()
            found.update([message["server"]] if message["type"] == "forecast" else message.get("servers", []))
    return found


async def test_readers_of_any_worker_get_the_forecasts_of_all_and_reconnect(processes: DaemonProcess) -> None:
    daemon, servers = processes, name_servers("read")
    url = f"{daemon.url}/v1/forecasts?servers=read-*"
    async with aiohttp.ClientSession() as session:
        readers = [await session.ws_connect(url) for _ in range(6)]  # the kernel spreads them over the workers
        assert [(await reader.receive_json())["type"] for reader in readers] == ["subscribed"] * 6
        status, answer = daemon.call("POST", "/v1/samples", make_body(daemon, servers, range(NEED)))
        assert (status, answer["accepted"]) == (200, NEED * len(servers))
        for reader in readers:
            assert await read_servers(reader, len(servers)) == set(servers)
        await asyncio.to_thread(kill_part, daemon, "worker 0")
        again = await session.ws_connect(url)
        assert (await again.receive_json())["type"] == "subscribed"
        await asyncio.to_thread(_post_until_taken, daemon, make_body(daemon, servers, [NEED]))
        assert await read_servers(again, len(servers)) == set(servers)
        for reader in (*readers, again):
            await reader.close()


async def test_readers_whose_worker_is_killed_continue_at_another_and_get_nothing_twice(
    processes: DaemonProcess,
) -> None:
    daemon, servers = processes, name_servers("continue")
    async with Client(daemon.url) as client, AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(client.subscribe("continue-*")) for _ in range(4)]
        await asyncio.to_thread(_post_until_taken, daemon, make_body(daemon, servers, range(NEED)))
        await asyncio.to_thread(kill_part, daemon, "worker 0")
        await asyncio.to_thread(_post_until_taken, daemon, make_body(daemon, servers, [NEED]))
        newest = (find_first_step() + NEED + 1) * 300
        for reader in readers:
            got: dict[str, list[float]] = {server: [] for server in servers}
            async with asyncio.timeout(20):
                while any(origins[-1:] != [newest] for origins in got.values()):
                    event = await anext(reader)
                    if isinstance(event, ServerForecast):
                        got[event.server].append(event.origin)
            assert all(origins == sorted(set(origins)) for origins in got.values())


async def test_alerts_are_those_of_the_engine_process(processes: DaemonProcess) -> None:
    daemon = processes
    assert daemon.get("/v1/alerts") == (200, {"alerts": [], "next": None})
    async with aiohttp.ClientSession() as session:
        async with session.ws_connect(f"{daemon.url}/v1/forecasts") as socket:
            await socket.send_json({"type": "subscribe-alerts", "rules": ["disk"]})
            assert await socket.receive_json() == {"type": "subscribed-alerts", "servers": ["*"], "rules": ["disk"]}
            assert await socket.receive_json() == {"type": "alerts", "snapshot": True, "more": False, "alerts": []}
            await socket.send_json({"type": "unsubscribe"})
            assert await socket.receive_json() == {"type": "unsubscribed", "of": ["forecasts", "alerts", "fleet"]}
        async with session.get(f"{daemon.url}/v1/alerts/stream") as stream:
            assert await stream.content.readline() == b"event: subscribed-alerts\n"
    wanted = {"servers": ["none-*"], "seconds": 60, "why": "a test"}
    status, begun = daemon.call("POST", "/v1/silences", wanted, Authorization=f"Bearer {ADMIN_TOKEN}")
    assert (status, daemon.get("/v1/silences")) == (201, (200, {"silences": [begun["silence"]]}))
    path = f"/v1/silences/{begun['silence']['id']}"
    assert daemon.call("DELETE", path, Authorization=f"Bearer {ADMIN_TOKEN}")[0] == 204
    assert daemon.get("/v1/alerts/rules") == (200, {"rules": []})


async def test_the_fleet_is_that_of_the_engine_process(processes: DaemonProcess) -> None:
    daemon, servers = processes, name_servers("glance")
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{daemon.url}/v1/forecasts") as socket:
        await socket.send_json({"type": "subscribe-fleet", "search": "glance-", "condition": ["current"]})
        assert (await socket.receive_json())["type"] == "subscribed-fleet"
        assert (await socket.receive_json())["order"] == []
        await asyncio.to_thread(_post_until_taken, daemon, make_body(daemon, servers, range(-NEED, 0)))
        async with asyncio.timeout(20):
            while (frame := await socket.receive_json())["matching"] < len(servers):
                assert frame["type"] == "fleet"
    assert frame["order"] == servers
    status, answer = daemon.get("/v1/fleet?search=glance-*&limit=1")
    assert (status, answer["matching"], answer["servers"][0]["condition"]) == (200, len(servers), "current")


async def test_a_page_loads_while_the_engine_process_hangs_and_opens_its_socket_by_a_protocol(
    processes: DaemonProcess,
) -> None:
    daemon = processes
    engine = find_parts(daemon)["engine"]
    os.kill(engine, signal.SIGSTOP)
    try:
        for _ in range(4):  # the kernel spreads the connections over the workers
            status, page = await asyncio.to_thread(daemon.get, "/")
            assert (status, "<!doctype html>" in page) == (200, True)
    finally:
        os.kill(engine, signal.SIGCONT)
    offered = ["streamd", f"streamd.token.{ADMIN_TOKEN}"]
    url = f"{daemon.url}/v1/forecasts"
    async with aiohttp.ClientSession() as session, session.ws_connect(url, protocols=offered) as socket:
        assert socket.protocol == "streamd"
        await socket.send_json({"type": "subscribe-alerts"})
        assert [(await socket.receive_json())["type"] for _ in range(2)] == ["subscribed-alerts", "alerts"]
    assert not [line for line in daemon.lines if ADMIN_TOKEN in str(line)]


async def test_a_reader_of_alerts_keeps_its_socket_when_the_engine_process_is_killed(processes: DaemonProcess) -> None:
    daemon = processes
    snapshot = {"type": "alerts", "snapshot": True, "more": False, "alerts": []}
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{daemon.url}/v1/forecasts") as socket:
        await socket.send_json({"type": "subscribe-alerts"})
        assert (await socket.receive_json())["type"] == "subscribed-alerts"
        assert await socket.receive_json() == snapshot
        await asyncio.to_thread(kill_part, daemon, "engine")
        assert await socket.receive_json(timeout=30) == snapshot, "what the new engine process knows"
        await asyncio.to_thread(_post_until_taken, daemon, make_body(daemon, name_servers("relay"), [0]))


def _post_until_taken(daemon: DaemonProcess, body: dict[str, Any]) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            status, answer = daemon.call("POST", "/v1/samples", body)
        except OSError:
            continue
        if status == 200 and not answer["rejected"]:
            return
        time.sleep(0.05)
    raise AssertionError("the rows are not taken")


async def test_frames_of_all_forms_are_acknowledged(processes: DaemonProcess) -> None:
    daemon, servers = processes, name_servers("forms")
    samples = make_body(daemon, servers, [0])["samples"]
    features = list(samples[0]["values"])
    columns = {
        "id": 2,
        "columns": {
            "servers": servers,
            "features": features,
            "time": samples[0]["time"] + 300,
            "values": [[1.5] * len(features) for _ in servers],
        },
    }
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{daemon.url}/v1/ingest") as socket:
        await socket.send_str(json.dumps({"id": 1, "samples": samples}))
        await socket.send_str(json.dumps(columns))
        for number, sample in enumerate(samples, 3):
            later = {**sample, "time": sample["time"] + 600}
            await socket.send_str(json.dumps({"id": number, "samples": [later]}))
        acks = [await socket.receive_json(timeout=20) for _ in range(2 + len(samples))]
    assert [(ack["id"], ack["accepted"]) for ack in acks] == [
        (1, len(servers)),
        (2, len(servers)),
        *((number, 1) for number in range(3, 3 + len(samples))),
    ]
    for server in servers:
        assert daemon.get(f"/v1/servers/{server}")[1]["have"] == 3


def test_all_other_routes_answer_as_before(processes: DaemonProcess) -> None:
    daemon, servers = processes, name_servers("routes")
    before = daemon.get("/v1/status")[1]
    daemon.call("POST", "/v1/samples", make_body(daemon, servers, range(2)))
    assert daemon.get("/healthz") == (200, {"status": "alive"})
    assert daemon.get("/readyz") == (200, {"status": "ready"})
    assert daemon.get("/v1/forecasts/nobody")[0] == 404
    assert daemon.get("/v1/nothing")[0] == 404
    assert daemon.get("/v1/forecasts/routes-1")[1]["status"] == "warming"
    status = daemon.get("/v1/status")[1]
    assert status["workers_away"] == []
    for section, name in (("rows", "closed"), ("rows", "warming"), ("samples", "accepted")):
        assert status[section][name] - before[section][name] == 2 * len(servers)
    largest = max(read_resident_bytes(pid) for pid in find_parts(daemon).values())
    assert status["memory"]["resident_bytes"] > 1.2 * largest, "it is that of all processes"
    metrics = daemon.get("/metrics")[1].splitlines()
    accepted = float(status["samples"]["accepted"])
    assert f'streamd_samples_total{{result="accepted"}} {accepted}' in metrics
    assert "streamd_lanes 1.0" in metrics
    assert daemon.call("DELETE", "/v1/servers/routes-1", Authorization="Bearer none")[0] in (401, 403)


def test_a_server_is_forgotten_on_request(processes: DaemonProcess) -> None:
    daemon, servers = processes, name_servers("forgotten")
    daemon.call("POST", "/v1/samples", make_body(daemon, servers, range(2)))
    assert daemon.call("DELETE", "/v1/servers/forgotten-1", Authorization=f"Bearer {ADMIN_TOKEN}")[0] == 204
    assert daemon.get("/v1/servers/forgotten-1")[0] == 404
    daemon.call("POST", "/v1/samples", make_body(daemon, servers, [5]))
    assert daemon.get("/v1/servers/forgotten-1")[1]["have"] == 1


def test_nobody_else_can_connect_to_the_engine_process(processes: DaemonProcess) -> None:
    arguments = Path(f"/proc/{find_parts(processes)['engine']}/cmdline").read_bytes().split(b"\0")
    plan = decode_plan(arguments[arguments.index(b"--part") + 1].decode())
    assert stat.S_IMODE(os.stat(plan.folder).st_mode) == 0o700


def test_a_stop_delivers_what_was_taken_and_keeps_the_rows(start_processes: StartProcesses) -> None:
    daemon, servers = start_processes(), name_servers("stop")
    daemon.call("POST", "/v1/samples", make_body(daemon, servers, range(NEED)))
    parts = find_parts(daemon)
    daemon.signal(signal.SIGINT)  # SIGTERM ends every other daemon of these tests
    assert daemon.process.wait(30) == 0
    lines = [json.loads(entry["line"]) for entry in daemon.lines if "line" in entry]
    (engine,) = (line for line in lines if line["event"] == "stopped" and line["part"] == "engine")
    assert engine["complete"]
    assert engine["rows"]["delivered"] + engine["rows"]["superseded"] == engine["rows"]["due"] == len(servers)
    assert len(parts) == 3


def read_resident_bytes(pid: int) -> int:
    """Return the memory of a process that is not swapped out."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
