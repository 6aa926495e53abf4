"""The scene of stores: a fleet that reports, two daemons that send its forecasts to real stores, which are killed.

At the end each store must show the forecasts that its daemon has, value by value. Ends every process in any case.
"""

import asyncio
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec

from streamd.tools.loadtest.errors import UnreachableError
from streamd.tools.loadtest.terminal import Terminal
from streamd.tools.scene.daemon import SceneDaemon
from streamd.tools.scene.engine import make_short_step_version
from streamd.tools.scene.metrics import fetch_json, fetch_metrics, sum_metric
from streamd.tools.scene.packages import PackageFolder
from streamd.tools.scene.processes import SceneProcess, find_lasting_port, stop_processes
from streamd.tools.scene.stores import STORE_PACKAGES, MetricStore, StoreSeries, make_prometheus, make_victoria_metrics

SENT_HORIZONS = {"30s": 30, "2m": 120, "8m": 480}
"""The horizons that are sent, in seconds; the last is all that the model forecasts."""

SENT_TARGETS = ("cpu_user", "disk_usage")
SENT_QUANTILES = ("0.1", "0.5", "0.9")
STORE_SCENE_ROWS = 4
INTERVAL_SECONDS = 4.0
QUERY_LIMIT_SECONDS = 60.0

EXPORT_SETTINGS = """\
[forecast_metrics]
forecast_servers = ["*"]
forecast_targets = {targets}
forecast_horizons = {horizons}
[remote_write]
remote_write_url = "{url}"
remote_write_time = "both"
remote_write_interval_seconds = {interval}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSceneOptions:
    """The size of the scene and the lengths of its parts."""

    servers: int = 50
    step_seconds: int = 5
    seconds: float = 60.0
    """How long servers report before the forecasts are compared."""
    away_seconds: float = 12.0
    """How long each store is away after it was killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreResult:
    """The comparison of a store with its daemon."""

    store: str
    version: str
    compared: int
    """Values of forecasts that were looked up in the store."""
    wrong: list[str]
    """Those that the store lacks or shows otherwise, a few of them."""
    wrong_values: int
    sent_samples: int
    requests: dict[str, int] = field(default_factory=dict)
    """Requests of remote write by their result."""


class StoreScene:
    """One scene, from its stores to its results."""

    def __init__(
        self, options: StoreSceneOptions, *, cache: Path, engines: Path, folder: Path, write_line: Callable[[str], None]
    ) -> None:
        self._options = options
        self._packages = PackageFolder(cache)
        self._engines = engines
        self._folder = folder
        self._write_line = write_line
        self._processes: list[SceneProcess] = []
        self._random = random.Random(7)

    async def run(self) -> list[StoreResult]:
        """Play the scene. Raises `SceneError` if a process fails, `NothingError` if the stores cannot be had."""
        self._packages.require_packages(STORE_PACKAGES)
        try:
            async with aiohttp.ClientSession() as session:
                return await self._play(session)
        finally:
            stop_processes(self._processes)

    async def _play(self, session: aiohttp.ClientSession) -> list[StoreResult]:
        make_short_step_version(self._engines, self._folder / "engines", self._options.step_seconds)
        ports = [find_lasting_port(), find_lasting_port()]
        stores = [
            make_victoria_metrics(self._packages.root, self._folder),
            make_prometheus(self._packages.root, self._folder, [f"127.0.0.1:{port}" for port in ports]),
        ]
        for store in stores:
            self._processes.append(store.process)
            store.process.start()
        for store in stores:
            await store.wait_ready(session)
            self._write_line(f"  {store.name} at {store.url} is ready")
        daemons = [await self._start_daemon(session, store, port) for store, port in zip(stores, ports, strict=True)]
        await self._report(session, daemons, stores)
        return [await self._compare(session, daemon, store) for daemon, store in zip(daemons, stores, strict=True)]

    async def _start_daemon(self, session: aiohttp.ClientSession, store: MetricStore, port: int) -> SceneDaemon:
        folder = self._folder / f"streamd for {store.name}"
        folder.mkdir()
        settings = EXPORT_SETTINGS.format(
            targets=list(SENT_TARGETS), horizons=list(SENT_HORIZONS), url=store.write_url, interval=INTERVAL_SECONDS
        )
        daemon = SceneDaemon(
            session,
            folder,
            port,
            engines=self._folder / "engines",
            min_context_rows=STORE_SCENE_ROWS,
            more_settings=settings.replace("'", '"'),
        )
        self._processes.insert(0, daemon.process)  # it ends before its store
        self._write_line(f"  streamd for {store.name} is ready after {await daemon.start():.1f} s")
        return daemon

    async def _report(
        self, session: aiohttp.ClientSession, daemons: list[SceneDaemon], stores: list[MetricStore]
    ) -> None:
        """Let servers report until the time is over; in the middle of it, each store is killed and started again."""
        options = self._options
        began = time.monotonic()
        killing = asyncio.create_task(self._kill_stores(session, stores, options.seconds / 3))
        while time.monotonic() < began + options.seconds or not killing.done():
            now = time.time()
            body = msgspec.json.encode(
                {"samples": [self._make_sample(number, now) for number in range(options.servers)]}
            )
            for daemon in daemons:
                url = f"{daemon.url}/v1/samples"
                async with session.post(url, data=body, headers={"Content-Type": "application/json"}) as answer:
                    if answer.status != 200:
                        raise UnreachableError(f"{url}: HTTP {answer.status}")
            await asyncio.sleep(options.step_seconds - time.time() % options.step_seconds + 0.01)
        killing.result()
        await asyncio.sleep(3 * INTERVAL_SECONDS)  # what is new is sent, and scraped

    async def _kill_stores(self, session: aiohttp.ClientSession, stores: list[MetricStore], after: float) -> None:
        await asyncio.sleep(after)
        for store in stores:
            store.process.kill()
        self._write_line(f"  both stores are killed, and away for {self._options.away_seconds:g} s")
        await asyncio.sleep(self._options.away_seconds)
        for store in stores:
            store.process.start()
        for store in stores:
            await store.wait_ready(session)
        self._write_line("  both stores are back")

    def _make_sample(self, number: int, now: float) -> dict[str, Any]:
        wave = math.sin(now / 60 + number)
        values = {
            "cpu_user": 40 + 20 * wave + self._random.uniform(-5, 5),
            "disk_usage": 50 + number % 40 + wave,
            "mem_used": 60 + 5 * wave,
            "load_average": 2 + wave,
        }
        return {"server": f"server-{number:03}", "time": now, "values": values}

    # ------------------------------------------------------------ comparison
    async def _compare(self, session: aiohttp.ClientSession, daemon: SceneDaemon, store: MetricStore) -> StoreResult:
        metrics = await fetch_metrics(session, int(daemon.url.rsplit(":", 1)[1]))
        now = time.time()
        shown = await store.query(session, 'streamd_forecast{job=""}', now)
        scraped = await store.query(session, f'streamd_forecast{{instance="{daemon.url[7:]}"}}', now)
        wrong: list[str] = []
        compared = 0
        for number in range(self._options.servers):
            name = f"server-{number:03}"
            forecast = await fetch_json(session, f"{daemon.url}/v1/forecasts/{quote(name)}")
            expected = _list_values(forecast)
            found = await self._list_found(session, store, name, forecast)
            pages = {"current": (expected, _read_current(shown, name)), "curve": (_list_curve(forecast), found)}
            if store.name == "Prometheus":
                pages["scraped"] = (expected, _read_current(scraped, name))
            for what, (wanted, got) in pages.items():
                compared += len(wanted)
                wrong += [
                    f"{name} {what} {key}: {got.get(key)}, expected {value}"
                    for key, value in wanted.items()
                    if not _is_same(got.get(key), value)
                ]
        return StoreResult(
            store=store.name,
            version=self._packages.read_version("prometheus" if store.name == "Prometheus" else "victoria-metrics"),
            compared=compared,
            wrong=wrong[:5],
            wrong_values=len(wrong),
            sent_samples=int(sum_metric(metrics, "streamd_remote_write_samples_total")),
            requests=_read_results(metrics),
        )

    async def _list_found(
        self, session: aiohttp.ClientSession, store: MetricStore, name: str, forecast: Mapping[str, Any]
    ) -> dict[tuple[str, ...], float]:
        """Return what the store shows at each time that is forecast."""
        step, origin = forecast["step_seconds"], forecast["origin"]
        end = origin + step * (len(forecast["values"][0]) - 1)
        expression = f'last_over_time(streamd_forecast_at{{server="{name}"}}[{step}s])'
        found = await store.query_range(session, expression, begin=origin, end=end, step=step)
        return {
            (dict(labels)["target"], dict(labels)["quantile"], str(round((at - origin) / step))): value
            for labels, points in found.items()
            for at, value in points
        }


