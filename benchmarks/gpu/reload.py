"""The engine version changes 20 times under a fleet's load: is a forecast lost, sent twice, or of a third version?

A `streamd serve` with two versions in its folder: the one under test, promoted, and a copy of it under a later stamp
with the same plans, so that a cold change loads plans, captures graphs, warms the lanes and drains the old ones. The
load replayer runs against it throughout, and every change goes over HTTP: five groups, begun at even distances over
the replay, of a promotion whose version is loaded first (cold: the daemon has let go of it), a rollback, a promotion
of what is warm still, and a rollback, one after the other.

`seconds` is from the request to its answer, `seconds_to_status` until `/v1/status`, asked every 20 ms, names the other
version, and `seconds_to_forecast` until its first forecast is read (none where that is later than half a second after
the answer); `pause_seconds` is the longest time up to then in which no forecast came. The replayer accounts for every
row; a subscriber of this process counts forecasts by the version that they name. Rows that a newer one of the same
server overtakes are superseded, which the daemon counts and which is no loss. Memory is taken before the replay, and
during it where one version is loaded: before each cold change and after the last change. The device's is that of all
its processes.

Judged: nothing lost, duplicated or of an unknown version, every rollback within a second, 20 changes all within the
replay. Not measured: versions that differ (another model or contract), ensembles, trials, changes by signal, a
daemon that is killed during a change, a network.
"""

import asyncio
import json
import secrets
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from benchmarks.gpu.daemon import _replay, _told, temporary_folder
from benchmarks.gpu.harness import ResultFile, Suite
from benchmarks.gpu.processes import Daemon, copy_version, serving
from benchmarks.harness import print_table
from streamd.repository.conversion import sha256_of
from streamd.repository.promotion import Promoter
from streamd.repository.versions import EngineRepository, EngineVersion, stamp_of

MOST_SERVERS = 5_000
GROUPS = 5
GROUP = ("promote", "rollback", "promote", "rollback")
"""The first of each group is cold."""

KEEP_WARM_SECONDS = 2.0
PAUSE_SECONDS = 0.5
"""After each change: well within the time for which the version before stays warm."""

ROLLBACK_SECONDS = 1.0
POLL_SECONDS = 0.02
CALL_SECONDS = 180.0
FIRST_FORECAST_SECONDS = 60.0
RETIRE_SECONDS = 30.0
STAMP = "%Y%m%d_%H%M%S"


def run(suite: Suite) -> None:
    """Change each version for its copy and back, under load."""
    result = ResultFile(suite, "reload", not_measured=__doc__, keep_warm_seconds=KEEP_WARM_SECONDS)
    for version in suite.versions:
        title = f"reload {version.name}"
        with suite.part(title), temporary_folder(suite) as folder:
            found = Trial(suite, version, Path(folder), result).run()
            suite.failures += [f"{title}: {reason}" for reason in found["failures"]]
            _print(found)


# ---------------------------------------------------------------- two versions
def two_versions(suite: Suite, version: EngineVersion, root: Path) -> tuple[str, str]:
    """Put a version, promoted, and its copy into a folder; returns their names."""
    first = copy_version(suite, version, root)
    second = later_copy(first)
    Promoter(EngineRepository(root)).promote(first.name, "benchmark", "what rollbacks go back to", time.time())
    return first.name, second.name


def later_copy(version: Path) -> Path:
    """Copy a version's folder under a stamp a second later, so that it is a sound version of its own."""
    stamp = stamp_of(version.name)
    later = (datetime.strptime(stamp, STAMP) + timedelta(seconds=1)).strftime(STAMP)
    copy = version.with_name(version.name.removesuffix(stamp) + later)
    shutil.copytree(version, copy)
    manifest = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    (copy / "config.json").write_text(json.dumps({**manifest, "name": copy.name}, indent=2) + "\n", encoding="utf-8")
    path = copy / "conversion_info.json"
    if path.is_file():
        info = json.loads(path.read_text(encoding="utf-8"))
        if "config.json" in info.get("sha256", {}):
            info["sha256"]["config.json"] = sha256_of(copy / "config.json")
            path.write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
    return copy


