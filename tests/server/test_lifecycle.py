"""Tests `streamd/server/daemon.py` as a process: start-up, drain, kill, restart, and errors that prevent a start."""

import asyncio
import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from streamd.core.calendar import compute_known_future
from streamd.repository.versions import EngineRepository
from tests.support.daemon_process import (
    NEED,
    ROOT,
    DaemonProcess,
    make_small_settings,
    make_whole_rows,
    run_command,
)
from tests.support.notify_states import NotifyReceiver, receive_state
from tests.support.tiny_version import ENGINES, TINY
from tests.support.version_calls import StartDaemon

VERSION = EngineRepository(ENGINES).choose()
CONTRACT = VERSION.contract
FEATURES = CONTRACT.features
SHIPPED = {"STREAMD_ENGINES": str(ENGINES)}


@pytest.fixture(scope="module")
def shared(shared_state: Path) -> Iterator[DaemonProcess]:
    """A daemon that is ready, with the version that ships."""
    daemon = DaemonProcess.start(shared_state, env=SHIPPED)
    daemon.wait_for("ready")
    yield daemon
    daemon.end()


# ---------------------------------------------------------------- a daemon that is ready
def test_it_serves_the_embedded_engine(shared: DaemonProcess) -> None:
    status, body = shared.get("/v1/status")
    assert status == 200
    assert (body["engine"], body["backend"], body["precision"]) == (VERSION.name, "onnxruntime-cpu", "fp32")
    assert body["contract"]["features"] == list(FEATURES)
    assert len(body["lanes"]) == 1
    assert body["fallbacks"] == []
    assert [shared.get(path)[0] for path in ("/readyz", "/healthz", "/metrics")] == [200] * 3


def test_the_real_model_forecasts(shared: DaemonProcess) -> None:
    assert (
        shared.call("POST", "/v1/samples", {"samples": make_whole_rows("real", range(NEED), FEATURES)})[1]["accepted"]
        == NEED
    )
    status, body = shared.get("/v1/forecasts/real")
    while body.get("status") == "pending":
        status, body = shared.get("/v1/forecasts/real")
    assert (status, body["server"], body["context"], body["model"]) == (200, "real", NEED, VERSION.name)
    values = np.asarray(body["values"])
    assert values.shape == (len(CONTRACT.targets), CONTRACT.horizon, len(CONTRACT.quantiles))
    assert np.isfinite(values).all()
    assert (np.diff(values, axis=-1) >= 0).all()
    # 2. /v1/predict gives the same forecast for the same window.
    window = [[None] * len(FEATURES)] * (CONTRACT.context_length - NEED) + [
        list(row["values"].values()) for row in make_whole_rows("real", range(NEED), FEATURES)
    ]
    newest = CONTRACT.to_step(1_700_000_100) + NEED - 1
    future = compute_known_future(newest, CONTRACT.horizon, CONTRACT.step_seconds).astype(float).tolist()
    status, answer = shared.call("POST", "/v1/predict", {"encoder_cont": window, "decoder_cont": future})
    assert status == 200
    predictions = np.asarray(answer["predictions"]).transpose(1, 0, 2)
    np.testing.assert_allclose(predictions, values, rtol=1e-4, atol=1e-4)


def test_a_port_in_use_is_reported(shared: DaemonProcess, tmp_path: Path) -> None:
    arguments = ("serve", "--port", str(shared.port), "--state-dir", str(tmp_path / "s"))
    ended = run_command(*arguments, cwd=tmp_path, **make_small_settings())
    assert ended.returncode == 1
    assert f"127.0.0.1:{shared.port}" in ended.stderr
    assert "address already in use" in ended.stderr.lower()
    assert "Traceback" not in ended.stderr
    assert shared.get("/readyz")[0] == 200


