"""The stores of metrics of a scene: Prometheus and VictoriaMetrics from Debian's packages, and queries to them.

Checks nothing.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import aiohttp

from streamd.tools.loadtest.child import HOST
from streamd.tools.loadtest.errors import UnreachableError
from streamd.tools.scene.metrics import fetch_json
from streamd.tools.scene.processes import SceneProcess, find_lasting_port

STORE_PACKAGES = ("prometheus", "victoria-metrics")
STORE_START_SECONDS = 30.0

_PROMETHEUS_CONFIG = """\
global: {{scrape_interval: 2s}}
storage: {{tsdb: {{out_of_order_time_window: 1h}}}}
scrape_configs:
  - job_name: streamd
    metrics_path: /metrics/forecasts
    static_configs: [{{targets: {targets}}}]
"""

StoreSeries = dict[tuple[tuple[str, str], ...], list[tuple[float, float]]]
"""Points (epoch seconds, value) by sorted labels."""


@dataclass(kw_only=True)
class MetricStore:
    """A store that runs in a process, with the API of queries that Prometheus has."""

    name: str
    port: int
    process: SceneProcess

    @property
    def url(self) -> str:
        """The address of the store."""
        return f"http://{HOST}:{self.port}"

    @property
    def write_url(self) -> str:
        """The address that takes remote write."""
        return f"{self.url}/api/v1/write"

    async def wait_ready(self, session: aiohttp.ClientSession) -> None:
        """Wait until the store answers queries; raises `SceneError` or `UnreachableError`."""
        until = time.monotonic() + STORE_START_SECONDS
        while True:
            self.process.check_running()
            try:
                await self.query(session, "vector(1)", time.time())
                return
            except UnreachableError:
                if time.monotonic() > until:
                    raise

    async def query(self, session: aiohttp.ClientSession, expression: str, at: float) -> StoreSeries:
        """Return what an expression gives at a time. Raises `UnreachableError`."""
        return await self._fetch(session, "query", {"query": expression, "time": at})

    async def query_range(
        self, session: aiohttp.ClientSession, expression: str, *, begin: float, end: float, step: float
    ) -> StoreSeries:
        """Return what an expression gives at the times from `begin` to `end`. Raises `UnreachableError`."""
        asked = {"query": expression, "start": begin, "end": end, "step": step, "nocache": "1"}
        return await self._fetch(session, "query_range", asked)

    async def _fetch(self, session: aiohttp.ClientSession, path: str, asked: dict[str, object]) -> StoreSeries:
        answer = await fetch_json(session, f"{self.url}/api/v1/{path}?{urlencode(asked)}")
        found: StoreSeries = {}
        for each in answer["data"]["result"]:
            points = each["values"] if "values" in each else [each["value"]]
            labels = tuple(sorted(each["metric"].items()))
            found[labels] = [(float(point[0]), float(point[1])) for point in points]
        return found


def make_victoria_metrics(root: Path, folder: Path) -> MetricStore:
    """Return VictoriaMetrics, as it is without settings but for its folder; it is not started."""
    port = find_lasting_port()
    command = [str(root / "usr/bin/victoria-metrics"), f"-storageDataPath={folder / 'victoria-metrics'}"]
    # Queries show new samples at once; else they leave out the last 30 s.
    command += [f"-httpListenAddr={HOST}:{port}", "-search.latencyOffset=0s", "-search.disableCache"]
    return MetricStore(name="VictoriaMetrics", port=port, process=SceneProcess("victoria-metrics", command, folder))


def make_prometheus(root: Path, folder: Path, scraped: Sequence[str]) -> MetricStore:
    """Return Prometheus, which takes remote write and samples out of order and scrapes daemons; it is not started."""
    port = find_lasting_port()
    config = folder / "prometheus.yml"
    config.write_text(_PROMETHEUS_CONFIG.format(targets=list(scraped)), encoding="utf-8")
    command = [str(root / "usr/bin/prometheus"), f"--config.file={config}", "--web.enable-remote-write-receiver"]
    command += [f"--storage.tsdb.path={folder / 'prometheus'}", f"--web.listen-address={HOST}:{port}"]
    with suppress(FileExistsError):
        (folder / "prometheus").mkdir()
    return MetricStore(name="Prometheus", port=port, process=SceneProcess("prometheus", command, folder))