# ---------------------------------------------------------------- what forecasts say
class Frame(msgspec.Struct):
    """What a subscriber is sent, as far as it is counted here."""

    type: str
    server: str = ""
    origin: float = 0.0
    servers: list[str] = []
    origins: list[float] = []
    model: str | list[str] = ""
    dropped: int = 0


_decode = msgspec.msgpack.Decoder(Frame).decode


class Forecasts:
    """Counts forecasts by the version that they name, and those that came before."""

    def __init__(self) -> None:
        self.by_version: Counter[str] = Counter()
        self.duplicated = self.overtaken = self.lagged = self.mixed_frames = 0
        self.began = asyncio.Event()
        self._seen: set[tuple[str, float]] = set()
        self._newest: dict[str, float] = {}
        self._first: dict[str, float] = {}
        self._last = self._longest = 0.0

    def take(self, data: bytes, now: float) -> None:
        """Count one frame that was read at this moment."""
        frame = _decode(data)
        if frame.type == "forecast":
            self._count([frame.server], [frame.origin], [str(frame.model)], now)
        elif frame.type == "forecasts":
            mixed = isinstance(frame.model, list)
            self.mixed_frames += mixed
            models = frame.model if isinstance(frame.model, list) else [frame.model] * len(frame.servers)
            self._count(frame.servers, frame.origins, models, now)
        elif frame.type == "lagged":
            self.lagged += frame.dropped
        elif frame.type != "subscribed":
            raise RuntimeError(f"the subscriber was sent {data[:300]!r}")

    def mark(self, now: float) -> None:
        """Begin to look for the longest pause and each version's first forecast."""
        self._first.clear()
        self._last, self._longest = now, 0.0

    def first_of(self, version: str) -> float | None:
        """When this version's first forecast since the mark was read."""
        return self._first.get(version)

    def pause(self, now: float) -> float:
        """The longest time since the mark without a forecast."""
        return max(self._longest, now - self._last)

    def told(self) -> dict[str, Any]:
        """The counts; `out_of_order` came after a newer one of the same server."""
        return {
            "by_version": dict(self.by_version),
            "distinct": len(self._seen),
            "duplicated": self.duplicated,
            "out_of_order": self.overtaken,
            "lagged": self.lagged,
            "frames_of_both_versions": self.mixed_frames,
        }

    def _count(self, servers: list[str], origins: list[float], models: list[str], now: float) -> None:
        self._longest, self._last = max(self._longest, now - self._last), now
        for each in zip(servers, origins, models, strict=True):
            server, origin, model = each
            self.by_version[model] += 1
            self._first.setdefault(model, now)
            if (server, origin) in self._seen:
                self.duplicated += 1
            elif origin < self._newest.get(server, 0.0):
                self.overtaken += 1
            else:
                self._newest[server] = origin
            self._seen.add((server, origin))
        self.began.set()


