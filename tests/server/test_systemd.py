"""Tests `streamd/server/systemd.py`: the datagrams of sd_notify, the watchdog, and starts that take long."""

import asyncio
import os
import shutil
import socket
import tempfile
from pathlib import Path

import pytest

from streamd.server import systemd
from streamd.server.systemd import Notifier, ProcessWork, extending_start, feed_watchdog
from tests.support.daemon_process import ROOT


@pytest.mark.parametrize("abstract", [False, True])
def test_states_are_sent_as_one_datagram(abstract: bool) -> None:
    folder = tempfile.mkdtemp(prefix="sd")
    name = f"@streamd-test-{os.getpid()}" if abstract else f"{folder}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("\0" + name[1:] if abstract else name)
        Notifier({"NOTIFY_SOCKET": name}).notify(READY="1", STATUS="serving")
        assert receiver.recv(1_024) == b"READY=1\nSTATUS=serving"
    shutil.rmtree(folder)


def test_without_systemd_a_notification_is_a_no_op(tmp_path: Path) -> None:
    Notifier({}).notify(READY="1")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "missing")}).notify(READY="1")


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": ""}, None),
    ],
)
def test_the_interval_of_the_watchdog(environ: dict[str, str], seconds: float | None) -> None:
    assert Notifier(environ).watchdog_seconds == seconds


class RecordingNotifier(Notifier):
    """A notifier that records what it sends, and ends the test's task after `limit` states."""

    def __init__(self, limit: int) -> None:
        super().__init__({"WATCHDOG_USEC": "2"})
        self.sent: list[dict[str, str]] = []
        self.is_full = asyncio.Event()
        self._limit = limit

    def notify(self, **states: str) -> None:
        self.sent.append(states)
        if len(self.sent) >= self._limit:
            self.is_full.set()


async def test_a_watchdog_is_not_fed_while_work_is_stuck() -> None:
    stalls = ["", "", "stuck work", "stuck work", "", "stuck again"]
    notifier = RecordingNotifier(5)
    feeding = asyncio.create_task(feed_watchdog(notifier, lambda: stalls.pop(0) if stalls else "stuck again"))
    await notifier.is_full.wait()
    feeding.cancel()
    fed = {"WATCHDOG": "1"}
    assert notifier.sent == [fed, fed, {"STATUS": "stuck: stuck work"}, fed, {"STATUS": "stuck: stuck again"}]


async def test_without_a_watchdog_nothing_is_fed() -> None:
    await feed_watchdog(Notifier({}), lambda: "stuck")


async def test_a_start_is_extended_only_while_the_process_works() -> None:
    idle, busy, reads = ProcessWork(1.0, 0), ProcessWork(1.5, 0), ProcessWork(1.5, 8)
    measured = [idle, idle, busy, busy, reads]
    notifier = RecordingNotifier(2)
    async with extending_start(
        notifier, measure=lambda: measured.pop(0) if len(measured) > 1 else measured[0], check_seconds=0.001
    ):
        await notifier.is_full.wait()
    assert notifier.sent == [{"EXTEND_TIMEOUT_USEC": "60000000"}] * 2
    assert measured == [reads], "one extension for the time on a core, one for the reads"


async def test_no_start_is_extended_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "MAX_EXTENDED_SECONDS", 0.003)
    notifier, measured = RecordingNotifier(3), iter(range(100))
    async with extending_start(notifier, measure=lambda: ProcessWork(next(measured), 0), check_seconds=0.001):
        await notifier.is_full.wait()
        for _ in range(100):
            await asyncio.sleep(0)
    assert len(notifier.sent) == 3
    assert next(measured) == 4


def test_timers_alone_are_no_work_and_a_busy_core_is() -> None:
    before = ProcessWork(10.0, 5)
    assert not ProcessWork(10.04, 5).exceeds(before, 5.0)
    assert ProcessWork(10.06, 5).exceeds(before, 5.0)
    assert ProcessWork(10.0, 6).exceeds(before, 5.0)
    assert systemd.measure_work().cpu_seconds > 0.0


def test_the_unit_waits_for_ready_watches_and_keeps_the_state() -> None:
    unit = (ROOT / "systemd" / "streamd.service").read_text(encoding="utf-8")
    settings = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line and not line.startswith("#"))
    assert settings["Type"] in ("notify", "notify-reload")
    assert float(settings["WatchdogSec"].rstrip("s")) > 0
    assert settings["StateDirectory"]
    assert "streamd serve" in settings["ExecStart"]
