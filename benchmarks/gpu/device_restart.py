"""A daemon that ends itself after its GPU is lost, and is started again as systemd would: `on_device_loss = "restart"`.

A kernel writes to an invalid address under load, in each life of the daemon. Expected: the daemon drains and ends with
its own exit status, the next life forecasts on the GPU again and has every acknowledged row, and after
`max_device_restarts` the daemon serves on by another backend. Not measured: systemd, a GPU that falls off the bus.
"""

import argparse
import json
import signal
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks.gpu.harness import describe_environment
from benchmarks.gpu.processes import Daemon
from streamd.repository.versions import EngineVersion, load_version
from streamd.server.device_restarts import EXIT_DEVICE_LOST

SERVERS = 50
ROWS = 8
RESTARTS = 2
END_SECONDS = 60.0
SETTINGS = {
    "on_device_loss": "restart",
    "max_device_restarts": RESTARTS,
    "lanes": 4,
    "warmup_seconds": 1,
    "min_context_rows": 4,
    "max_servers": 1_000,
}


class RestartTest:
    """The lives of one daemon over one state folder."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args = args
        self.folder = folder
        self.version: EngineVersion = load_version(args.engines / args.version)
        step = self.version.contract.step_seconds
        self.first_time = (int(time.time()) // step - 10_000) * step
        self.sent_rows = 0

    def run(self) -> dict[str, Any]:
        """Lose the device in each life until the daemon serves on, and return the finding."""
        lives = [self._live() for _ in range(RESTARTS + 1)]
        restarted, last = lives[:-1], lives[-1]
        passes = (
            all(life["exit_status"] == EXIT_DEVICE_LOST and life["rows_lost"] == 0 for life in restarted)
            and len({life["backend"] for life in lives}) == 1
            and last["backend_after"] not in ("", last["backend"])
            and last["forecasts_after"] == SERVERS
            and last["exit_status"] == 0
        )
        return {"passes": passes, "measured_on": describe_environment(), "engine": self.version.name, "lives": lives}

    def _live(self) -> dict[str, Any]:
        daemon = Daemon(
            self.folder,
            self.args.engines,
            self.version.name,
            module="benchmarks.gpu.losable_serve",
            backend=self.args.backend,
            **SETTINGS,
        )
        try:
            life: dict[str, Any] = {"ready_seconds": round(daemon.wait_ready(), 2)}
            life["rows_lost"] = self._count_lost_rows(daemon)
            life["backend"] = daemon.get("/v1/status")[1]["backend"]
            self._send_rows(daemon)
            life["forecasts_before"] = self._wait_forecasts(daemon)
            daemon.process.send_signal(signal.SIGUSR1)
            began = time.monotonic()
            self._send_rows(daemon)
            life |= self._watch_loss(daemon, began, life["backend"])
        finally:
            status = daemon.close()
        return life | {"exit_status": status, "log": daemon.read_log_tail(6)}

    def _watch_loss(self, daemon: Daemon, began: float, backend: str) -> dict[str, Any]:
        """Wait until the process has ended, or another backend serves."""
        while time.monotonic() - began < END_SECONDS:
            if daemon.process.poll() is not None:
                return {"ended_after_seconds": round(time.monotonic() - began, 2), "backend_after": ""}
            status, shown = daemon.get("/v1/status")
            if status == 200 and shown["ready"] and shown["backend"] != backend:
                seconds = round(time.monotonic() - began, 2)
                after = {"backend_after": shown["backend"], "forecasts_after": self._wait_forecasts(daemon)}
                return {"served_on_after_seconds": seconds, **after}
            time.sleep(0.05)
        raise RuntimeError(f"nothing happened within {END_SECONDS:g} s: {daemon.read_log_tail()}")

    def _send_rows(self, daemon: Daemon) -> None:
        """Send rows of each server; each is acknowledged, or the run fails."""
        contract = self.version.contract
        samples = [
            {
                "server": f"server-{server:02d}",
                "time": self.first_time + (self.sent_rows + row) * contract.step_seconds,
                "values": {name: float(server + row) for name in contract.features},
            }
            for row in range(ROWS)
            for server in range(SERVERS)
        ]
        body = json.dumps({"samples": samples}).encode()
        request = urllib.request.Request(daemon.url + "/v1/samples", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            accepted = json.load(answer)["accepted"]
        if accepted != len(samples):
            raise RuntimeError(f"{accepted} of {len(samples)} rows were acknowledged")
        self.sent_rows += ROWS

    def _count_lost_rows(self, daemon: Daemon) -> int:
        """Return how many acknowledged rows the windows do not have."""
        have: list[int] = [
            daemon.get(f"/v1/servers/server-{server:02d}")[1].get("have", 0) for server in range(SERVERS)
        ]
        return SERVERS * self.sent_rows - sum(have)

    def _wait_forecasts(self, daemon: Daemon) -> int:
        """Wait until each server has a forecast from its newest row, for ten seconds at most; returns how many do."""
        step = self.version.contract.step_seconds
        origin: int = self.first_time + self.sent_rows * step
        until = time.monotonic() + 10.0
        while True:
            origins = [daemon.get(f"/v1/forecasts/server-{each:02d}")[1].get("origin") for each in range(SERVERS)]
            if origins.count(origin) == SERVERS or time.monotonic() > until:
                return origins.count(origin)


def main() -> int:
    """Run the test and print its finding; the exit status is 1 if it does not pass."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.device_restart", description=__doc__)
    parser.add_argument("--engines", type=Path, default=Path("engines"), help="folder of versions [default: engines]")
    parser.add_argument("--version", required=True, help="the version to serve")
    parser.add_argument("--backend", default="auto", help="the first backend [default: auto]")
    parser.add_argument("--out", type=Path, help="file for the finding, as JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="streamd-bench-") as folder:
        found = RestartTest(args, Path(folder)).run()
    text = json.dumps(found, indent=1)
    print(text)
    if args.out is not None:
        args.out.write_text(text + "\n")
    return 0 if found["passes"] else 1


if __name__ == "__main__":
    sys.exit(main())