@asynccontextmanager
async def reading(session: aiohttp.ClientSession, url: str, quantile: float, target: str) -> AsyncIterator[Forecasts]:
    """Subscribe to one figure of each forecast and count until the end; raises what the reader raised."""
    forecasts = Forecasts()
    asked = {"type": "subscribe", "servers": ["*"], "batch": True, "dtype": "float16"}
    asked |= {"targets": [target], "quantiles": [quantile]}

    async def read(socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                forecasts.take(message.data, time.monotonic())

    async with session.ws_connect(f"{url}/v1/forecasts", max_msg_size=0) as socket:
        await socket.send_bytes(msgspec.msgpack.encode(asked))
        task = asyncio.create_task(read(socket))
        try:
            yield forecasts
            if task.done():
                task.result()
                raise RuntimeError("the daemon closed the subscription")
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


# ---------------------------------------------------------------- the daemon
@dataclass
class Client:
    """What is asked of the daemon during the replay."""

    session: aiohttp.ClientSession
    daemon: Daemon
    token: str

    async def status(self) -> dict[str, Any]:
        """Its `/v1/status`."""
        async with self.session.get(f"{self.daemon.url}/v1/status") as answer:
            told: dict[str, Any] = await answer.json()
            return told

    async def until_serving(self, version: str) -> float:
        """Wait until its status names this version; returns when."""
        while (await self.status())["engine"] != version:
            await asyncio.sleep(POLL_SECONDS)
        return time.monotonic()

    async def until_one_is_loaded(self, let_go: int) -> None:
        """Wait until the version before is not kept warm any more, and so many were let go of since the start."""
        async with asyncio.timeout(RETIRE_SECONDS):
            while (await self.status())["previous"] is not None:
                await asyncio.sleep(5 * POLL_SECONDS)
            while self.daemon.log_path.read_bytes().count(b'"engine_let_go"') < let_go:
                await asyncio.sleep(5 * POLL_SECONDS)

    async def change(self, kind: str, version: str) -> dict[str, Any]:
        """Promote or roll back; returns the answer. Raises RuntimeError where it is refused."""
        body: dict[str, str] = {"who": "benchmark", "why": "reload under load"}
        if kind == "promote":
            body["version"] = version
        heads = {"Authorization": f"Bearer {self.token}"}
        url = f"{self.daemon.url}/v1/engines/{kind}"
        async with self.session.post(url, json=body, headers=heads) as answer:
            if answer.status != 200:
                raise RuntimeError(f"{kind} {version}: {answer.status}: {await answer.text()}")
            told: dict[str, Any] = await answer.json()
        if told["engine"] != version:
            raise RuntimeError(f"{kind}: {told['engine']} serves, expected {version}")
        return told


def memory_of(pid: int) -> dict[str, Any]:
    """Resident MiB of a process, and the used MiB of each GPU where there is one."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    fields = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.endswith(" kB")}
    found: dict[str, Any] = {
        "resident_mib": round(fields["VmRSS"], 1),
        "anonymous_mib": round(fields["RssAnon"], 1),
        "device_mib": [],
    }
    if shutil.which("nvidia-smi") is not None:
        command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        if answer.returncode == 0:
            found["device_mib"] = [int(line) for line in answer.stdout.split()]
    return found


# ---------------------------------------------------------------- the changes
class Trial:
    """One version's daemon, replay and changes."""

    def __init__(self, suite: Suite, version: EngineVersion, folder: Path, result: ResultFile) -> None:
        self.suite = suite
        self.version = version
        self.folder = folder
        self.result = result
        self.seconds: float = suite.arguments.daemon_seconds
        self.servers = min(suite.arguments.servers, MOST_SERVERS)
        self.names = two_versions(suite, version, folder / "engines")
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
        """Serve, replay, change and judge; the result is written after each change."""
        token = secrets.token_hex(16)
        with serving(self.folder, self.folder / "engines", "", **self._settings(token)) as daemon:
            ready = daemon.until_ready()
            status = daemon.get("/v1/status")[1]
            self._put(seconds_to_ready=round(ready, 2), backend=status["backend"], precision=status["precision"])
            self._put(memory_before_the_replay=memory_of(daemon.pid))
            asyncio.run(self._under_load(daemon, token))
            self._put(daemon_rows=daemon.get("/v1/status")[1]["rows"])
        self._put(failures=judge(self.found))
        return self.found

    def _settings(self, token: str) -> dict[str, object]:
        arguments = self.suite.arguments
        given = dict(each.split("=", 1) for each in arguments.daemon_settings)
        return {
            "max_servers": self.servers,
            "min_context_rows": 1,
            "row_grace_seconds": 1.0,
            "lanes": arguments.max_lanes,
            "backend": arguments.backend,
            "admin_token": token,
            "keep_warm_seconds": KEEP_WARM_SECONDS,
            **given,
            "log_level": "info",
        }

    async def _under_load(self, daemon: Daemon, token: str) -> None:
        contract = self.version.contract
        timeout = aiohttp.ClientTimeout(total=CALL_SECONDS)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            reading(session, daemon.url, contract.quantiles[0], contract.targets[0]) as forecasts,
        ):
            replaying = asyncio.create_task(
                asyncio.to_thread(_replay, self.suite, daemon, self.folder, self.servers, self.seconds)
            )
            try:
                await self._changes(Client(session, daemon, token), forecasts, replaying)
            finally:
                report, busy = await replaying  # a thread, which cannot be stopped
                self._put(busy=busy, **_told(report), forecasts=report["forecasts"], subscriber=forecasts.told())
                self._put(exit=report["exit"], notes=report["notes"], replay=report)

    async def _changes(self, client: Client, forecasts: Forecasts, replaying: "asyncio.Task[Any]") -> None:
        async with asyncio.timeout(FIRST_FORECAST_SECONDS):
            await forecasts.began.wait()
        began = time.monotonic()
        for group in range(GROUPS):
            await asyncio.sleep(max(0.0, began + group * self.seconds / GROUPS - time.monotonic()))
            await self._weigh(client)
            for kind in GROUP:
                row = await self._change(client, forecasts, kind)
                row |= {"at_seconds": round(time.monotonic() - began, 2), "under_load": not replaying.done()}
                self.found["changes"].append(row)
                self.result.write()
        await self._weigh(client)

    async def _change(self, client: Client, forecasts: Forecasts, kind: str) -> dict[str, Any]:
        to = self.names[kind == "promote"]
        before = await client.status()
        cold = before["previous"] is None or before["previous"]["engine"] != to
        began = time.monotonic()
        forecasts.mark(began)
        named = asyncio.create_task(client.until_serving(to))
        try:
            told = await client.change(kind, to)
            answered = time.monotonic()
            named_at = await named
        finally:
            named.cancel()
        await asyncio.sleep(max(0.0, answered + PAUSE_SECONDS - time.monotonic()))
        first, after = forecasts.first_of(to), await client.status()
        return {
            "kind": kind,
            "to": to,
            "cold": cold,
            "seconds": round(answered - began, 4),
            "seconds_by_the_daemon": told["seconds"],
            "seconds_to_status": round(named_at - began, 4),
            "seconds_to_forecast": None if first is None else round(first - began, 4),
            "pause_seconds": round(forecasts.pause(time.monotonic()), 4),
            "backend": after["backend"],
            "precision": after["precision"],
            "lanes": len(after["lanes"]),
        }

    async def _weigh(self, client: Client) -> None:
        # Of the first version and all that were loaded since, one is left.
        await client.until_one_is_loaded(let_go=sum(change["cold"] for change in self.found["changes"]))
        found = await asyncio.to_thread(memory_of, client.daemon.pid)
        self.found["memory_with_one_version"].append(found)
        self.result.write()

    def _put(self, **parts: Any) -> None:
        self.found.update(parts)
        self.result.write()


