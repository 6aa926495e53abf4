"""The agents of the scene: the configuration, the command and the own counts of each.

All run with the defaults of their packages wherever these send often enough. Starts nothing itself.
"""

import getpass
import socket
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from streamd.tools.loadtest.child import HOST
from streamd.tools.scene.metrics import fetch_json, fetch_metrics, sum_metric
from streamd.tools.scene.truth import fetch_unmeasured_steps

NODE_EXPORTER_PACKAGE = "prometheus-node-exporter"
COLLECTD_PLUGINS = ("cpu", "memory", "swap", "load", "uptime", "df", "interface", "tcpconns")
NETDATA_CHARTS = "system.cpu system.ram system.load system.uptime system.net mem.swap disk_space.* !*"
NETDATA_PLUGINS_OFF = (
    *("apps", "cgroups", "tc", "perf", "slabinfo", "nfacct", "timex", "idlejitter", "statsd", "checks"),
    "enable running new plugins",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneSite:
    """The place of a scene: folders, ports and commands."""

    folder: Path
    """The folder of this run, for configurations, data and logs."""
    packages: Path
    """The tree of the unpacked packages."""
    library_path: str
    glances: Path
    """The command of Glances."""
    streamd_port: int
    exporter_port: int
    agent_ports: Mapping[str, int]
    """A port of its own for each agent that listens."""

    @property
    def streamd_url(self) -> str:
        """The URL of the daemon."""
        return f"http://{HOST}:{self.streamd_port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SentCounts:
    """The counts that an agent itself keeps; a count is `None` if the agent does not keep it."""

    delivered: float | None = None
    """Samples that were answered with success."""
    repeated: float | None = None
    """Samples that were sent again."""
    lost: float | None = None
    """Samples that the agent knows to have lost."""
    remark: str = ""


class SceneAgent(ABC):
    """One agent that pushes into the daemon."""

    name: str
    server: str
    """The server in the daemon that its samples belong to."""
    form: str
    """A short description of what it sends."""
    packages: tuple[str, ...] = ()
    is_lossless: bool = False
    """Whether the agent keeps what it could not send, so that no row may be missing."""
    needs_exporter: bool = False
    needs_glances: bool = False

    @abstractmethod
    def write_files(self, site: SceneSite) -> None:
        """Write the configuration and make the folders."""

    @abstractmethod
    def make_command(self, site: SceneSite) -> list[str]:
        """Return the command that runs the agent in the foreground."""

    def make_environment(self, site: SceneSite) -> dict[str, str]:
        """Return the variables to add to the environment of the agent."""
        return {"LD_LIBRARY_PATH": site.library_path} if site.library_path else {}

    async def count_sent(self, session: aiohttp.ClientSession, site: SceneSite, log: str) -> SentCounts:
        """Return the agent's own counts; `log` is its whole log. Raises `UnreachableError`."""
        return SentCounts()

    async def find_unmeasured(
        self, session: aiohttp.ClientSession, site: SceneSite, step_seconds: float, last_step: int
    ) -> set[int]:
        """Return the steps up to the last for which the agent itself lacks samples, as far as it reports them.

        Raises `UnreachableError`.
        """
        return set()


class PrometheusAgent(SceneAgent):
    """Prometheus, which scrapes node_exporter and keeps what it could not send in its write-ahead log."""

    name = "prometheus"
    server = "prometheus-1"
    form = "remote write 1.0 of node_exporter"
    packages = ("prometheus", NODE_EXPORTER_PACKAGE)
    is_lossless = True
    needs_exporter = True

    def write_files(self, site: SceneSite) -> None:
        """Write `prometheus.yml`."""
        (site.folder / "prometheus.yml").write_text(
            f"""\
global:
  scrape_interval: 1s
  scrape_timeout: 1s
  external_labels: {{server: {self.server}}}
scrape_configs:
  - job_name: node
    static_configs: [{{targets: ["{HOST}:{site.exporter_port}"]}}]
remote_write:
  - url: {site.streamd_url}/api/v1/write
"""
        )

    def make_command(self, site: SceneSite) -> list[str]:
        """Return the command of Prometheus."""
        return [
            str(site.packages / "usr/bin/prometheus"),
            "--config.file=prometheus.yml",
            f"--storage.tsdb.path={site.folder / 'prometheus'}",
            f"--web.listen-address={HOST}:{site.agent_ports[self.name]}",
        ]

    async def count_sent(self, session: aiohttp.ClientSession, site: SceneSite, log: str) -> SentCounts:
        """Read Prometheus' own metrics, in which each attempt counts as sent."""
        text = await fetch_metrics(session, site.agent_ports[self.name])
        sent, again, failed, dropped = (
            sum_metric(text, f"prometheus_remote_storage_samples_{name}")
            for name in ("total", "retried_total", "failed_total", "dropped_total")
        )
        return SentCounts(delivered=sent - again - failed, repeated=again, lost=failed + dropped)

    async def find_unmeasured(
        self, session: aiohttp.ClientSession, site: SceneSite, step_seconds: float, last_step: int
    ) -> set[int]:
        """Ask Prometheus for the scrapes that failed."""
        return await fetch_unmeasured_steps(session, site.agent_ports[self.name], step_seconds, last_step)


class VmagentAgent(SceneAgent):
    """vmagent, which scrapes the same node_exporter and keeps what it could not send in a queue on disk."""

    name = "vmagent"
    server = "vmagent-1"
    form = "remote write 1.0 of node_exporter"
    packages = ("victoria-metrics", NODE_EXPORTER_PACKAGE, "libzstd1")
    is_lossless = True
    needs_exporter = True

    def write_files(self, site: SceneSite) -> None:
        """Write the scrape configuration."""
        (site.folder / "vmagent.yml").write_text(
            f"""\
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: node
    static_configs: [{{targets: ["{HOST}:{site.exporter_port}"]}}]
"""
        )

    def make_command(self, site: SceneSite) -> list[str]:
        """Return the command of vmagent."""
        return [
            str(site.packages / "usr/bin/vmagent"),
            "-promscrape.config=vmagent.yml",
            f"-remoteWrite.url={site.streamd_url}/api/v1/write",
            f"-remoteWrite.label=server={self.server}",
            f"-remoteWrite.tmpDataPath={site.folder / 'vmagent'}",
            f"-httpListenAddr={HOST}:{site.agent_ports[self.name]}",
        ]

    async def count_sent(self, session: aiohttp.ClientSession, site: SceneSite, log: str) -> SentCounts:
        """Read vmagent's own metrics; it counts repetitions in blocks."""
        text = await fetch_metrics(session, site.agent_ports[self.name])
        pushed = sum_metric(text, "vmagent_remotewrite_rows_pushed_after_relabel_total")
        again = sum_metric(text, "vmagent_remotewrite_retries_count_total")
        lost = sum_metric(text, "vmagent_remotewrite_packets_dropped_total")
        waiting = sum_metric(text, "vmagent_remotewrite_pending_data_bytes")
        remark = f"{again:,.0f} blocks tried again" + (f", {waiting:,.0f} bytes still wait" if waiting else "")
        return SentCounts(delivered=pushed, lost=lost, remark=remark)


class CollectdAgent(SceneAgent):
    """collectd, which drops each POST that fails."""

    name = "collectd"
    server = "collectd-1"
    form = "write_http JSON, StoreRates"
    packages = ("collectd-core", "libyajl2", "libcap2")

    def write_files(self, site: SceneSite) -> None:
        """Write `collectd.conf`."""
        plugins, share = site.packages / "usr/lib/collectd", site.packages / "usr/share/collectd"
        loads = "".join(f"LoadPlugin {name}\n" for name in COLLECTD_PLUGINS)
        (site.folder / "collectd.conf").write_text(
            f"""\
Hostname "{self.server}"
FQDNLookup false
Interval 1
BaseDir "{site.folder}"
PIDFile "{site.folder}/collectd.pid"
PluginDir "{plugins}"
TypesDB "{share}/types.db"
LoadPlugin logfile
<Plugin logfile>
  File STDOUT
</Plugin>
{loads}LoadPlugin write_http
<Plugin cpu>
  ReportByCpu false
  ValuesPercentage true
</Plugin>
<Plugin memory>
  ValuesPercentage true
</Plugin>
<Plugin swap>
  ValuesPercentage true
</Plugin>
<Plugin df>
  MountPoint "/"
  ValuesPercentage true
</Plugin>
<Plugin tcpconns>
  AllPortsSummary true
</Plugin>
<Plugin write_http>
  <Node "streamd">
    URL "{site.streamd_url}/collectd"
    Format "JSON"
    StoreRates true
  </Node>
</Plugin>
"""
        )

    def make_command(self, site: SceneSite) -> list[str]:
        """Return the command of collectd."""
        return [str(site.packages / "usr/sbin/collectd"), "-f", "-C", "collectd.conf"]

    async def count_sent(self, session: aiohttp.ClientSession, site: SceneSite, log: str) -> SentCounts:
        """Count the POSTs that failed, which collectd reports only in its log."""
        return SentCounts(remark=f"{log.count('curl_easy_perform failed'):,} POSTs dropped, about 20 samples each")


class NetdataAgent(SceneAgent):
    """Netdata, which keeps the last ten updates that it could not send."""

    name = "netdata"
    server = "netdata-1"
    form = "exporting json:http, average"
    packages = (
        *("netdata-core", "libcap2", "libjson-c5", "liblz4-1", "libmnl0"),
        *("libnetfilter-acct1", "libuuid1", "libuv1"),
    )

    def write_files(self, site: SceneSite) -> None:
        """Write `netdata.conf` and `exporting.conf`."""
        home = site.folder / "netdata"
        for name in ("log", "cache", "lib", "etc"):
            (home / name).mkdir(parents=True, exist_ok=True)
        off = "".join(f"  {name} = no\n" for name in NETDATA_PLUGINS_OFF)
        (home / "etc/netdata.conf").write_text(
            f"""\
[global]
  hostname = {self.server}
  update every = 1
  run as user = {getpass.getuser()}
[directories]
  config = {home}/etc
  stock config = {site.packages}/usr/lib/netdata/conf.d
  plugins = {site.packages}/usr/lib/netdata/plugins.d
  web = {site.packages}/usr/share/netdata/web
  log = {home}/log
  cache = {home}/cache
  lib = {home}/lib
  home = {home}
[db]
  mode = ram
  retention = 600
[web]
  bind to = {HOST}:{site.agent_ports[self.name]}
[health]
  enabled = no
[ml]
  enabled = no
[cloud]
  enabled = no
[plugins]
  netdata monitoring = yes
{off}"""
        )
        (home / "etc/exporting.conf").write_text(
            f"""\
[exporting:global]
  enabled = yes
  update every = 1
[json:http:streamd]
  enabled = yes
  destination = {HOST}:{site.streamd_port}
  data source = average
  update every = 1
  send charts matching = {NETDATA_CHARTS}
"""
        )

    def make_command(self, site: SceneSite) -> list[str]:
        """Return the command of Netdata."""
        return [str(site.packages / "usr/sbin/netdata"), "-D", "-c", str(site.folder / "netdata/etc/netdata.conf")]

    async def count_sent(self, session: aiohttp.ClientSession, site: SceneSite, log: str) -> SentCounts:
        """Sum the chart in which Netdata counts what it exports."""
        query = "chart=netdata.exporting_streamd_metrics&after=-590&points=1&group=sum&options=unaligned"
        found = await fetch_json(session, f"http://{HOST}:{site.agent_ports[self.name]}/api/v1/data?{query}")
        totals = dict(zip(found["labels"], found["data"][0], strict=True))
        return SentCounts(delivered=totals["sent"], lost=totals["buffered"] - totals["sent"])


class GlancesAgent(SceneAgent):
    """Glances, whose InfluxDB client sends batches without a timestamp and repeats those that were refused."""

    name = "glances"
    server = "glances-1"
    form = "line protocol, influxdb2"
    needs_glances = True
    _export = "influxdb2"

    def write_files(self, site: SceneSite) -> None:
        """Write the configuration with both exports."""
        self._make_home(site).mkdir(exist_ok=True)
        (site.folder / f"{self.name}.conf").write_text(
            f"""\
[influxdb2]
host={HOST}
port={site.streamd_port}
protocol=http
org=scene
bucket=scene
token=scene
tags=server:{self.server}

[restful]
host={HOST}
port={site.streamd_port}
protocol=http
path=/glances
"""
        )

    def make_command(self, site: SceneSite) -> list[str]:
        """Return the command of Glances; its plugins that ask the Internet are off."""
        quiet = ["--quiet", "--time", "1", "--disable-check-update", "--disable-plugin", "ip,cloud"]
        return [str(site.glances), "-C", f"{self.name}.conf", "--export", self._export, *quiet]

    def make_environment(self, site: SceneSite) -> dict[str, str]:
        """Keep its log and caches in the folder of the scene."""
        home = str(self._make_home(site))
        return {"HOME": home, "TMPDIR": home, "XDG_CONFIG_HOME": home, "XDG_CACHE_HOME": home, "XDG_DATA_HOME": home}

    async def count_sent(self, session: aiohttp.ClientSession, site: SceneSite, log: str) -> SentCounts:
        """Count the lines of its client's log about batches that were retried or abandoned."""
        logs = "\n".join(path.read_text(errors="replace") for path in self._make_home(site).rglob("glances*.log"))
        retried = logs.count("The retriable error occurred") + logs.count("-- Retrying (")
        lost = logs.count("wasn't processed successfully")
        return SentCounts(remark=f"{retried:,} attempts repeated, {lost:,} batches abandoned")

    def _make_home(self, site: SceneSite) -> Path:
        return site.folder / self.name


class GlancesRestAgent(GlancesAgent):
    """Glances with its RESTful export, which sends once and ignores the answer."""

    name = "glances-rest"
    server = socket.gethostname().split(".")[0]
    """It has no tags: the server is this machine, by its short name."""
    form = "JSON, restful"
    _export = "restful"

    async def count_sent(self, session: aiohttp.ClientSession, site: SceneSite, log: str) -> SentCounts:
        """Count the POSTs that failed, each with a traceback."""
        return SentCounts(remark=f"{log.count('requests.exceptions.ConnectionError'):,} POSTs dropped")


ALL_AGENTS: tuple[type[SceneAgent], ...] = (
    PrometheusAgent,
    VmagentAgent,
    CollectdAgent,
    NetdataAgent,
    GlancesAgent,
    GlancesRestAgent,
)
