"""Tests `streamd/server/version_control/control.py` in a process: promotion, rollback, SIGHUP, also under load."""

import asyncio
import json
import re
import shutil
import signal
import socket
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from streamd.repository.files import is_held
from streamd.repository.record import read_promotion_record
from tests.support.daemon_process import DaemonProcess
from tests.support.notify_states import NotifyReceiver, receive_state
from tests.support.served_versions import (
    AUTHORIZED,
    CALENDAR,
    CONTRACT,
    COPIED,
    FIRST_STEP,
    WINDOW,
    expected_of,
    make_version,
    samples_of,
)
from tests.support.version_calls import (
    PROMOTE,
    ROLLBACK,
    StartDaemon,
    predict,
    promote,
    read_serving,
    roll_back,
    start_ready,
)


# ---------------------------------------------------------------- promotion and rollback
def test_a_promotion_serves_at_once_and_after_a_restart(start: StartDaemon, tmp_path: Path, engines: Path) -> None:
    daemon = start_ready(start, tmp_path)
    assert read_serving(daemon) == WINDOW
    assert is_held(engines / WINDOW)
    assert not is_held(engines / CALENDAR)
    status, answer = promote(daemon, CALENDAR, who="ann", why="a test")
    assert status == 200
    assert (answer["engine"], answer["before"]) == (CALENDAR, WINDOW)
    shown = daemon.get("/v1/status")[1]
    assert (shown["engine"], shown["previous"]) == (CALENDAR, {"engine": WINDOW, "lanes": 1})
    assert (shown["reload"]["state"], shown["reload"]["version"], shown["reload"]["error"]) == (
        "serving",
        CALENDAR,
        None,
    )
    record = read_promotion_record(engines)
    assert record.current == CALENDAR
    assert (record.history[-1].who, record.history[-1].why) == ("ann", "a test")
    assert is_held(engines / CALENDAR)
    assert is_held(engines / WINDOW), "gc does not remove a warm version"
    daemon.process.kill()
    daemon.process.wait()
    assert read_serving(start_ready(start, tmp_path)) == CALENDAR


def test_a_rollback_uses_the_version_that_is_still_warm(start: StartDaemon, tmp_path: Path, engines: Path) -> None:
    daemon = start_ready(start, tmp_path)
    assert promote(daemon, CALENDAR)[0] == 200
    before = daemon.get("/v1/status")[1]["lanes"][0]["batches"]
    assert predict(daemon) == CALENDAR
    assert promote(daemon, WINDOW)[0] == 200
    assert predict(daemon) == WINDOW
    status, answer = roll_back(daemon, who="ann", why="worse")
    assert (status, answer["engine"], answer["before"]) == (200, CALENDAR, WINDOW)
    lanes = daemon.get("/v1/status")[1]["lanes"]
    assert lanes[0]["batches"] == before + 1, "the same lane as before, not a new one"
    assert predict(daemon) == CALENDAR
    assert read_promotion_record(engines).current == CALENDAR
    # 2. A second rollback goes to the version that serves if no version is promoted; a third is refused.
    status, answer = roll_back(daemon)
    assert (status, answer["engine"]) == (200, WINDOW)
    assert read_promotion_record(engines).current is None
    status, answer = roll_back(daemon)
    assert (status, answer["code"]) == (422, "repository")
    assert "nothing to roll back" in answer["message"]
    assert read_serving(daemon) == WINDOW


# ---------------------------------------------------------------- authorization
def test_a_call_is_refused_without_the_right_token_or_if_none_is_configured(
    start: StartDaemon, tmp_path: Path, engines: Path
) -> None:
    (tmp_path / "token").write_text("another token\n")
    daemon = start_ready(start, tmp_path, STREAMD_ADMIN_TOKEN="", STREAMD_ADMIN_TOKEN_FILE=str(tmp_path / "token"))
    body = {"version": CALENDAR}
    for headers in ({}, AUTHORIZED, {"Authorization": "Basic another token"}, {"Authorization": "another token"}):
        status, answer = daemon.call("POST", PROMOTE, body, **headers)
        assert (status, answer["code"]) == (401, "unauthorized")
        assert daemon.call("POST", ROLLBACK, **headers)[0] == 401
    assert read_serving(daemon) == WINDOW
    assert daemon.call("POST", PROMOTE, body, Authorization="Bearer another token")[0] == 200
    daemon.end()
    closed = start_ready(start, tmp_path, STREAMD_ADMIN_TOKEN="")
    for token in ("Bearer ", "Bearer a token", ""):
        status, answer = closed.call("POST", PROMOTE, body, Authorization=token)
        assert (status, answer["code"]) == (403, "forbidden")
        assert "admin_token" in answer["message"]


