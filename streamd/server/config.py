"""Reads and checks the settings: a flag beats a `STREAMD_<KEY>` environment variable, which beats the TOML file.

A key is unique across the sections of the file, so its variable does not name the section. This module reads files and
the environment, and starts nothing.
"""

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from streamd.core.alerts.settings import AlertSettings, parse_alert_rules
from streamd.core.cluster.shards import MAX_SHARDS, NAME_PATTERN
from streamd.core.errors import ConfigError, InvalidSelectionError
from streamd.core.names import BackendName, PrecisionName
from streamd.core.selection import ServerGlobs
from streamd.core.urls import is_http_url
from streamd.regular_files import read_regular
from streamd.rule_sets import MappingSettings, fold_tables, load_rule_sets
from streamd.server.access.guarded_files import read_guarded

Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
CountSetting = Annotated[int, msgspec.Meta(ge=1)]
CountOrZero = Annotated[int, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
PositiveSeconds = Annotated[float, msgspec.Meta(gt=0)]
LaneWait = Literal["sleep", "spin"]
NodeName = Annotated[str, msgspec.Meta(pattern=rf"^{NAME_PATTERN.pattern}$")]
NATS_URL = re.compile(r"(nats|tls)://([^@/\s]+@)?[^@/\s:]+(:\d{1,5})?/?")
Devices = Annotated[tuple[CountOrZero, ...], msgspec.Meta(min_length=1)]


class _Section(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    pass


class ServerSection(_Section, frozen=True, kw_only=True):
    """Address, limits and admin token of the HTTP server."""

    host: str = "127.0.0.1"
    port: Port = 8002
    workers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    backlog: CountSetting = 4_096
    max_body_bytes: CountSetting = 8 * 2**20
    max_frame_bytes: CountSetting = 2 * 2**20
    max_pending_body_bytes: CountSetting = 64 * 2**20
    max_sockets: CountSetting = 4_096
    max_connections: CountSetting = 8_192
    head_timeout_seconds: PositiveSeconds = 10.0
    idle_timeout_seconds: PositiveSeconds = 900.0
    body_timeout_seconds: PositiveSeconds = 30.0
    send_timeout_seconds: PositiveSeconds = 30.0
    heartbeat_seconds: PositiveSeconds = 30.0
    page: bool = True
    drain_seconds: PositiveSeconds = 20.0
    admin_token: str = ""
    admin_token_file: str = ""

    def __post_init__(self) -> None:
        if self.admin_token and self.admin_token_file:
            raise ValueError("admin_token and admin_token_file are both given, expected one of them")

    def __repr__(self) -> str:
        """Return the fields, without the token: settings are shown in logs and tracebacks."""
        shown = (f"{name}={getattr(self, name)!r}" for name in self.__struct_fields__ if name != "admin_token")
        return f"ServerSection({', '.join(shown)}, admin_token={'...' if self.admin_token else ''!r})"


class AccessSection(_Section, frozen=True, kw_only=True):
    """The callers that are served: tokens, TLS, and the names and web pages that requests may come by."""

    tokens_file: str = ""
    insecure: bool = False
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    tls_certificate: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""

    def require_whole(self) -> None:
        """Raise `ConfigError` if a setting of TLS lacks the one that it needs, from whatever source each comes."""
        if bool(self.tls_certificate) != bool(self.tls_key):
            missing = "tls_key" if self.tls_certificate else "tls_certificate"
            raise ConfigError(f"[access] {missing}: is empty, expected tls_certificate and tls_key, or neither")
        if self.tls_client_ca and not self.tls_certificate:
            raise ConfigError("[access] tls_certificate: is empty, expected a file, since tls_client_ca is given")


class StateSection(_Section, frozen=True, kw_only=True):
    """The state that outlives the process: its folder, size and flush interval."""

    state_dir: str = "state"
    max_servers: CountSetting = 30_000
    evict_after_seconds: Seconds = 86_400.0
    flush_interval_seconds: PositiveSeconds = 30.0
    fsync_interval_ms: CountOrZero = 0

    @property
    def flush_seconds(self) -> float:
        """The interval of flushes: `fsync_interval_ms` if it is given, else `flush_interval_seconds`."""
        return self.fsync_interval_ms / 1e3 or self.flush_interval_seconds


class WindowsSection(_Section, frozen=True, kw_only=True):
    """Limits on the rows of a window: how many, how late and how far ahead."""

    min_context_rows: CountSetting = 48
    late_tolerance_steps: CountOrZero = 288
    aggregation: Literal["last", "mean"] = "last"
    row_grace_seconds: PositiveSeconds = 10.0
    max_ahead_seconds: Seconds = 300.0
    ahead_recovery_seconds: Seconds = 60.0
    memory: bool = True


class EngineSection(_Section, frozen=True, kw_only=True):
    """The version that serves, its backend and its lanes."""

    engines: str = "engines"
    engine: str = ""
    ensemble: tuple[str, ...] = ()
    keep_warm_seconds: Seconds = 300.0
    backend: BackendName = "auto"
    devices: Devices = (0,)
    precision: PrecisionName = "auto"
    cuda_graphs: bool = True
    lane_wait: LaneWait = "sleep"
    resident_windows: bool = True
    lean_runtime: str = ""
    lanes: CountOrZero = 0
    """Batches that run at the same time; 0: `Backend.default_lanes`."""
    threads_per_lane: CountSetting = 1
    buckets: tuple[CountSetting, ...] = (1, 4, 8, 16, 32, 64, 128, 256)
    warmup_seconds: PositiveSeconds = 3.0
    read_timeout_seconds: PositiveSeconds = 120.0
    lane_hang_seconds: PositiveSeconds = 30.0
    on_device_loss: Literal["serve", "restart"] = "serve"
    max_device_restarts: CountSetting = 3

    def __post_init__(self) -> None:
        if len(set(self.devices)) < len(self.devices):
            raise ValueError(f"devices are {list(self.devices)}, expected each once")
        if self.ensemble and self.engine:
            raise ValueError("engine and ensemble are both given, expected one of them")
        if len(set(self.ensemble)) < len(self.ensemble) or len(self.ensemble) == 1:
            raise ValueError(f"ensemble is {list(self.ensemble)}, expected two versions or more, each once")

    @property
    def pinned(self) -> tuple[str, ...]:
        """The versions that serve regardless of promotions; empty if the repository chooses."""
        return self.ensemble or ((self.engine,) if self.engine else ())


class CandidateSection(_Section, frozen=True):
    """The candidate that is loaded at start, and its share of the servers."""

    candidate: str = ""
    candidate_share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    candidate_shadow: bool = False


class BatchingSection(_Section, frozen=True):
    """Size and queue delay of micro-batches, and limits of `/v1/predict`."""

    max_batch_size: CountSetting = 256
    max_queue_delay_ms: Seconds = 5.0
    max_waiting_requests: CountSetting = 8_192
    predict_timeout_seconds: PositiveSeconds = 30.0


class AccuracySection(_Section, frozen=True):
    """The sample and the period over which past forecasts are scored, and the history of each server."""

    scored_servers: CountOrZero = 512
    score_after_steps: CountOrZero = 2
    accuracy_window_steps: CountSetting = 288
    history_servers: tuple[str, ...] = ("*",)
    max_history_servers: CountOrZero = 2_000
    history_every_steps: CountSetting = 36
    history_days: Annotated[float, msgspec.Meta(gt=0, le=3_650)] = 14.0

    def __post_init__(self) -> None:
        try:
            ServerGlobs(self.history_servers)
        except InvalidSelectionError as exc:
            raise ValueError(f"history_{exc}") from exc


class ForecastMetricsSection(_Section, frozen=True, kw_only=True):
    """The forecasts that leave as metrics, by a scrape or by remote write."""

    forecast_servers: tuple[str, ...] = ()
    forecast_targets: tuple[str, ...] = ()
    forecast_quantiles: tuple[float, ...] = (0.1, 0.5, 0.9)
    forecast_horizons: tuple[str, ...] = ("30m", "1h", "4h", "8h")
    max_forecast_series: CountSetting = 100_000
    forecast_max_age_steps: CountOrZero = 12

    def __post_init__(self) -> None:
        try:
            ServerGlobs(self.forecast_servers)
        except InvalidSelectionError as exc:
            raise ValueError(f"forecast_{exc}") from exc


class RemoteWriteSection(_Section, frozen=True, kw_only=True):
    """The store of metrics that forecasts are sent to by Prometheus remote write."""

    remote_write_url: str = ""
    remote_write_time: Literal["now", "future", "both"] = "now"
    remote_write_interval_seconds: PositiveSeconds = 60.0
    remote_write_token_file: str = ""
    remote_write_ca_file: str = ""

    def __post_init__(self) -> None:
        if self.remote_write_url and not is_http_url(self.remote_write_url):
            raise ValueError("remote_write_url is no URL, expected one such as http://localhost:8428/api/v1/write")

    def require_whole(self, servers: Sequence[str]) -> None:
        """Raise `ConfigError` if settings contradict each other; `servers` are those whose forecasts the store gets."""
        if self.remote_write_token_file and "@" in self.remote_write_url:
            raise ConfigError(
                "[remote_write] remote_write_token_file: is given, and the URL has a user name; expected one of them"
            )
        if self.remote_write_url and not servers:
            raise ConfigError(
                '[forecast_metrics] forecast_servers: is empty, expected globs such as ["*"], since remote_write_url '
                "is given"
            )


class ClusterSection(_Section, frozen=True, kw_only=True):
    """The cluster of daemons that share a fleet over NATS JetStream, and this node of it."""

    nats: str = ""
    cluster_name: NodeName = "streamd"
    node: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{0,64}$")] = ""
    shards: Annotated[int, msgspec.Meta(ge=1, le=MAX_SHARDS)] = 32
    replicas: Annotated[int, msgspec.Meta(ge=1, le=5)] = 3
    nats_credentials_file: str = ""
    nats_ca_file: str = ""
    nats_certificate_file: str = ""
    nats_key_file: str = ""
    lease_seconds: Annotated[float, msgspec.Meta(ge=1, le=60)] = 2.5
    rebalance_delay_seconds: Seconds = 30.0
    buffer_mb: CountSetting = 64
    publish_timeout_seconds: PositiveSeconds = 10.0
    max_clock_offset_seconds: PositiveSeconds = 10.0
    shard_log_mb: Annotated[int, msgspec.Meta(ge=1, le=2**20)] = 64
    shard_forecasts_mb: Annotated[int, msgspec.Meta(ge=8, le=2**20)] = 128
    forecast_subjects: bool = True

    def __post_init__(self) -> None:
        for url in self.urls:
            if not NATS_URL.fullmatch(url):
                shown = url.rpartition("@")[2]  # without a password
                raise ValueError(f"nats has {shown!r}, expected URLs such as nats://host:4222, separated by commas")
        if self.cluster_name == "forecast":  # its subjects would be those of servers of the cluster "streamd"
            raise ValueError("cluster_name is 'forecast', expected another one")
        if self.replicas % 2 == 0:
            raise ValueError(f"replicas is {self.replicas}, expected 1, 3 or 5")

    def __repr__(self) -> str:
        """Return the fields, without the URLs, which may have a password."""
        shown = (f"{name}={getattr(self, name)!r}" for name in self.__struct_fields__ if name != "nats")
        return f"ClusterSection(nats={'...' if self.nats else ''!r}, {', '.join(shown)})"

    @property
    def urls(self) -> tuple[str, ...]:
        """The URLs of the servers of NATS; empty for one host."""
        return tuple(url.strip() for url in self.nats.split(",") if url.strip())

    def require_whole(self, workers: int) -> None:
        """Raise `ConfigError` if a cluster cannot be run with these settings and so many worker processes."""
        if bool(self.nats_certificate_file) != bool(self.nats_key_file):
            missing = "nats_key_file" if self.nats_certificate_file else "nats_certificate_file"
            raise ConfigError(f"[cluster] {missing}: is empty, expected a certificate and its key, or neither")
        if self.nats and workers > 1:
            raise ConfigError(f"[server] workers: is {workers}, expected 1, since [cluster] nats is given")


class LogSection(_Section, frozen=True):
    """Level and format of the log."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "console"] = "auto"


class TracingSection(_Section, frozen=True):
    """The collector of OpenTelemetry traces, and the share of bodies that are traced."""

    otlp_endpoint: str = ""
    sample_ratio: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.01

    def __post_init__(self) -> None:
        if self.otlp_endpoint and not is_http_url(self.otlp_endpoint):
            raise ValueError("otlp_endpoint is no URL, expected one such as http://localhost:4318")


class Config(_Section, frozen=True, kw_only=True):
    """All settings; every one has a default."""

    server: ServerSection = ServerSection()
    access: AccessSection = AccessSection()
    state: StateSection = StateSection()
    windows: WindowsSection = WindowsSection()
    mapping: MappingSettings = MappingSettings()
    engine: EngineSection = EngineSection()
    candidate: CandidateSection = CandidateSection()
    batching: BatchingSection = BatchingSection()
    accuracy: AccuracySection = AccuracySection()
    alerts: AlertSettings = AlertSettings()
    forecast_metrics: ForecastMetricsSection = ForecastMetricsSection()
    remote_write: RemoteWriteSection = RemoteWriteSection()
    log: LogSection = LogSection()
    tracing: TracingSection = TracingSection()
    cluster: ClusterSection = ClusterSection()


SECTIONS: dict[str, str] = {
    key: section.name
    for section in msgspec.structs.fields(Config)
    for key in section.type.__struct_fields__
    if key not in ("tables", "rules")  # the rule sets and the alert rules in a file: tables have no variable
}
"""Maps each key to the name of its section."""

CLIENT_VARIABLES = {"STREAMD_TOKEN"}
"""Variables of the programs that call a daemon; a daemon in the same environment ignores them."""

_LISTS = {
    *("alertmanagers", "allowed_hosts", "allowed_origins", "buckets", "devices", "ensemble", "forecast_horizons"),
    *("forecast_quantiles", "forecast_servers", "forecast_targets", "history_servers", "rule_sets"),
}
"""The keys whose variable holds several values, separated by commas."""

_EMPTY_LISTS = {
    *("alertmanagers", "allowed_hosts", "allowed_origins", "ensemble"),
    *("forecast_servers", "forecast_targets", "history_servers"),
}
"""The lists that may be empty; the others need a value."""

_PATHS = (
    *("state_dir", "engines", "admin_token_file"),
    *("tokens_file", "tls_certificate", "tls_key", "tls_client_ca"),
    *("remote_write_token_file", "remote_write_ca_file", "alerts_token_file", "alerts_ca_file"),
    *("nats_credentials_file", "nats_ca_file", "nats_certificate_file", "nats_key_file"),
)
"""The keys that name files and folders: in a file, relative to its folder."""


def load_config(
    path: Path | None, environ: Mapping[str, str] = os.environ, flags: Mapping[str, Any] | None = None
) -> Config:
    """Read the file, the environment and the flags; the later ones beat the earlier ones.

    `path` is `None` for the defaults. Relative folders in the file are relative to the folder of the file. Raises
    `ConfigError` naming the setting and its place.
    """
    settings = _read_file(path) if path is not None else {}
    for key, text in _read_environment(environ).items():
        settings.setdefault(SECTIONS[key], {})[key] = text
    for key, value in (flags or {}).items():
        if value is not None:
            settings.setdefault(SECTIONS[key], {})[key] = value
    # The environment and the flags are text, so the conversion is lax: it turns "8002" into 8002. The file was
    # converted strictly before, in `_read_file`.
    config = _convert(settings, "the settings together", strict=False)
    config.access.require_whole()
    config.alerts.require_whole()
    config.cluster.require_whole(config.server.workers)
    config.remote_write.require_whole(config.forecast_metrics.forecast_servers)
    try:
        load_rule_sets(config.mapping)  # a wrong rule is found now, not when the state is open
        parse_alert_rules(config.alerts)
    except ConfigError as exc:
        raise ConfigError(f"{path or 'the settings together'}: {exc}") from exc
    return config


def read_admin_token(config: Config) -> str:
    """Return the token that authorizes callers, empty if there is no token.

    Raises `ConfigError` if its file cannot be read, is empty, or could be written by others.
    """
    if not config.server.admin_token_file:
        return config.server.admin_token
    path = Path(config.server.admin_token_file)
    content = read_guarded(path, "the admin token")
    try:
        token = content.decode().strip()
    except UnicodeDecodeError:  # its message would repeat a part of the token
        raise ConfigError(f"{path}: is not UTF-8, expected the admin token") from None
    if not token:
        raise ConfigError(f"{path}: is empty, expected the admin token")
    return token


def _read_file(path: Path) -> dict[str, dict[str, Any]]:
    try:
        settings = tomllib.loads(read_regular(path).decode())
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    except (ValueError, RecursionError) as exc:  # not UTF-8, not TOML, an integer of 5,000 digits, or nested deeply
        raise ConfigError(f"{path}: {exc}") from exc
    if isinstance(section := settings.get("mapping"), dict):
        try:
            settings["mapping"] = fold_tables(section)
        except ConfigError as exc:
            raise ConfigError(f"{path}: {exc}") from exc
    _convert(settings, str(path), strict=True)
    for key in _PATHS:
        section = settings.get(SECTIONS[key], {})
        if section.get(key):
            section[key] = str(path.parent / section[key])
    return settings


def _read_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for variable, text in environ.items():
        if not variable.startswith("STREAMD_") or variable in CLIENT_VARIABLES:
            continue
        key = variable.removeprefix("STREAMD_").lower()
        if key not in SECTIONS:
            raise ConfigError(f"{variable}: there is no such setting; each key of config.toml has a variable")
        value: Any = _split_list(key, text) if key in _LISTS else text
        _convert({SECTIONS[key]: {key: value}}, variable, strict=False)
        found[key] = value
    return found


def _split_list(key: str, text: str) -> list[str]:
    if key in _EMPTY_LISTS and not text:
        return []
    return text.split(",")


def _convert(settings: Mapping[str, Any], place: str, *, strict: bool) -> Config:
    try:
        return msgspec.convert(settings, Config, strict=strict)
    except msgspec.ValidationError as exc:
        raise ConfigError(f"{place}: {exc}") from exc


def find_restart_sections(config: Config, before: Config) -> list[str]:
    """Return the sections that differ from `before` and that only a restart reads again."""
    live = ("engine", "candidate")  # a reload applies these, and the rules of alerts
    before = msgspec.structs.replace(before, alerts=msgspec.structs.replace(before.alerts, rules=config.alerts.rules))
    sections = (field.name for field in msgspec.structs.fields(Config) if field.name not in live)
    return [name for name in sections if getattr(config, name) != getattr(before, name)]
