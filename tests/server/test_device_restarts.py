"""Tests `streamd/server/device_restarts.py`: a daemon whose GPU is lost ends itself, so often and not more often."""

import os
import signal
from pathlib import Path

import msgspec
import pytest

from streamd.server.device_restarts import EXIT_DEVICE_LOST, PERIOD_SECONDS, RECORD_NAME, DeviceRestarts
from tests.support.daemon_process import DaemonProcess

NOW = 1_700_000_000.0

LOSABLE = """
import signal, sys
from streamd.cli import main
from streamd.inference.fake import FakeBackend
from streamd.inference.opening import OpenedBackend
from streamd.server import daemon

made = []

def open_version(versions, config, exhausted=frozenset()):
    backend = FakeBackend(versions[0].contract, tuple(config.engine.buckets))
    backend.name = "second" if "first" in exhausted else "first"
    made.append(backend)
    return OpenedBackend(backend, [backend.make_lane(index) for index in range(2)])

daemon.open_version = open_version
signal.signal(signal.SIGUSR1, lambda *_: made[0].lose_device())
sys.exit(main())
"""
"""A daemon of two fake backends; SIGUSR1 gives the device of the first a sticky error."""

SETTINGS = {"STREAMD_ON_DEVICE_LOSS": "restart", "STREAMD_MAX_DEVICE_RESTARTS": "1", "STREAMD_BACKEND": "auto"}


def start(folder: Path, **env: str) -> DaemonProcess:
    daemon = DaemonProcess.begin(folder, env={**SETTINGS, **env}, program=("-c", LOSABLE))
    daemon.port = daemon.wait_for("listening")["port"]
    daemon.wait_for("ready")
    return daemon


def test_a_daemon_that_lost_its_device_ends_itself_until_the_limit_and_then_serves_on(tmp_path: Path) -> None:
    daemon = start(tmp_path)
    try:
        assert daemon.get("/v1/status")[1]["device_restarts"] == 0
        daemon.signal(signal.SIGUSR1)
        assert daemon.wait_for("restarting")["exit_status"] == EXIT_DEVICE_LOST
        assert daemon.wait() == EXIT_DEVICE_LOST
        assert daemon.lines[-1]["event"] == "stopped", "it was drained"
    finally:
        daemon.end()
    daemon = start(tmp_path)
    try:
        daemon.signal(signal.SIGUSR1)
        assert "max_device_restarts is 1" in daemon.wait_for("device_restart_refused")["reason"]
        assert daemon.process.poll() is None
        assert daemon.get("/v1/status")[1]["device_restarts"] == 1
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    finally:
        daemon.end()


def test_by_default_a_daemon_serves_on(tmp_path: Path) -> None:
    daemon = start(tmp_path, STREAMD_ON_DEVICE_LOSS="serve")
    try:
        daemon.signal(signal.SIGUSR1)
        daemon.wait_for("lane_lost")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert not (tmp_path / RECORD_NAME).exists()
    finally:
        daemon.end()


def test_restarts_of_the_last_hour_count(tmp_path: Path) -> None:
    restarts = DeviceRestarts(tmp_path, per_hour=2)
    assert restarts.take(NOW) is None
    assert DeviceRestarts(tmp_path, per_hour=2).take(NOW + 10) is None
    assert "2 restarts in the last hour" in str(restarts.take(NOW + 20))
    assert "2 restarts" in str(restarts.take(NOW - 600)), "the clock was set back"
    assert restarts.take(NOW + PERIOD_SECONDS + 1) is None
    assert restarts.count_recent(NOW + PERIOD_SECONDS + 2) == 2


@pytest.mark.parametrize("content", [b"", b"null", b'["x"]', b"[1e999", b"\xff", b"[" * 100_000, b"{}"])
def test_a_damaged_record_counts_as_empty(tmp_path: Path, content: bytes) -> None:
    (tmp_path / RECORD_NAME).write_bytes(content)
    restarts = DeviceRestarts(tmp_path, per_hour=1)
    assert restarts.count_recent(NOW) == 0
    assert restarts.take(NOW) is None
    assert restarts.take(NOW) is not None


def test_a_huge_record_counts_as_empty_and_is_not_read_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / RECORD_NAME).touch()
    os.truncate(tmp_path / RECORD_NAME, 2**42)
    assert DeviceRestarts(tmp_path, per_hour=1).count_recent(NOW) == 0


def test_each_damaged_byte_of_a_record_is_harmless(tmp_path: Path) -> None:
    path = tmp_path / RECORD_NAME
    sound = msgspec.json.encode([NOW, NOW + 1])
    for place in range(len(sound)):
        for bits in (1 << place % 8, 0xFF):
            path.write_bytes(sound[:place] + bytes([sound[place] ^ bits]) + sound[place + 1 :])
            assert 0 <= DeviceRestarts(tmp_path, per_hour=2).count_recent(NOW) <= 2


def test_without_a_record_there_is_no_restart(tmp_path: Path) -> None:
    reason = DeviceRestarts(tmp_path / "missing", per_hour=1).take(NOW)
    assert reason is not None
    assert "cannot be written" in reason
