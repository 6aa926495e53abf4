"""The engine version changes 20 times under the load of a fleet: forecasts that are lost, sent twice or of neither.

A `streamd serve` has two versions in its folder: the one under test, promoted, and a copy of it under a later stamp
with the same plans, so that a cold change loads plans, captures graphs, warms the lanes and drains the old ones. The
load test runs against it throughout, and every change is made over HTTP: five groups, started at even distances over
the load test, of a promotion whose version must be loaded (cold: the daemon has released it), a rollback, a promotion
of a version that is still warm, and a rollback, one after the other.

`seconds` is from the request to its answer, `seconds_to_status` until `/v1/status`, read every 20 ms, names the other
version, and `seconds_to_forecast` until its first forecast is received (`None` if that is later than half a second
after the answer); `pause_seconds` is the longest time up to then without a forecast. The load test accounts for every
row; a subscriber of this process counts forecasts by the version that they name. A row that is replaced by a newer one
of the same server is superseded: the daemon counts it, and it is not lost. Memory is measured before the load test, and
during it while one version is loaded: before each cold change and after the last change. The device's memory is that of
all its processes.

A run passes if nothing is lost, duplicated or of an unknown version, every rollback takes less than a second, and all
20 changes end before the load test does. Not measured: versions that differ (another model or contract), ensembles,
candidates, changes by signal, a daemon that is killed during a change, a network.
"""

import asyncio
import json
import secrets
import shutil
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.gpu.daemon import make_temporary_folder, replay_against, summarize_report
from benchmarks.gpu.harness import ResultFile, Suite
from benchmarks.gpu.processes import Daemon, copy_version, run_daemon
from benchmarks.gpu.reload_client import CALL_SECONDS, ReloadClient, read_memory
from benchmarks.gpu.reload_counts import ForecastCounts, count_forecasts
from benchmarks.harness import print_table
from streamd.repository.conversion import hash_file
from streamd.repository.promotion import Promoter
from streamd.repository.versions import EngineRepository, EngineVersion, parse_stamp

MOST_SERVERS = 5_000
GROUPS = 5
GROUP = ("promote", "rollback", "promote", "rollback")
"""The first of each group is cold."""

KEEP_WARM_SECONDS = 2.0
PAUSE_SECONDS = 0.5
"""The pause after each change; much shorter than the time for which the previous version stays warm."""

ROLLBACK_SECONDS = 1.0
FIRST_FORECAST_SECONDS = 60.0
STAMP = "%Y%m%d_%H%M%S"


def run(suite: Suite) -> None:
    """Switch from each version to its copy and back, under load."""
    result = ResultFile(suite, "reload", not_measured=__doc__, keep_warm_seconds=KEEP_WARM_SECONDS)
    for version in suite.versions:
        title = f"reload {version.name}"
        with suite.run_part(title), make_temporary_folder(suite) as folder:
            found = ReloadTest(suite, version, Path(folder), result).run()
            suite.failures += [f"{title}: {reason}" for reason in found["failures"]]
            _print(found)


# ---------------------------------------------------------------- two versions
def make_two_versions(suite: Suite, version: EngineVersion, root: Path) -> tuple[str, str]:
    """Put a version and its copy into a folder, and promote the version; returns their names."""
    first = copy_version(suite, version, root)
    second = make_later_copy(first)
    Promoter(EngineRepository(root)).promote(
        first.name, "benchmark", "the version that rollbacks return to", time.time()
    )
    return first.name, second.name


def make_later_copy(version: Path) -> Path:
    """Copy a version's folder under a stamp a second later, as a complete version of its own."""
    stamp = parse_stamp(version.name)
    later = (datetime.strptime(stamp, STAMP) + timedelta(seconds=1)).strftime(STAMP)
    copy = version.with_name(version.name.removesuffix(stamp) + later)
    shutil.copytree(version, copy)
    manifest = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    (copy / "config.json").write_text(json.dumps({**manifest, "name": copy.name}, indent=2) + "\n", encoding="utf-8")
    path = copy / "conversion_info.json"
    if path.is_file():
        info = json.loads(path.read_text(encoding="utf-8"))
        if "config.json" in info.get("sha256", {}):
            info["sha256"]["config.json"] = hash_file(copy / "config.json")
            path.write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
    return copy