def test_one_state_folder_serves_one_daemon(shared: DaemonProcess, shared_state: Path, tmp_path: Path) -> None:
    ended = run_command("serve", "--state-dir", str(shared_state), cwd=tmp_path, **make_small_settings())
    assert ended.returncode == 1
    assert str(shared_state) in ended.stderr
    assert "another process" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert shared.get("/readyz")[0] == 200


# ---------------------------------------------------------------- errors that prevent a start
def test_an_unknown_engine_is_named(tmp_path: Path) -> None:
    arguments = ("serve", "--engine", "no_such_20260101_000000", "--state-dir", str(tmp_path / "s"))
    ended = run_command(*arguments, cwd=tmp_path, **make_small_settings())
    assert ended.returncode == 1
    assert "no_such_20260101_000000" in ended.stderr
    assert TINY in ended.stderr  # the version that exists
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "s").exists()


def test_a_missing_folder_of_engines_is_named(tmp_path: Path) -> None:
    settings = make_small_settings() | {"STREAMD_ENGINES": "nowhere", "STREAMD_STATE_DIR": "s"}
    ended = run_command("serve", cwd=tmp_path, **settings)
    assert ended.returncode == 1
    assert "nowhere" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_unavailable_backend_is_named(tmp_path: Path) -> None:
    arguments = ("serve", "--backend", "onnxruntime-cuda", "--state-dir", str(tmp_path / "s"))
    ended = run_command(*arguments, cwd=tmp_path, **make_small_settings())
    if ended.returncode == 0:
        pytest.skip("this machine has it")
    assert ended.returncode == 1
    assert "onnxruntime-cuda" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_state_folder_that_is_a_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("mine")
    ended = run_command("serve", "--state-dir", str(tmp_path / "s"), cwd=tmp_path, **make_small_settings())
    assert ended.returncode == 1
    assert str(tmp_path / "s") in ended.stderr
    assert "Traceback" not in ended.stderr
    assert (tmp_path / "s").read_text() == "mine"


# ---------------------------------------------------------------- systemd, readiness, drain
def test_not_ready_until_a_lane_is_warm_and_drain_delivers(
    start: StartDaemon, tmp_path: Path, notify_socket: NotifyReceiver
) -> None:
    env = {"NOTIFY_SOCKET": notify_socket.getsockname(), "WATCHDOG_USEC": "100000", "STREAMD_WARMUP_SECONDS": "0.5"}
    daemon = start(tmp_path, **SHIPPED, **env, STREAMD_BUCKETS="1,8,32")
    # 1. It listens, and is alive, before it is ready; samples are taken meanwhile.
    status, body = daemon.get("/readyz")
    assert (status, body) == (503, {"status": "starting"})
    assert daemon.get("/healthz")[0] == 200
    assert daemon.call("POST", "/v1/samples", {"samples": make_whole_rows("early", range(NEED), FEATURES)})[0] == 200
    daemon.wait_for("ready")
    assert daemon.get("/readyz")[0] == 200
    counts = daemon.get("/v1/status")[1]["rows"]
    assert (counts["due"], counts["superseded"]) == (1, 0), "rows from before it was ready make a server due once"
    assert b"READY=1" in receive_state(notify_socket)
    assert notify_socket.recv() == b"WATCHDOG=1"
    assert notify_socket.recv() == b"WATCHDOG=1"
    # 2. SIGTERM in the middle of the work: what is in progress is delivered first.
    asyncio.run(_stop_in_the_middle(daemon))
    assert daemon.wait() == 0
    stopped = daemon.lines[-1]
    assert (stopped["event"], stopped["complete"]) == ("stopped", True)
    counts = stopped["rows"]
    assert counts["due"] == counts["delivered"] + counts["superseded"]
    while (state := notify_socket.recv()) == b"WATCHDOG=1":
        pass
    assert state.startswith(b"STOPPING=1\n")


