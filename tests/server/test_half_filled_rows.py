"""Tests `streamd/server/daemon.py`: points that were acknowledged are in the rows, also after SIGKILL."""

import http.client
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.daemon_process import DaemonProcess

BEGIN = 1_700_000_100
"""The begin of a step, in the past."""

MEANS = {"STREAMD_AGGREGATION": "mean"}


def write_lines(daemon: DaemonProcess, *lines: str) -> int:
    """Send lines as Telegraf does; returns the status."""
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port)
    try:
        connection.request("POST", "/api/v2/write?precision=s", "\n".join(lines))
        return connection.getresponse().status
    finally:
        connection.close()


def read_row(daemon: DaemonProcess, server: str, step: int) -> dict[str, float]:
    """Return the values of a row of a server, by feature; `step` counts from `BEGIN`."""
    _, window = daemon.get(f"/v1/servers/{server}")
    rows = window["values"]
    row = rows[len(rows) - 1 - ((window["origin"] - BEGIN) // 300 - 1 - step)]
    return {name: value for name, value in zip(window["features"], row, strict=True) if value is not None}


def start(folder: Path, env: Mapping[str, str] = MEANS) -> DaemonProcess:
    return DaemonProcess.start(folder, env=env)


@pytest.mark.parametrize("kills", [1, 3])
def test_half_filled_rows_survive_a_kill(tmp_path: Path, kills: int) -> None:
    daemon = start(tmp_path)
    try:
        for turn in range(kills + 1):
            at = BEGIN + 60 * turn
            assert (
                write_lines(
                    daemon,
                    f"system,host=web-01 load1={turn} {at}",
                    f"net,host=web-01,interface=eth0 bytes_recv={6_000 * turn}i {at}",
                )
                == 204
            )
            sample = {"server": "web-02", "time": at, "values": {"load_average": 10.0 * turn}, "status": turn}
            assert daemon.call("POST", "/v1/samples", {"samples": [sample]})[1]["accepted"] == 1
            if turn < kills:
                daemon.signal(signal.SIGKILL)
                assert daemon.wait() == -signal.SIGKILL
                daemon.end()
                daemon = start(tmp_path)
        assert write_lines(daemon, f"system,host=web-01 load1=9 {BEGIN + 300}") == 204
        last = {"server": "web-02", "time": BEGIN + 300, "values": {"load_average": 1.0}}
        assert daemon.call("POST", "/v1/samples", {"samples": [last]})[1]["accepted"] == 1
        assert read_row(daemon, "web-01", 0) == {"load_average": kills / 2, "net_in": pytest.approx(100.0)}
        assert read_row(daemon, "web-02", 0) == {"load_average": 10.0 * kills / 2}
        agents = daemon.get("/v1/status")[1]["agents"]
        assert agents["restored_points"] > 0
        assert agents["values"]["telegraf.net_in"] > 0
    finally:
        daemon.end()
