"""A daemon for tests of the page: a process on the shipped fleet, moved to the present, with alert rules and a token.

Knows nothing of browsers; `page_browser.py` does.
"""

import json
import shutil
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from streamd.tools.fleets.fleet import RecordedFleet
from streamd.tools.fleets.readers import read_fleet
from streamd.tools.loadtest.child import HOST, find_free_port
from streamd.tools.loadtest.demo_fleet import choose_stretch
from streamd.tools.loadtest.demo_folder import DEMO_RULES
from tests.support.daemon_process import ROOT, SMALL, make_environment
from tests.support.forked_processes import StartedProcess, start_python
from tests.support.tiny_version import ENGINES
from tests.support.worker_fleet import wait_until

STEP_SECONDS = 300
FILL_STEPS = 288
"""The steps that come at once; those of the stream come bit by bit, for forecasts of many origins."""
BLOCKS = (*(2,) * 12, *(8,) * 12)
"""The numbers of steps in the bodies of the stream; the forecasts of the first are old enough to be scored."""

PAGE_ADMIN_TOKEN = "streamd_0123456789ab_" + "5e" * 32
"""The admin token of these daemons."""

SURE_RULE = "load_spikes"
"""A rule that no row of the recording comes near, and that `PageDaemon.fire_alert` makes fire."""

RULES = f"""{DEMO_RULES}
[alerts.rules.{SURE_RULE}]
target = "load_average"
above = 4.0
for = 1
min_rows = 48
"""
"""The rules of the demo, and `SURE_RULE`."""

SETTINGS: Mapping[str, str] = {
    **SMALL,
    "STREAMD_MAX_SERVERS": "64",
    "STREAMD_MIN_CONTEXT_ROWS": "48",
    "STREAMD_BUCKETS": "1,4,16",
    # Tests push rows faster than time passes.
    "STREAMD_MAX_AHEAD_SECONDS": "86400",
    "STREAMD_HISTORY_EVERY_STEPS": "12",
}

Values = Mapping[str, float | None]