async def _stop_in_the_middle(daemon: DaemonProcess) -> None:
    servers = {f"s{number}" for number in range(60)}
    sent = [row for name in sorted(servers) for row in make_whole_rows(name, range(NEED), FEATURES)]
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(daemon.url + "/v1/forecasts?servers=s*&quantiles=0.5&every=96", autoclose=False) as reader,
        session.ws_connect(daemon.url + "/v1/ingest") as agent,
    ):
        assert (await reader.receive_json())["type"] == "subscribed"
        await agent.send_str(json.dumps({"samples": sent}))
        assert (await agent.receive_json())["accepted"] == len(sent)
        daemon.signal(signal.SIGTERM)
        delivered: set[str] = set()
        async for message in reader:
            delivered.add(json.loads(message.data)["server"])
        assert reader.close_code == aiohttp.WSCloseCode.GOING_AWAY
    assert delivered == servers


def test_a_second_signal_ends_it_at_once(start: StartDaemon, tmp_path: Path) -> None:
    daemon = start(tmp_path, STREAMD_DRAIN_SECONDS="3600")
    daemon.wait_for("ready")
    # A peer that never answers the closing handshake: the drain waits for it.
    head = (
        "GET /v1/ingest HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", daemon.port)) as peer:
        peer.sendall(head.encode())
        assert peer.recv(1_024).startswith(b"HTTP/1.1 101")
        daemon.signal(signal.SIGTERM)
        daemon.wait_for("draining")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 128 + signal.SIGTERM
    assert daemon.lines[-1]["event"] == "stopped_at_once"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_it_is_ready_ends_it_with_status_0(
    start: StartDaemon, tmp_path: Path, number: signal.Signals
) -> None:
    daemon = start(tmp_path)
    daemon.signal(number)
    assert daemon.wait() == 0
    assert daemon.lines[-1]["event"] == "stopped"


# ---------------------------------------------------------------- kill -9
async def _ingest_until_killed(daemon: DaemonProcess, kill_after: int) -> dict[str, int]:
    """Send rows and kill the daemon during that; returns the newest acknowledged step of each server."""
    acked: dict[str, int] = {}
    names = [f"k{number}" for number in range(7)]
    async with aiohttp.ClientSession() as session, session.ws_connect(daemon.url + "/v1/ingest") as agent:

        async def send() -> None:
            for step in range(100_000):
                for name in names:
                    frame = {"id": f"{name}/{step}", "samples": make_whole_rows(name, [step], FEATURES)}
                    await agent.send_str(json.dumps(frame))

        sending = asyncio.create_task(send())
        count = 0
        async for message in agent:
            ack = json.loads(message.data)
            assert (ack["type"], ack["accepted"]) == ("ack", 1)
            name, _, step = ack["id"].partition("/")
            acked[name] = int(step)
            count += 1
            if count == kill_after:
                daemon.process.kill()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    return acked


def make_window(name: str, newest: int) -> list[list[Any]]:
    """Return the values of a window after whole rows up to step `newest`."""
    length = CONTRACT.context_length
    sent = [
        list(row["values"].values())
        for row in make_whole_rows(name, range(max(0, newest + 1 - length), newest + 1), FEATURES)
    ]
    return [[None] * len(FEATURES)] * (length - len(sent)) + sent


def test_every_acked_row_survives_kill_9_and_forecasting_goes_on(start: StartDaemon, tmp_path: Path) -> None:
    daemon = start(tmp_path)
    acked = asyncio.run(_ingest_until_killed(daemon, kill_after=7 * 40 + 3))
    assert daemon.wait() == -signal.SIGKILL
    assert min(acked.values()) >= 39
    again = start(tmp_path)
    newest, in_flight = {}, set()
    for name, step in acked.items():
        status, shown = again.get(f"/v1/servers/{name}")
        assert status == 200
        # Rows that were acknowledged must be there; rows that were only sent may be. The one that was being stored when
        # the process was killed is there whole, or its step is empty, and never a part of it.
        newest[name] = shown["origin"] // 300 - 1 - 1_700_000_100 // 300
        assert newest[name] >= step
        expected = make_window(name, newest[name])
        if newest[name] > step and shown["values"][-1] == [None] * len(FEATURES):
            in_flight.add(name)
            expected[-1] = shown["values"][-1]
        assert shown["values"] == expected
        assert shown["have"] == min(newest[name] + 1, CONTRACT.context_length) - (name in in_flight)
    assert len(in_flight) <= 1, "a process stores one row at a time"
    assert again.get("/v1/servers")[1]["servers"][0]["have"] > NEED
    # 2. After one more row, each server is forecast with all its earlier context.
    again.wait_for("ready")
    assert again.get("/v1/status")[1]["recovered"]["servers"] == len(acked)
    asyncio.run(_check_forecasts_continue(again, newest, in_flight))


