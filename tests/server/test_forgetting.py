"""A server that a caller had forgotten stays forgotten, whatever becomes of the process."""

import signal
from pathlib import Path

from streamd.repository.versions import EngineRepository
from tests.server.conftest import Start
from tests.support.daemon_process import ENGINES, NEED, DaemonProcess, rows

FEATURES = EngineRepository(ENGINES).choose().contract.features


def forecast(daemon: DaemonProcess, server: str) -> object:
    """A server's forecast, once it is made."""
    while (answer := daemon.get(f"/v1/forecasts/{server}"))[1].get("status") == "pending":
        pass
    return answer[1]


def test_a_forgotten_server_stays_forgotten_through_kill_9(start: Start, tmp_path: Path) -> None:
    state = tmp_path / "state"
    first = start(state)
    samples = [row for server in ("goes", "stays") for row in rows(server, range(NEED), FEATURES)]
    assert first.call("POST", "/v1/samples", {"samples": samples})[1]["accepted"] == 2 * NEED
    kept = forecast(first, "stays")
    forecast(first, "goes")
    assert first.call("DELETE", "/v1/servers/goes") == (204, "")
    first.signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    second = start(state)
    assert [each["server"] for each in second.get("/v1/servers")[1]["servers"]] == ["stays"]
    for path in ("/v1/servers/goes", "/v1/forecasts/goes"):
        assert second.get(path)[0] == 404
    assert second.get("/v1/forecasts/stays") == (200, kept)
    # 2. Another server gets the slot, with nothing of the former one in it.
    assert second.call("POST", "/v1/samples", {"samples": rows("new", [0], FEATURES)})[1]["accepted"] == 1
    window = second.get("/v1/servers/new")[1]
    assert window["have"] == 1
    assert sum(value is not None for row in window["values"] for value in row) == len(FEATURES)