class PageDaemon:
    """A daemon process with its own engine versions, whose state survives `restart`. Call `stop` in the end."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None, rules: str = RULES) -> None:
        self.folder = folder
        self.port = find_free_port()
        self.url = f"http://{HOST}:{self.port}"
        self.token = PAGE_ADMIN_TOKEN
        self.log = folder / "streamd.log"
        self._settings = {**SETTINGS, **(settings or {})}
        self._config = folder / "config.toml"
        self._config.write_text(f'[server]\nadmin_token = "{PAGE_ADMIN_TOKEN}"\n{rules}')
        shutil.copytree(ENGINES, folder / "engines", ignore=shutil.ignore_patterns("promoted.json", ".*"))
        self._process: StartedProcess | None = None
        self._next_step: dict[str, int] = {}
        """The step of the next row of each server, as the daemon numbers steps."""
        self._now_step = 0

    # ---------------------------------------------------------------- the process
    @property
    def pid(self) -> int:
        """The process id of the running daemon."""
        assert self._process is not None, "the daemon is not running"
        return self._process.pid

    def start(self) -> None:
        """Start the process, and wait until it is ready."""
        command = ["-m", "streamd", "serve", "--config", str(self._config)]
        command += ["--port", str(self.port), "--state-dir", str(self.folder / "state")]
        environment = make_environment({**self._settings, "STREAMD_ENGINES": str(self.folder / "engines")})
        with self.log.open("ab") as log:
            self._process = start_python(command, environment, output=log.fileno(), errors=log.fileno())
        wait_until(self._is_ready)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End the process with a signal, and wait for it; no-op if it does not run."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None

    def restart(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End the process with a signal, and start another one on the same port and state."""
        self.stop(number)
        self.start()

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the daemon ended: {self.log.read_text()[-2000:]}"
        try:
            return self.call("GET", "readyz")[0] == 200
        except OSError:
            return False

    # ---------------------------------------------------------------- calls
    def call(self, method: str, path: str, message: object = None, *, is_admin: bool = False) -> tuple[int, Any]:
        """Make a call; returns the status and the answer. `path` has no leading slash."""
        body = None if message is None else json.dumps(message).encode()
        request = urllib.request.Request(f"{self.url}/{path}", body, method=method)
        if body is not None:
            request.add_header("Content-Type", "application/json")
        if is_admin:
            request.add_header("Authorization", f"Bearer {self.token}")
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                status, data = response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                status, data = error.code, error.read()
        return status, json.loads(data) if data else None

    def get(self, path: str) -> Any:
        """Return the answer of a call that must succeed."""
        status, answer = self.call("GET", path)
        assert status == 200, answer
        return answer

    # ---------------------------------------------------------------- rows
    def fill(self, blocks: Sequence[int] = BLOCKS) -> None:
        """Send the recording up to the end of the demo's stretch, the last row being of now.

        First whole windows, then bodies of so many steps, each of which gets its forecasts before the next one is sent.
        """
        stretch = choose_stretch(read_shipped_fleet(), FILL_STEPS, STEP_SECONDS, time.time())
        self._fleet = stretch.whole
        self._now_step = self._fleet.first_step + stretch.end
        begin = self._now_step - FILL_STEPS - sum(blocks)
        self._next_step = dict.fromkeys(self._fleet.servers, begin)
        for steps in (FILL_STEPS, *blocks):
            self._push_block(steps)
            self.wait_forecasts()
        wait_until(self._has_scores)
        wait_until(self._is_judged)

    def push_next(self, server: str, rows: int = 1, **changes: float) -> int:
        """Send the next rows of a server of the recording, with these changes; returns the origin of the forecast."""
        series = self._fleet.series[self._fleet.servers.index(server)]
        places = self._next_step[server] - self._fleet.first_step + np.arange(rows)
        recorded = series[places % self._fleet.steps].tolist()
        names = self._fleet.features
        return self.push_values(server, [{**dict(zip(names, row, strict=True)), **changes} for row in recorded])

    def push_values(self, server: str, rows: Sequence[Values]) -> int:
        """Send these rows as the next ones of a server, also of a new one; returns the origin of the last one."""
        begin = self._next_step.setdefault(server, self._now_step)
        samples = [
            {"server": server, "time": (begin + number) * STEP_SECONDS, "values": dict(values)}
            for number, values in enumerate(rows)
        ]
        status, answer = self.call("POST", "v1/samples", {"samples": samples})
        assert (status, answer["rejected"]) == (200, 0), answer
        self._next_step[server] = begin + len(rows)
        return (begin + len(rows)) * STEP_SECONDS

    def wait_forecasts(self) -> None:
        """Wait until each row that is due has its forecast."""
        wait_until(self._is_idle)

    def wait_forecast(self, server: str, origin: int) -> None:
        """Wait until the latest forecast of a server is of this origin."""
        path = f"v1/forecasts?server={server}&targets=cpu_user&quantiles=0.5"
        wait_until(lambda: bool(self.get(path).get("origin") == origin))

    def fire_alert(self, server: str) -> None:
        """Make the rule `SURE_RULE` fire for a server, and wait until it does; `clear_alert` ends it."""
        self._push_until(lambda: self._has_state(server, "firing"), server, rows=12, load_average=400.0)

    def clear_alert(self, server: str, rows: int = 1) -> None:
        """Send rows of a low load, `rows` at a time, until no alert of the rule `SURE_RULE` is active for a server."""
        self._push_until(lambda: not self._has_state(server, "firing,pending"), server, rows=rows, load_average=0.0)

    def _push_until(self, is_reached: Callable[[], bool], server: str, rows: int, load_average: float) -> None:
        for _ in range(48):
            origin = self.push_next(server, rows, load_average=load_average)
            self.wait_forecast(server, origin)
            wait_until(self._is_judged)
            if is_reached():
                return
        raise AssertionError(f"the alert of {server} did not change")

    def _has_state(self, server: str, states: str) -> bool:
        return bool(self.get(f"v1/alerts?server={server}&rule={SURE_RULE}&state={states}")["alerts"])

    def _push_block(self, steps: int) -> None:
        fleet = self._fleet
        begin = self._next_step[fleet.servers[0]]
        block = fleet.take_steps(begin - fleet.first_step, begin - fleet.first_step + steps).series
        times = (begin + np.arange(steps)) * STEP_SECONDS
        columns = {
            "servers": [server for server in fleet.servers for _ in range(steps)],
            "time": np.tile(times, len(fleet.servers)).tolist(),
            "features": list(fleet.features),
            "values": block.reshape(-1, len(fleet.features)).tolist(),
        }
        status, answer = self.call("POST", "v1/samples", {"columns": columns})
        assert (status, answer["rejected"]) == (200, 0), answer
        self._next_step = dict.fromkeys(self._next_step, begin + steps)

    def _has_scores(self) -> bool:
        status = self.get("v1/status")
        return bool(status["accuracy"]["sampled"]["finished"] and status["accuracy_history"]["scored"])

    def _is_judged(self) -> bool:
        """Whether the rules have been compared with every forecast."""
        return bool(self.get("v1/status")["alerts"]["lag_seconds"] == 0)

    def _is_idle(self) -> bool:
        status = self.get("v1/status")
        return bool(status["due"] == 0 and status["in_flight"] == 0)


@cache
def read_shipped_fleet() -> RecordedFleet:
    """Return the recorded fleet that ships."""
    return read_fleet(ROOT / "examples/fleet/servers.csv.gz", STEP_SECONDS)
