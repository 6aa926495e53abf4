"""The scene of alerts: disks fill up and are emptied, while the daemon and a real Alertmanager are killed.

A person must be notified once when an alert begins and once when it ends. Ends every process in any case.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from streamd.tools.loadtest.daemon import DaemonContract
from streamd.tools.loadtest.terminal import Terminal
from streamd.tools.scene.daemon import SceneDaemon
from streamd.tools.scene.engine import make_short_step_version
from streamd.tools.scene.notifications import ALERTMANAGER_PACKAGE, NotificationCounter, SceneAlertmanager
from streamd.tools.scene.packages import PackageFolder
from streamd.tools.scene.processes import SceneError, SceneProcess, find_lasting_port, stop_processes

FULL, LOW, HIGH, RISE = 90.0, 40.0, 97.0, 3.0
"""Percent: the threshold, a disk in order, a disk that is full, and what is added in a step."""

NOTIFICATION_POLL_SECONDS = 0.2
PATIENCE_SECONDS = 90.0
QUIET_SECONDS = 4.0
"""The time in which a notification too many would come: several times what Alertmanager waits."""

ALERT_SETTINGS = """\
[alerts]
alertmanagers = ["{alertmanager}"]
alert_webhook = "{webhook}"
resend_seconds = 2.0
alert_expiry_seconds = 120.0
[alerts.rules.disk_fills]
target = "disk_usage"
above = {full}
for = 2
min_rows = {min_rows}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertSceneOptions:
    """The size of the scene and the lengths of its parts."""

    filling: int = 20
    """Servers whose disks fill up."""
    healthy: int = 20
    """Servers whose disks stay as they are."""
    step_seconds: int = 1
    rows_before: int = 30
    away_seconds: float = 4.0
    """The time for which the daemon is away, and Alertmanager after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertSceneResult:
    """The notifications that the receivers got."""

    alerts: int
    counter: NotificationCounter
    seconds: float
    webhook_repeats: int
    """Notifications that the daemon itself repeated, with the same id."""

    def list_faults(self) -> list[str]:
        """Return the alerts with a notification too few or too many, in words."""
        faults = []
        for state in ("firing", "resolved"):
            for name, counter in (
                ("Alertmanager", self.counter.by_alertmanager),
                ("the webhook", self.counter.by_daemon),
            ):
                counts = {server: count for (server, each), count in counter.items() if each == state}
                if len(counts) != self.alerts:
                    faults.append(f"{name} notified {len(counts)} servers as {state}, expected {self.alerts}")
                if name == "Alertmanager":  # the webhook promises at least once
                    faults += [
                        f"{name}: {each} as {state}: {count} times" for each, count in counts.items() if count > 1
                    ]
        if len(self.counter.ids) != 2 * self.alerts:
            faults.append(f"the webhook got {len(self.counter.ids)} ids, expected {2 * self.alerts}")
        return faults


class AlertScene:
    """One scene, from its Alertmanager to its result."""

    def __init__(
        self, options: AlertSceneOptions, *, cache: Path, engines: Path, folder: Path, write_line: Callable[[str], None]
    ) -> None:
        self._options = options
        self._packages = PackageFolder(cache)
        self._engines = engines
        self._folder = folder
        self._write_line = write_line
        self._processes: list[SceneProcess] = []
        self._counter = NotificationCounter()
        self._filling_since = math.inf
        self._emptied = 0

    async def run(self) -> AlertSceneResult:
        """Play the scene. Raises `SceneError` if a process fails, `NothingError` if Alertmanager cannot be had."""
        self._packages.require_packages([ALERTMANAGER_PACKAGE])
        port = find_lasting_port()
        try:
            async with aiohttp.ClientSession() as session, self._counter.serve(port):
                return await self._play(session, port)
        finally:
            stop_processes(self._processes)

    async def _play(self, session: aiohttp.ClientSession, port: int) -> AlertSceneResult:
        options, began = self._options, time.monotonic()
        program = self._packages.root / "usr/bin" / ALERTMANAGER_PACKAGE
        alertmanager = SceneAlertmanager(session, program, self._folder, find_lasting_port(), port)
        self._processes.append(alertmanager.process)
        alertmanager.process.start()
        daemon = self._make_daemon(session, alertmanager.url, port)
        self._processes.insert(0, daemon.process)
        self._write_line(f"  streamd is ready after {await daemon.start():.1f} s")
        contract = (await daemon.client.fetch_status()).contract
        reporting = asyncio.create_task(self._report(session, daemon.url, contract))
        try:
            await self._fill_disks()
            await self._kill_daemon(daemon)
            await self._kill_alertmanager(alertmanager)
            await self._empty_other_disks()
        finally:
            reporting.cancel()
            with suppress(asyncio.CancelledError):
                await reporting
        return AlertSceneResult(
            alerts=options.filling,
            counter=self._counter,
            seconds=time.monotonic() - began,
            webhook_repeats=self._counter.by_daemon.total() - len(self._counter.ids),
        )

    def _make_daemon(self, session: aiohttp.ClientSession, alertmanager_url: str, port: int) -> SceneDaemon:
        make_short_step_version(self._engines, self._folder / "engines", self._options.step_seconds)
        settings = ALERT_SETTINGS.format(
            alertmanager=alertmanager_url,
            webhook=f"http://127.0.0.1:{port}/daemon",
            full=FULL,
            min_rows=self._options.rows_before // 2,
        )
        return SceneDaemon(
            session,
            self._folder,
            find_lasting_port(),
            engines=self._folder / "engines",
            min_context_rows=4,
            more_settings=settings,
        )

    # ------------------------------------------------------------ the acts
    async def _fill_disks(self) -> None:
        await asyncio.sleep(2 * self._options.step_seconds)
        self._filling_since = time.time()
        self._write_line(f"  the disks of {self._options.filling} servers fill up, one after the other")
        half = self._options.filling // 2
        await self._wait("half of them are notified", self._has_notified("firing", half))

    async def _kill_daemon(self, daemon: SceneDaemon) -> None:
        daemon.process.kill()
        self._write_line(f"  streamd is killed (SIGKILL) for {self._options.away_seconds:g} s")
        await asyncio.sleep(self._options.away_seconds)
        self._write_line(f"  streamd is back after {await daemon.start():.1f} s")
        await self._wait("all of them are notified", self._has_notified("firing", self._options.filling))
        await asyncio.sleep(QUIET_SECONDS)

    async def _kill_alertmanager(self, alertmanager: SceneAlertmanager) -> None:
        alertmanager.process.kill()
        self._processes.remove(alertmanager.process)
        self._write_line("  Alertmanager is killed (SIGKILL), and meanwhile half of the disks are emptied")
        self._emptied = self._options.filling // 2

        async def has_half() -> bool:
            return self._counter.count_states("resolved")[1] == self._emptied

        await self._wait("the webhook is notified of each end", has_half)
        await asyncio.sleep(self._options.away_seconds)
        alertmanager.process.start()
        self._processes.append(alertmanager.process)
        await self._wait("Alertmanager notified of each end", self._has_notified("resolved", self._emptied))
        await asyncio.sleep(QUIET_SECONDS)

    async def _empty_other_disks(self) -> None:
        self._emptied = self._options.filling
        self._write_line("  the other disks are emptied")
        await self._wait("their ends are notified", self._has_notified("resolved", self._emptied))
        await asyncio.sleep(QUIET_SECONDS)

    def _has_notified(self, state: str, servers: int) -> Callable[[], Awaitable[bool]]:
        async def test() -> bool:
            return min(self._counter.count_states(state)) >= servers

        return test

    async def _wait(self, what: str, test: Callable[[], Awaitable[bool]]) -> None:
        """Wait until a test is true, or the patience is over: the result then lacks something."""
        began = time.monotonic()
        while not await test():
            if time.monotonic() > began + PATIENCE_SECONDS:
                self._write_line(f"  gave up after {PATIENCE_SECONDS:g} s: {what}")
                return
            for process in self._processes:
                process.check_running()
            await asyncio.sleep(NOTIFICATION_POLL_SECONDS)
        self._write_line(f"  {what}: after {time.monotonic() - began:.1f} s")

    # ------------------------------------------------------------ the fleet
    async def _report(self, session: aiohttp.ClientSession, url: str, contract: DaemonContract) -> None:
        """Send a row of each server in each step; a row that the daemon does not take is lost."""
        step_seconds = self._options.step_seconds
        step = int(time.time() // step_seconds) - self._options.rows_before
        while True:
            if step * step_seconds > time.time():
                await asyncio.sleep(step * step_seconds - time.time())
            body = msgspec.json.encode(self._make_columns(contract, step * step_seconds))
            with suppress(aiohttp.ClientError, OSError):
                headers = {"Content-Type": "application/json"}
                async with session.post(f"{url}/v1/samples", data=body, headers=headers) as answer:
                    if answer.status not in (200, 503):
                        raise SceneError(f"the daemon refuses rows: {answer.status} {(await answer.text())[:200]}")
            step += 1

    def _make_columns(self, contract: DaemonContract, at: int) -> dict[str, Any]:
        disk = contract.features.index("disk_usage")
        filling, healthy = self._options.filling, self._options.healthy
        servers = [f"db-{number}" for number in range(filling)] + [f"web-{number}" for number in range(healthy)]
        rows = []
        for number in range(filling + healthy):
            row = [20.0] * len(contract.features)
            row[disk] = self._find_usage(number, at)
            rows.append(row)
        return {"columns": {"servers": servers, "time": at, "features": contract.features, "values": rows}}

    def _find_usage(self, number: int, at: int) -> float:
        """Return the disk usage of a server in percent; the disks begin to fill up one after the other."""
        if not self._emptied <= number < self._options.filling:
            return LOW
        steps = max((at - self._filling_since) / self._options.step_seconds - number, 0.0)
        return min(LOW + RISE * steps, HIGH)


def format_alert_scene(result: AlertSceneResult, terminal: Terminal) -> list[str]:
    """Return the lines that report a scene: the notifications, and what is wrong with them."""
    firing, resolved = (
        sum(count for (_, state), count in result.counter.by_alertmanager.items() if state == each)
        for each in ("firing", "resolved")
    )
    pairs = [
        ("Alertmanager", f"{firing} firing and {resolved} resolved notifications of {result.alerts} alerts"),
        (
            "webhook",
            f"{result.counter.by_daemon.total()} notifications with {len(result.counter.ids)} ids, so "
            f"{result.webhook_repeats} of them repeated",
        ),
        ("time", f"{result.seconds:.0f} s"),
    ]
    faults = [f"  {terminal.paint_bad(fault)}" for fault in result.list_faults()]
    return [terminal.draw_rule("result"), *terminal.format_pairs(pairs), *faults]
