"""Tests `streamd/server/daemon.py` on a damaged field of its state: it reports it and forecasts all servers."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from streamd.core.state import board
from streamd.core.state.layout import HEADER_BYTES, Layout, parse_header
from streamd.runtime.state.migration import make_windows_layout
from tests.support.daemon_process import NEED, DaemonProcess, make_whole_rows
from tests.support.tiny_version import SHIPPED_CONTRACT
from tests.support.version_calls import StartDaemon

Damage = Callable[[Path, int], None]
"""Damages the state in a folder; its second argument is the capacity."""


def damage_windows(column: str, value: int) -> Damage:
    def damage(folder: Path, capacity: int) -> None:
        layout = make_windows_layout(
            list(SHIPPED_CONTRACT.features), SHIPPED_CONTRACT.context_length, SHIPPED_CONTRACT.step_seconds, capacity
        )
        write_bytes(folder / "windows.streamd", layout.offsets[column], value.to_bytes(8, "little"))

    return damage


def damage_forecasts(column: str, value: int) -> Damage:
    def damage(folder: Path, capacity: int) -> None:
        layout = Layout(board.make_board_columns(SHIPPED_CONTRACT), capacity, {})
        write_bytes(folder / "forecasts.streamd", layout.offsets[column], value.to_bytes(8, "little"))

    return damage


def damage_header(name: str, field: str) -> Damage:
    def damage(folder: Path, _: int) -> None:
        path = folder / name
        with path.open("rb") as file:
            place = file.read(HEADER_BYTES).index(f'"{field}"'.encode())
        write_bytes(path, place + 1, b"X")

    return damage


def write_bytes(path: Path, place: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(content)


DAMAGE = {
    "capacity": damage_header("windows.streamd", "capacity"),
    "step_seconds": damage_header("windows.streamd", "step_seconds"),
    "forecasts_header": damage_header("forecasts.streamd", "targets"),
    "journal": damage_windows("journal", 2**62),
    "newest": damage_windows("newest", 5_666_667 | 1 << 60),
    "newest_a_little": damage_windows("newest", 5_666_667 | 1 << 30),
    "open_step": damage_windows("open_step", 2**40 - 1),
    "serial": damage_forecasts("serial", 2**63 - 1),
    "step": damage_forecasts("step", 1 << 60),
}


def wait_for_forecast(daemon: DaemonProcess, server: str, step: int) -> int:
    """Wait for the forecast of step `step` of a server, counted from its first row; returns its origin."""
    expected = SHIPPED_CONTRACT.to_origin(SHIPPED_CONTRACT.to_step(1_700_000_100) + step)
    while True:
        status, body = daemon.get(f"/v1/forecasts/{server}")
        assert status == 200
        if body.get("origin") == expected:
            return expected


def send(daemon: DaemonProcess, server: str, first: int, count: int) -> None:
    answer = daemon.call(
        "POST",
        "/v1/samples",
        {"samples": make_whole_rows(server, range(first, first + count), SHIPPED_CONTRACT.features)},
    )
    assert answer[1]["accepted"] == count, answer


@pytest.fixture(name="sound", scope="module")
def make_sound_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the state of a daemon that was killed after the forecasts of two servers."""
    folder = tmp_path_factory.mktemp("sound")
    daemon = DaemonProcess.start(folder)
    try:
        for server in ("first", "second"):
            send(daemon, server, 0, NEED)
            wait_for_forecast(daemon, server, NEED - 1)
    finally:
        daemon.end()
    return folder


@pytest.mark.parametrize("name", DAMAGE)
def test_a_daemon_reports_one_damaged_field_and_forecasts_on(
    start: StartDaemon, sound: Path, tmp_path: Path, name: str
) -> None:
    shutil.copytree(sound, tmp_path, dirs_exist_ok=True)
    with (tmp_path / "windows.streamd").open("rb") as file:
        header = parse_header(file.read(HEADER_BYTES))
    assert header is not None
    DAMAGE[name](tmp_path, header["capacity"])

    again = start(tmp_path)
    again.wait_for("ready")
    recovered = again.get("/v1/status")[1]["recovered"]
    # A memory without its windows is set aside with them.
    set_aside = [path for path in recovered["set_aside"] if "memory.streamd" not in path]
    dropped = recovered["unreadable"] + recovered["unreadable_forecasts"] + len(set_aside)
    assert dropped + recovered["repaired"] == 1, recovered
    assert all(Path(path).exists() for path in recovered["set_aside"])
    metrics = again.get("/metrics")[1]
    counted = {line.split()[0]: float(line.split()[1]) for line in metrics.splitlines() if "state_" in line[:20]}
    assert counted["streamd_state_unreadable"] == recovered["unreadable"] + recovered["unreadable_forecasts"]
    assert counted["streamd_state_set_aside"] == len(recovered["set_aside"])
    assert again.get("/v1/servers")[0] == 200
    for server in ("first", "second"):
        send(again, server, NEED, NEED)
        wait_for_forecast(again, server, 2 * NEED - 1)
