"""Tests `streamd/server/daemon.py` on state that is ahead of the clock: reported at start, and recovered from."""

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon_process import NEED, DaemonProcess
from tests.support.served_versions import AUTHORIZED, SETTINGS
from tests.support.tiny_version import SHIPPED_CONTRACT
from tests.support.version_calls import StartDaemon

STEP = SHIPPED_CONTRACT.step_seconds


def row(server: str, at: int) -> dict[str, Any]:
    return {"server": server, "time": at, "values": dict.fromkeys(SHIPPED_CONTRACT.features, 1.0)}


def send(daemon: DaemonProcess, *rows: dict[str, Any]) -> dict[str, Any]:
    answer = daemon.call("POST", "/v1/samples", {"samples": rows})[1]
    assert isinstance(answer, dict)
    return answer


@pytest.mark.parametrize("way", ["samples", "delete"])
def test_a_row_from_tomorrow_does_not_silence_its_server(start: StartDaemon, tmp_path: Path, way: str) -> None:
    state = tmp_path / "state"
    # The first daemon accepts a row of tomorrow, as if its clock and that of the agent were ahead.
    first = start(state, STREAMD_MAX_AHEAD_SECONDS="100000")
    now = int(time.time()) // STEP * STEP
    assert send(first, row("web-01", now + 86_400 - STEP))["accepted"] == 1
    first.signal(signal.SIGKILL)
    first.wait()
    second = start(
        state,
        STREAMD_AHEAD_RECOVERY_SECONDS="0" if way == "samples" else "inf",
        STREAMD_ADMIN_TOKEN=SETTINGS["STREAMD_ADMIN_TOKEN"],
    )
    (line,) = [line for line in second.lines if line["event"] == "servers_ahead_of_clock"]
    assert (line["level"], line["servers"]) == ("warning", ["web-01"])
    ahead = second.get("/v1/status")[1]["ahead"]
    assert (ahead["servers"], ahead["first"][0]["server"]) == (1, "web-01")
    assert "streamd_servers_ahead 1.0\n" in second.get("/metrics")[1]
    if way == "delete":
        assert second.call("DELETE", "/v1/servers/web-01", **AUTHORIZED)[0] == 204
    now = int(time.time()) // STEP * STEP
    late = [row("web-01", now - age * STEP) for age in range(1, NEED)]
    assert send(second, row("web-01", now), *late, row("web-01", now + STEP))["rejected"] == 0
    while (answer := second.get("/v1/forecasts/web-01")[1]).get("status") == "pending":
        pass
    assert answer["origin"] == now + 2 * STEP
    status = second.get("/v1/status")[1]["ahead"]
    assert (status["servers"], status["rewound"]) == (0, 1 if way == "samples" else 0)