def format_store_scene(results: Sequence[StoreResult], terminal: Terminal) -> list[str]:
    """Return the lines that show what the stores have."""
    lines = []
    for each in results:
        requests = ", ".join(f"{name} {count}" for name, count in sorted(each.requests.items()))
        shown = f"{each.compared - each.wrong_values} of {each.compared} values as the daemon has them"
        lines += terminal.format_pairs(
            [
                (f"{each.store} {each.version}", terminal.paint_bad(shown) if each.wrong else shown),
                ("", terminal.dim(f"{each.sent_samples} samples by remote write; requests: {requests}")),
            ]
        )
        lines += [f"    {line}" for line in each.wrong]
    return lines


def _list_values(forecast: Mapping[str, Any]) -> dict[tuple[str, ...], float]:
    """Return the values at the horizons that are sent."""
    curve = _list_curve(forecast)
    return {
        (target, quantile, label): curve[target, quantile, str(seconds // forecast["step_seconds"] - 1)]
        for target in SENT_TARGETS
        for quantile in SENT_QUANTILES
        for label, seconds in SENT_HORIZONS.items()
    }


def _list_curve(forecast: Mapping[str, Any]) -> dict[tuple[str, ...], float]:
    quantiles = [f"{each:g}" for each in forecast["quantiles"]]
    return {
        (target, quantile, str(step)): row[quantiles.index(quantile)]
        for target in SENT_TARGETS
        for step, row in enumerate(forecast["values"][forecast["targets"].index(target)])
        for quantile in SENT_QUANTILES
    }


def _read_current(series: StoreSeries, name: str) -> dict[tuple[str, ...], float]:
    return {
        (labels["target"], labels["quantile"], labels["horizon"]): points[0][1]
        for labels, points in ((dict(each), points) for each, points in series.items())
        if labels["server"] == name
    }


def _is_same(found: float | None, expected: float) -> bool:
    """Whether two values are the same float32; their texts may have other digits."""
    return found is not None and math.isclose(found, expected, rel_tol=1e-7, abs_tol=1e-30)


def _read_results(metrics: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for line in metrics.splitlines():
        if line.startswith("streamd_remote_write_requests_total{"):
            with suppress(ValueError, IndexError):
                found[line.split('"')[1]] = int(float(line.rsplit(" ", 1)[1]))
    return found