# ---------------------------------------------------------------- refused promotions
def test_a_version_that_cannot_serve_is_refused_and_changes_nothing(
    start: StartDaemon, tmp_path: Path, engines: Path
) -> None:
    daemon = start_ready(start, tmp_path)
    others = {
        "broken_20260103_000000": (422, "repository", "no model.onnx"),
        "longer_20260103_000000": (409, "reload_refused", "context_length.*needs a restart"),
        "nowhere_20260103_000000": (422, "repository", "no engine version"),
        "../engines": (422, "repository", "no engine version"),
        "unreadable_20260103_000000": (422, "", ""),
    }
    make_version(engines, "broken_20260103_000000", "decoder_cont")
    (engines / "broken_20260103_000000" / "model.onnx").unlink()
    longer = replace(CONTRACT, context_length=5)
    make_version(engines, "longer_20260103_000000", "decoder_cont", longer)
    # It passes all checks on disk, but ONNX Runtime refuses it.
    make_version(engines, "unreadable_20260103_000000", "nothing")
    for version, (expected, code, message) in others.items():
        status, answer = promote(daemon, version)
        assert status == expected, answer
        assert not code or answer["code"] == code
        assert re.search(message, answer["message"])
        shown = daemon.get("/v1/status")[1]
        assert (shown["engine"], shown["previous"]) == (WINDOW, None)
        assert shown["reload"]["state"] == "failed"
        assert shown["reload"]["error"] == answer["message"]
        assert read_promotion_record(engines).current is None
        assert predict(daemon) == WINDOW
    for body in ({}, {"version": 5}, {"version": CALENDAR, "other": 1}):
        assert daemon.call("POST", PROMOTE, body, **AUTHORIZED)[0] == 400
    assert promote(daemon, CALENDAR)[0] == 200


def test_a_promotion_is_refused_while_the_settings_pin_a_version(
    start: StartDaemon, tmp_path: Path, engines: Path
) -> None:
    daemon = start_ready(start, tmp_path, "--engine", WINDOW)
    status, answer = promote(daemon, CALENDAR)
    assert (status, answer["code"]) == (409, "reload_refused")
    assert f"pin {WINDOW}" in answer["message"]
    assert read_promotion_record(engines).current is None


@pytest.mark.parametrize("calls", range(4))
def test_a_daemon_killed_during_a_promotion_serves_what_the_record_states(
    start: StartDaemon, tmp_path: Path, engines: Path, calls: int
) -> None:
    daemon = start_ready(start, tmp_path)
    body = json.dumps({"version": CALENDAR})
    head = f"POST {PROMOTE} HTTP/1.1\r\nHost: localhost\r\n"
    head += "Authorization: Bearer a token\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", daemon.port)) as caller:
        caller.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        for _ in range(calls):  # each call lets the promotion progress a little
            daemon.get("/healthz")
        daemon.process.kill()
    daemon.process.wait()
    recorded = read_promotion_record(engines).current
    assert recorded in (None, CALENDAR)
    again = start_ready(start, tmp_path)
    assert predict(again) == read_serving(again) == (recorded or WINDOW)
    assert promote(again, CALENDAR)[0] == 200


# ---------------------------------------------------------------- SIGHUP
def test_sighup_switches_to_the_version_promoted_from_the_shell_and_notifies_systemd(
    start: StartDaemon, tmp_path: Path, engines: Path, notify_socket: NotifyReceiver
) -> None:
    daemon = start_ready(start, tmp_path, NOTIFY_SOCKET=notify_socket.getsockname())
    assert b"READY=1" in receive_state(notify_socket)
    (engines / "promoted.json").write_text(json.dumps({"current": CALENDAR}))
    daemon.signal(signal.SIGHUP)
    states = notify_socket.recv().split(b"\n")
    assert states[0] == b"RELOADING=1"
    assert states[1].startswith(b"MONOTONIC_USEC=")
    assert int(states[1].partition(b"=")[2]) > 0
    assert notify_socket.recv().split(b"\n")[0] == b"READY=1"
    assert read_serving(daemon) == CALENDAR
    # 2. A reload that fails is reported, and the daemon serves as before.
    shutil.rmtree(engines / WINDOW)
    shutil.rmtree(engines / CALENDAR)
    daemon.signal(signal.SIGHUP)
    assert daemon.wait_for("reload_failed")["serving"] == CALENDAR
    assert notify_socket.recv().startswith(b"RELOADING=1")
    assert notify_socket.recv().startswith(b"READY=1")
    assert daemon.get("/v1/status")[1]["reload"]["state"] == "failed"
    assert predict(daemon) == CALENDAR