# ---------------------------------------------------------------- the test
class ReloadTest:
    """The daemon, the load test and the changes of one version."""

    def __init__(self, suite: Suite, version: EngineVersion, folder: Path, result: ResultFile) -> None:
        self.suite = suite
        self.version = version
        self.folder = folder
        self.result = result
        self.seconds: float = suite.arguments.daemon_seconds
        self.servers = min(suite.arguments.servers, MOST_SERVERS)
        self.names = make_two_versions(suite, version, folder / "engines")
        self.found: dict[str, Any] = {
            "engine": version.name,
            "versions": self.names,
            "servers": self.servers,
            "rows_per_second_asked": round(self.servers / suite.arguments.cadence, 1),
            "changes": [],
            "memory_with_one_version": [],
        }
        result.append("versions", self.found)

    def run(self) -> dict[str, Any]:
        """Serve, run the load test, change and judge; the result is written after each change."""
        token = secrets.token_hex(16)
        with run_daemon(self.folder, self.folder / "engines", "", **self._settings(token)) as daemon:
            ready = daemon.wait_ready()
            status = daemon.get("/v1/status")[1]
            self._record(seconds_to_ready=round(ready, 2), backend=status["backend"], precision=status["precision"])
            self._record(memory_before_the_replay=read_memory(daemon.pid))
            asyncio.run(self._run_under_load(daemon, token))
            self._record(daemon_rows=daemon.get("/v1/status")[1]["rows"])
        self._record(failures=judge(self.found))
        return self.found

    def _settings(self, token: str) -> dict[str, object]:
        arguments = self.suite.arguments
        overrides = dict(each.split("=", 1) for each in arguments.daemon_settings)
        return {
            "max_servers": self.servers,
            "min_context_rows": 1,
            "row_grace_seconds": 1.0,
            "lanes": arguments.max_lanes,
            "backend": arguments.backend,
            "admin_token": token,
            "keep_warm_seconds": KEEP_WARM_SECONDS,
            **overrides,
            "log_level": "info",
        }

    async def _run_under_load(self, daemon: Daemon, token: str) -> None:
        contract = self.version.contract
        timeout = aiohttp.ClientTimeout(total=CALL_SECONDS)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            count_forecasts(session, daemon.url, contract.quantiles[0], contract.targets[0]) as forecasts,
        ):
            replaying = asyncio.create_task(
                asyncio.to_thread(replay_against, self.suite, daemon, self.folder, self.servers, self.seconds)
            )
            try:
                await self._run_changes(ReloadClient(session, daemon, token), forecasts, replaying)
            finally:
                report, busy = await replaying  # It is a thread, which cannot be stopped.
                self._record(
                    busy=busy,
                    **summarize_report(report),
                    forecasts=report["forecasts"],
                    subscriber=forecasts.summarize(),
                )
                self._record(exit=report["exit"], notes=report["notes"], replay=report)

    async def _run_changes(
        self, client: ReloadClient, forecasts: ForecastCounts, replaying: "asyncio.Task[Any]"
    ) -> None:
        async with asyncio.timeout(FIRST_FORECAST_SECONDS):
            await forecasts.began.wait()
        began = time.monotonic()
        for group in range(GROUPS):
            await asyncio.sleep(max(0.0, began + group * self.seconds / GROUPS - time.monotonic()))
            await self._measure_memory(client)
            for kind in GROUP:
                row = await self._change_version(client, forecasts, kind)
                row |= {"at_seconds": round(time.monotonic() - began, 2), "under_load": not replaying.done()}
                self.found["changes"].append(row)
                self.result.write()
        await self._measure_memory(client)

    async def _change_version(self, client: ReloadClient, forecasts: ForecastCounts, kind: str) -> dict[str, Any]:
        to = self.names[kind == "promote"]
        before = await client.fetch_status()
        cold = before["previous"] is None or before["previous"]["engine"] != to
        began = time.monotonic()
        forecasts.start_interval(began)
        named = asyncio.create_task(client.wait_serving(to))
        try:
            answer = await client.change_version(kind, to)
            answered = time.monotonic()
            named_at = await named
        finally:
            named.cancel()
        await asyncio.sleep(max(0.0, answered + PAUSE_SECONDS - time.monotonic()))
        first, after = forecasts.find_first(to), await client.fetch_status()
        return {
            "kind": kind,
            "to": to,
            "cold": cold,
            "seconds": round(answered - began, 4),
            "seconds_by_the_daemon": answer["seconds"],
            "seconds_to_status": round(named_at - began, 4),
            "seconds_to_forecast": None if first is None else round(first - began, 4),
            "pause_seconds": round(forecasts.find_longest_pause(time.monotonic()), 4),
            "backend": after["backend"],
            "precision": after["precision"],
            "lanes": len(after["lanes"]),
        }

    async def _measure_memory(self, client: ReloadClient) -> None:
        # Each cold change has loaded a version, so as many must have been released since the start.
        await client.wait_one_loaded(released=sum(change["cold"] for change in self.found["changes"]))
        found = await asyncio.to_thread(read_memory, client.daemon.pid)
        self.found["memory_with_one_version"].append(found)
        self.result.write()

    def _record(self, **parts: Any) -> None:
        self.found.update(parts)
        self.result.write()


