"""Feeds a demo's daemon in real time: the rows that follow in the recording, one for each server and step.

A process of its own that ends when its daemon is gone. It sends to no other daemon: one that has not the servers of the
demo ends it too.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from streamd.tools.fleets.readers import read_fleet
from streamd.tools.loadtest.demo_fleet import LiveRows
from streamd.tools.loadtest.demo_folder import DemoFolder, FeederJob

AWAY_SECONDS = 900.0
"""How long the daemon may be away, to be started again, before the feeder ends."""
FEED_RETRY_SECONDS = 5.0
CALL_SECONDS = 10.0
MAX_SERVERS_LISTED = 1_000


class WrongDaemonError(Exception):
    """The daemon at this address is not that of the demo, or does not take rows."""


class DemoFeeder:
    """Sends each row when it is due; `wall` and `sleep` are those of `time`, if nothing else is given."""

    def __init__(
        self,
        url: str,
        fleet_servers: Sequence[str],
        rows: LiveRows,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url
        self._servers = fleet_servers
        self._rows = rows
        self._wall = wall
        self._sleep = sleep

    def run(self) -> str:
        """Feed the daemon until it is gone; returns why the feeder ends."""
        last_answer = self._wall()
        while self._wall() - last_answer < AWAY_SECONDS:
            try:
                self.send_due()
                last_answer = self._wall()
                self._sleep(max(self._rows.find_next_time() - self._wall(), 0.1))
            except WrongDaemonError as error:
                return str(error)
            except OSError:  # away or draining; the rows stay due
                self._sleep(FEED_RETRY_SECONDS)
        return f"the daemon did not answer for {AWAY_SECONDS:g} s"

    def send_due(self) -> None:
        """Send the rows that are due. Raises `OSError` if the daemon is away, `WrongDaemonError` if it is another."""
        due = self._rows.list_due(self._wall())
        if not due:
            return
        reporting = self._list_reporting()
        if reporting.isdisjoint(self._servers):
            raise WrongDaemonError(f"the daemon at {self.url} has none of the demo's servers")
        # A server that was forgotten on purpose does not come back.
        wanted = [(server, step) for server, step in due if self._servers[server] in reporting]
        samples = [
            {
                "server": self._servers[server],
                "time": step * self._rows.step_seconds,
                "values": self._rows.read_row(server, step),
            }
            for server, step in wanted
        ]
        if samples:
            self._call("v1/samples", {"samples": samples})
        self._rows.mark_sent(due)

    def _list_reporting(self) -> set[str]:
        page = self._call(f"v1/servers?limit={MAX_SERVERS_LISTED}")
        return {entry["server"] for entry in page["servers"]}

    def _call(self, path: str, message: object = None) -> dict[str, Any]:
        body = None if message is None else json.dumps(message).encode()
        request = urllib.request.Request(f"{self.url}/{path}", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=CALL_SECONDS) as response:
                answer: dict[str, Any] = json.load(response)
                return answer
        except urllib.error.HTTPError as error:
            with error:
                if error.code in (429, 503):  # it is busy or draining
                    raise OSError(f"{path}: {error.code}") from error
                raise WrongDaemonError(f"the daemon at {self.url} answers {path} with {error.code}") from error


def start_feeder(folder: DemoFolder, job: FeederJob) -> int:
    """Start a feeder that outlives this process; returns its process id."""
    folder.write_job(job)
    command = [sys.executable, "-m", "streamd.tools.loadtest.demo_feeder", str(folder.path)]
    with folder.feeder_log.open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    process.returncode = 0  # Popen warns when its object is destroyed while the process runs; here that is intended.
    return process.pid


def make_feeder(job: FeederJob) -> DemoFeeder:
    """Make the feeder of a job; reads the recording."""
    fleet = read_fleet(Path(job.recording), job.step_seconds).move_to_step(job.first_step)
    return DemoFeeder(job.url, fleet.servers, LiveRows(fleet, job.next_step, job.step_seconds))


def main(arguments: Sequence[str] | None = None) -> int:
    """Feed the daemon of the demo in this folder."""
    parser = argparse.ArgumentParser(description="Feed the daemon of a demo in real time.")
    parser.add_argument("folder", type=Path, help="the folder of the demo")
    folder = DemoFolder(parser.parse_args(arguments).folder)
    print(f"feeder {os.getpid()} begins", flush=True)
    reason = make_feeder(folder.read_job()).run()
    print(f"feeder {os.getpid()} ends: {reason}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