def judge(found: dict[str, Any]) -> list[str]:
    """Why a run does not pass; empty where it does."""
    changes, reader, whole = found["changes"], found["subscriber"], found["forecasts"]
    failures = [f"{name}: {count}" for name, count in found["lost"].items()]
    if reader["duplicated"]:
        failures.append(f"the subscriber was sent {reader['duplicated']} forecasts twice")
    if whole["received"] + whole["lagged"] != reader["distinct"] + reader["lagged"]:
        failures.append(f"the subscriber got {reader['distinct']} forecasts, the replayer {whole['received']}")
    if unknown := set(reader["by_version"]) - set(found["versions"]):
        failures.append(f"forecasts of unknown versions: {sorted(unknown)}")
    if unheard := set(found["versions"]) - set(reader["by_version"]):
        failures.append(f"no forecast of {sorted(unheard)}")
    for number, change in enumerate(changes, 1):
        if change["kind"] == "rollback" and change["seconds"] >= ROLLBACK_SECONDS:
            failures.append(f"change {number}: the rollback took {change['seconds']:.2f} s")
        if change["backend"] != found["backend"] or change["precision"] != found["precision"]:
            failures.append(f"change {number}: serves on {change['backend']} {change['precision']}")
    if (under_load := sum(change["under_load"] for change in changes)) < GROUPS * len(GROUP):
        failures.append(f"{under_load} changes were done before the replay ended, {GROUPS * len(GROUP)} were to be")
    if (cold := sum(change["cold"] for change in changes)) < GROUPS:
        failures.append(f"{cold} changes were cold, {GROUPS} were to be")
    return failures


def _print(found: dict[str, Any]) -> None:
    head = ("change", "at s", "answer s", "status s", "forecast s", "pause s", "lanes")
    kept = ("at_seconds", "seconds", "seconds_to_status", "seconds_to_forecast", "pause_seconds", "lanes")
    cells = [
        (f"{row['kind']} {'cold' if row['cold'] else 'warm'}", *(row[name] for name in kept))
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
        print(f"  {label} MiB before the replay: {began}; during it with one version loaded: {each}")
