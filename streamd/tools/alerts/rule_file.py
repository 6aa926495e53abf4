"""Reads what a backtest needs of the daemon's settings: the rules of alerts, the version, and limits of windows."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamd.core.alerts.rules import AlertRule, bind_alert_rules
from streamd.core.alerts.settings import AlertSettings, parse_alert_settings
from streamd.core.contract import ModelContract
from streamd.core.errors import ConfigError
from streamd.repository.versions import EngineRepository, EngineVersion

DEFAULT_ENGINES = "engines"
DEFAULT_MIN_CONTEXT_ROWS = 48


@dataclass(frozen=True, kw_only=True)
class RuleFile:
    """The settings of one file."""

    path: Path
    alerts: AlertSettings
    engines: Path
    engine: str
    """The version that serves; empty if the repository chooses."""
    has_ensemble: bool
    """Whether several versions serve together, which no single version forecasts alike."""
    min_context_rows: int

    def open_version(self, engines: Path | None, name: str | None) -> EngineVersion:
        """Return the version that forecasts: `name` in `engines`, by default as the settings and the repository say.

        Raises `RepositoryError`, and `ConfigError` if several versions serve together.
        """
        if self.has_ensemble and name is None:
            raise ConfigError(f"{self.path}: engine.ensemble: several versions serve, expected --engine to choose one")
        repository = EngineRepository(engines or self.engines)
        chosen = name or self.engine
        return repository.load(chosen) if chosen else repository.choose()

    def bind(self, contract: ModelContract, names: list[str]) -> tuple[AlertRule, ...]:
        """Return the rules of these names for a contract, all of them by default; raises `ConfigError`."""
        try:
            rules = bind_alert_rules(self.alerts, contract)
        except ConfigError as exc:
            raise ConfigError(f"{self.path}: {exc}") from exc
        if unknown := sorted(set(names) - {rule.name for rule in rules}):
            known = ", ".join(rule.name for rule in rules) or "none"
            raise ConfigError(f"--rule {unknown[0]}: {self.path} has no such rule; there are: {known}")
        return tuple(rule for rule in rules if not names or rule.name in names)


def read_rule_file(path: Path) -> RuleFile:
    """Read a settings file of the daemon; raises `ConfigError` naming the file and the setting.

    Only the sections that matter here are checked. Folders in it are relative to its own.
    """
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: {exc}") from exc
    try:
        engine, windows = _read_section(settings, "engine"), _read_section(settings, "windows")
        return RuleFile(
            path=path,
            alerts=parse_alert_settings(_read_section(settings, "alerts")),
            engines=path.parent / _read_text(engine, "engine.engines", DEFAULT_ENGINES),
            engine=_read_text(engine, "engine.engine", ""),
            has_ensemble=bool(engine.get("ensemble")),
            min_context_rows=_read_rows(windows, "windows.min_context_rows", DEFAULT_MIN_CONTEXT_ROWS),
        )
    except ConfigError as exc:
        raise ConfigError(f"{path}: {exc}") from exc


def _read_section(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = settings.get(name, {})
    if not isinstance(section, dict):
        raise ConfigError(f"{name}: is a value, expected a section")
    return section


def _read_text(section: Mapping[str, Any], key: str, default: str) -> str:
    value = section.get(key.rpartition(".")[2], default)
    if not isinstance(value, str):
        raise ConfigError(f"{key}: is {value!r}, expected a text")
    return value


def _read_rows(section: Mapping[str, Any], key: str, default: int) -> int:
    value = section.get(key.rpartition(".")[2], default)
    if not isinstance(value, int) or value < 1:
        raise ConfigError(f"{key}: is {value!r}, expected a whole number of 1 or more")
    return value
