"""Tests `streamd/http/routes/servers.py` in a process: a server that was removed stays removed after `kill -9`."""

import signal
from pathlib import Path

from tests.support.daemon_process import NEED, DaemonProcess, make_whole_rows
from tests.support.served_versions import AUTHORIZED, SETTINGS
from tests.support.tiny_version import SHIPPED_CONTRACT
from tests.support.version_calls import StartDaemon

FEATURES = SHIPPED_CONTRACT.features


def wait_for_forecast(daemon: DaemonProcess, server: str) -> object:
    """Wait for the forecast of a server and return it."""
    while (answer := daemon.get(f"/v1/forecasts/{server}"))[1].get("status") == "pending":
        pass
    return answer[1]


def test_a_forgotten_server_stays_forgotten_through_kill_9(start: StartDaemon, tmp_path: Path) -> None:
    state = tmp_path / "state"
    first = start(state, STREAMD_ADMIN_TOKEN=SETTINGS["STREAMD_ADMIN_TOKEN"])
    samples = [row for server in ("removed", "other") for row in make_whole_rows(server, range(NEED), FEATURES)]
    assert first.call("POST", "/v1/samples", {"samples": samples})[1]["accepted"] == 2 * NEED
    before = wait_for_forecast(first, "other")
    wait_for_forecast(first, "removed")
    assert first.call("DELETE", "/v1/servers/removed", **AUTHORIZED) == (204, "")
    first.signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    second = start(state)
    assert [each["server"] for each in second.get("/v1/servers")[1]["servers"]] == ["other"]
    for path in ("/v1/servers/removed", "/v1/forecasts/removed"):
        assert second.get(path)[0] == 404
    assert second.get("/v1/forecasts/other") == (200, before)
    # 2. Another server gets the slot, which is empty.
    assert second.call("POST", "/v1/samples", {"samples": make_whole_rows("new", [0], FEATURES)})[1]["accepted"] == 1
    window = second.get("/v1/servers/new")[1]
    assert window["have"] == 1
    assert sum(value is not None for row in window["values"] for value in row) == len(FEATURES)
