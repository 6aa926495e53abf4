"""Tests `streamd/server/systemd.py`: the datagrams of sd_notify, and the interval of the watchdog."""

import os
import shutil
import socket
import tempfile
from pathlib import Path

import pytest

from streamd.server.systemd import Notifier
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


def test_the_unit_waits_for_ready_watches_and_keeps_the_state() -> None:
    unit = (ROOT / "systemd" / "streamd.service").read_text(encoding="utf-8")
    settings = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line and not line.startswith("#"))
    assert settings["Type"] in ("notify", "notify-reload")
    assert float(settings["WatchdogSec"].rstrip("s")) > 0
    assert settings["StateDirectory"]
    assert "streamd serve" in settings["ExecStart"]