def judge(found: dict[str, Any]) -> list[str]:
    """List the reasons why a run does not pass; empty if it passes."""
    changes, reader, whole = found["changes"], found["subscriber"], found["forecasts"]
    failures = [f"{name}: {count}" for name, count in found["lost"].items()]
    if reader["duplicated"]:
        failures.append(f"the subscriber was sent {reader['duplicated']} forecasts twice")
    if whole["received"] + whole["lagged"] != reader["distinct"] + reader["lagged"]:
        failures.append(f"the subscriber got {reader['distinct']} forecasts, the load test {whole['received']}")
    if unknown := set(reader["by_version"]) - set(found["versions"]):
        failures.append(f"forecasts of unknown versions: {sorted(unknown)}")
    if missing := set(found["versions"]) - set(reader["by_version"]):
        failures.append(f"no forecast of {sorted(missing)}")
    for number, change in enumerate(changes, 1):
        if change["kind"] == "rollback" and change["seconds"] >= ROLLBACK_SECONDS:
            failures.append(f"change {number}: the rollback took {change['seconds']:.2f} s")
        if change["backend"] != found["backend"] or change["precision"] != found["precision"]:
            failures.append(f"change {number}: serves on {change['backend']} {change['precision']}")
    if (under_load := sum(change["under_load"] for change in changes)) < GROUPS * len(GROUP):
        failures.append(f"{under_load} changes were done before the load test ended; expected {GROUPS * len(GROUP)}")
    if (cold := sum(change["cold"] for change in changes)) < GROUPS:
        failures.append(f"{cold} changes were cold; expected {GROUPS}")
    return failures


def _print(found: dict[str, Any]) -> None:
    head = ("change", "at s", "answer s", "status s", "forecast s", "pause s", "lanes")
    keys = ("at_seconds", "seconds", "seconds_to_status", "seconds_to_forecast", "pause_seconds", "lanes")
    cells = [
        (f"{row['kind']} {'cold' if row['cold'] else 'warm'}", *(row[name] for name in keys))
        for row in found["changes"]
    ]
    where = f"{found['servers']} servers, {found['backend']} {found['precision']}"
    print_table(f"{found['engine']} and its copy: {where}", head, cells)
    whole, reader = found["forecasts"], found["subscriber"]
    counts = ("expected", "received", "superseded", "lagged", "missing", "duplicated")
    print("  " + ", ".join(f"{name} {whole[name]}" for name in counts) + f"; lost: {found['lost'] or 0}")
    versions = ", ".join(f"{name} {count}" for name, count in sorted(reader["by_version"].items()))
    print(f"  by version: {versions}; frames of both {reader['frames_of_both_versions']}")
    print(f"  p50 {found['p50_ms']} ms, p99 {found['p99_ms']} ms from row to forecast")
    for name, label in (("resident_mib", "resident"), ("anonymous_mib", "of it anonymous"), ("device_mib", "device")):
        each = [memory[name] for memory in found["memory_with_one_version"]]
        began = found["memory_before_the_replay"][name]
        print(f"  {label} MiB before the load test: {began}; during it with one version loaded: {each}")