def test_sighup_reads_the_settings_again(start: StartDaemon, tmp_path: Path, engines: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[engine]\nengine = "{WINDOW}"\n')
    daemon = start_ready(start, tmp_path, "--config", str(config))
    lines = {
        f'engine = "{CALENDAR}"': (CALENDAR, "engine_switched", 1),
        f'engine = "{CALENDAR}"\nthreads_per_lane = 2': (CALENDAR, "engine_switched", 2),
        "threads_per_lane = 0": (CALENDAR, "reload_failed", 2),
        "threads_per_lane = 2": (WINDOW, "engine_switched", 2),
    }
    for line, (engine, event, threads) in lines.items():
        config.write_text(f"[engine]\n{line}\n")
        daemon.signal(signal.SIGHUP)
        daemon.wait_for(event)
        shown = daemon.get("/v1/status")[1]
        assert shown["engine"] == engine
        assert shown["backend_details"]["threads_per_lane"] == threads
        assert predict(daemon) == engine


# ---------------------------------------------------------------- under load
@dataclass
class Load:
    """Servers that report as fast as they are acknowledged, and a reader that checks every forecast."""

    daemon: DaemonProcess
    session: aiohttp.ClientSession
    servers: int = 12
    is_over: bool = False
    rows: int = 0
    seen: dict[tuple[str, int], str] = field(default_factory=dict)
    """The model of the forecast that was read, by server and step."""
    dropped: int = 0

    async def send(self) -> None:
        step = FIRST_STEP
        async with self.session.ws_connect(self.daemon.url + "/v1/ingest") as agent:
            while not self.is_over:
                sent = [each for number in range(self.servers) for each in samples_of(number, [step])]
                await agent.send_str(json.dumps({"samples": sent}))
                ack = await agent.receive_json()
                assert ack["accepted"] == len(sent)
                self.rows += len(sent)
                step += 1

    async def call(self) -> set[str]:
        """Request forecasts until the load is over; returns the models that answered."""
        window = [[[float(row * 4 + column) for column in range(4)] for row in range(4)]] * 20
        future = [[[-1.0, -0.5, 0.5, 1.0]] * 4] * 20
        answered = set()
        while not self.is_over:
            body = {"encoder_cont": window, "decoder_cont": future}
            async with self.session.post(self.daemon.url + "/v1/predict", json=body) as response:
                answer = await response.json()
                assert response.status == 200, answer
                assert response.headers["X-Streamd-Model"] == answer["model"]
                assert answer["predictions"] == {WINDOW: window, CALENDAR: future}[answer["model"]]
                answered.add(answer["model"])
        return answered

    async def read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            read = json.loads(message.data)
            if read["type"] == "lagged":
                self.dropped += read["dropped"]
                continue
            number, step = int(read["server"][1:]), read["origin"] // CONTRACT.step_seconds - 1
            assert (read["server"], step) not in self.seen, "one forecast a row"
            self.seen[read["server"], step] = read["model"]
            if read["context"] == CONTRACT.context_length:
                values = np.asarray(read["values"], np.float32)
                np.testing.assert_array_equal(values, expected_of(read["model"], number, step), read["model"])

    async def run(self, changes: list[tuple[str, dict[str, str]]]) -> list[str]:
        """Change the version under load; returns the names that served, in order."""
        served = []
        async with self.session.ws_connect(self.daemon.url + "/v1/forecasts", autoclose=False) as socket:
            await socket.send_json({"type": "subscribe", "servers": ["s*"]})
            assert (await socket.receive_json())["type"] == "subscribed"
            reading = asyncio.create_task(self.read(socket))
            working = [asyncio.create_task(self.send()), asyncio.create_task(self.call())]
            for path, body in changes:
                begun = self.rows
                async with self.session.post(self.daemon.url + path, json=body, headers=AUTHORIZED) as response:
                    assert response.status == 200, await response.text()
                    served.append((await response.json())["engine"])
                while self.rows < begun + 20 * self.servers:
                    await asyncio.sleep(0)
            self.is_over = True
            await working[0]
            assert await working[1] == set(COPIED)
            await asyncio.to_thread(self.daemon.signal, signal.SIGTERM)  # it delivers what is queued, and closes
            await reading
        return served


def check_all_rows(load: Load, stopped: dict[str, Any]) -> None:
    rows = stopped["rows"]
    warming = load.servers * (CONTRACT.context_length - 1)
    assert rows["closed"] == load.rows
    assert rows["due"] == load.rows - warming
    assert rows["due"] == rows["delivered"] + rows["superseded"]
    assert (rows["failed"], rows["forgotten"]) == (0, 0)
    assert len(load.seen) + load.dropped == rows["delivered"]


@pytest.mark.parametrize("keep_warm_seconds", ["0", "300"])
def test_twenty_changes_under_load_lose_duplicate_and_mix_no_forecasts(
    start: StartDaemon, tmp_path: Path, engines: Path, keep_warm_seconds: str
) -> None:
    daemon = start_ready(start, tmp_path, STREAMD_KEEP_WARM_SECONDS=keep_warm_seconds, STREAMD_LANES="2")
    changes = [(PROMOTE, {"version": (CALENDAR, WINDOW)[number % 2]}) for number in range(10)]
    changes += [(ROLLBACK, {"why": "a test"})] * 10

    async def run() -> tuple[Load, list[str]]:
        async with aiohttp.ClientSession() as session:
            load = Load(daemon, session)
            return load, await load.run(changes)

    load, served = asyncio.run(run())
    assert served == [CALENDAR, WINDOW] * 5 + [CALENDAR, WINDOW] * 5
    assert daemon.wait() == 0
    stopped = daemon.lines[-1]
    assert (stopped["event"], stopped["complete"]) == ("stopped", True)
    check_all_rows(load, stopped)
    assert set(load.seen.values()) == set(COPIED)
    assert sum(line["event"] == "engine_switched" for line in daemon.lines) == 20