async def _check_forecasts_continue(daemon: DaemonProcess, newest: dict[str, int], in_flight: set[str]) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(daemon.url + "/v1/forecasts?every=96&quantiles=0.5") as reader,
        session.ws_connect(daemon.url + "/v1/ingest") as agent,
    ):
        assert (await reader.receive_json())["type"] == "subscribed"
        left = {}
        for name, step in newest.items():
            await agent.send_str(json.dumps({"samples": make_whole_rows(name, [step + 1], FEATURES)}))
            assert (await agent.receive_json())["accepted"] == 1
            left[name] = (step + 2) * 300 + 1_700_000_100
        while left:
            message = await reader.receive_json()
            name = message.get("server")  # none if it counts forecasts of the rows before, which these replaced
            if message["type"] == "forecast" and message["origin"] == left.get(name):
                assert message["context"] == min(newest[name] + 2, CONTRACT.context_length) - (name in in_flight)
                del left[name]


# ---------------------------------------------------------------- where settings come from
def test_a_flag_beats_the_environment_which_beats_the_file(start: StartDaemon, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        '[server]\nport = 1\nhost = "256.256.256.256"\n'
        '[state]\nstate_dir = "of-the-file"\nmax_servers = 7\n'
        "[windows]\nmin_context_rows = 5\n"
        f"[engine]\nengines = {json.dumps(str(ENGINES))}\n"
    )
    daemon = start(
        tmp_path / "of-the-flag",
        "--config",
        str(config),
        "--host",
        "127.0.0.1",
        STREAMD_HOST="255.255.255.255",
        STREAMD_STATE_DIR=str(tmp_path / "of-the-environment"),
    )
    listening = daemon.lines[-1]
    assert listening["host"] == "127.0.0.1"
    status = daemon.get("/v1/status")[1]
    assert status["capacity"] == 256  # STREAMD_MAX_SERVERS
    assert status["contract"]["need"] == NEED
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.toml", "of-the-flag"]


def test_help_names_the_command_and_its_flags() -> None:
    ended = run_command("--help", cwd=ROOT)
    assert ended.returncode == 0
    assert "serve" in ended.stdout
    ended = run_command("serve", "--help", cwd=ROOT)
    for flag in ("--config", "--host", "--port", "--state-dir", "--engines", "--engine", "--backend"):
        assert flag in ended.stdout


SIGNALLED = """
import os, signal, sys
from streamd.cli import main
from streamd.server import daemon

real = daemon.open_state

def open_state(*given):
    with open(os.environ["CHANGED"], "w") as config:
        config.write("[log]\\nlog_level = 'nonsense'\\n")
    os.kill(os.getpid(), signal.SIGHUP)
    return real(*given)

daemon.open_state = open_state
sys.exit(main())
"""
"""A daemon whose settings change, and that gets SIGHUP, while its state opens."""


def test_a_reload_that_was_requested_while_the_state_opened_follows_the_start(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("")
    daemon = DaemonProcess.begin(
        tmp_path / "state",
        *("--config", str(config)),
        env={"CHANGED": str(config)},
        program=("-c", SIGNALLED),
    )
    try:
        daemon.port = daemon.wait_for("listening")["port"]
        daemon.wait_for("ready")
        assert "log_level" in daemon.wait_for("reload_failed")["error"]
    finally:
        daemon.end()
