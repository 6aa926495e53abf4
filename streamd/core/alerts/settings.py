"""The section `[alerts]` of the settings, and the rules in it as they are written in TOML. Reads no file.

`rules.py` binds the rules to a model. Tools read the same settings.
"""

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

import msgspec

from streamd.core.durations import parse_duration
from streamd.core.errors import ConfigError
from streamd.core.urls import is_http_url

MAX_RULES = 100
"""Rules in one daemon. More are refused: the states of a rule take two bytes for each server that may report."""

MAX_CONSECUTIVE = 100
"""The largest `for` of a rule; counts of forecasts are bytes."""

MIN_RESEND_SECONDS = 0.01
"""The shortest interval of repetitions; a shorter one would leave the event loop no time for anything else."""

MAX_EXPIRY_SECONDS = 366 * 86_400.0
"""The longest time until Alertmanager resolves an alert; the time of the end must be one that can be written."""

MAX_LABELS = 32
MAX_LABEL_CHARACTERS = 1_024
MAX_ANNOTATION_CHARACTERS = 8_192

MAX_TEXTS_BYTES = 8_192
"""All names and values of the labels and annotations of a rule: each of its alerts has them, in each message."""

RESERVED_LABELS = frozenset({"alertname", "server", "severity", "target"})
"""Labels that each alert gets from its rule and server, so that a rule cannot give them."""

_RULE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,127}")
_LABEL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")

Severity = Literal["info", "warning", "critical"]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]


class AlertRuleSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A rule as it is written: `[alerts.rules.NAME]`. The model is not known here."""

    target: str
    above: float | None = None
    below: float | None = None
    quantile: float = 0.5
    """The quantile whose curve must cross the threshold."""
    within: str | float | None = None
    """How far ahead of the origin a crossing counts, as `90m` or in seconds; `None`: the whole horizon."""
    consecutive: Annotated[int, msgspec.Meta(ge=1, le=MAX_CONSECUTIVE)] = msgspec.field(default=2, name="for")
    """The forecasts in a row that must cross before an alert fires, and be clear before it is resolved."""
    hysteresis: NotNegative | None = None
    """How far from the threshold a curve must stay to be clear; `None`: 2 % of the threshold."""
    min_rows: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """The rows that a window must really have; `None`: half of the context length."""
    servers: tuple[str, ...] = ("*",)
    severity: Severity = "warning"
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}

    @property
    def is_above(self) -> bool:
        """Whether an alert is about values above the threshold, not below it."""
        return self.above is not None

    @property
    def threshold(self) -> float:
        """The value that a curve must reach."""
        threshold = self.below if self.above is None else self.above
        assert threshold is not None, "one of them is given"
        return threshold


class AlertSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The section `[alerts]`."""

    rules: Mapping[str, Mapping[str, Any]] = {}
    """The tables `[alerts.rules.NAME]` by name; `parse_alert_rules` reads them."""
    max_forecast_age_seconds: Annotated[float, msgspec.Meta(gt=0)] = 1_800.0
    """A forecast whose origin is further behind the clock begins no alert."""
    silent_after_seconds: Annotated[float, msgspec.Meta(gt=0)] = 3_600.0
    """An alert ends if its server gets no new forecast for this time."""
    alertmanagers: tuple[str, ...] = ()
    """The base URLs of Alertmanagers; each of them gets all alerts."""
    alert_webhook: str = ""
    resend_seconds: Annotated[float, msgspec.Meta(ge=MIN_RESEND_SECONDS)] = 60.0
    alert_expiry_seconds: Annotated[float, msgspec.Meta(gt=0, le=MAX_EXPIRY_SECONDS)] = 900.0
    """Alertmanager resolves an active alert by itself if it is not repeated for this time."""
    alerts_token_file: str = ""
    alerts_ca_file: str = ""
    alert_source_url: str = ""
    """The base URL of this daemon as people reach it, for the link of each alert."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for a URL that nothing can be sent to."""
        for key, urls in (
            ("alertmanagers", self.alertmanagers),
            ("alert_webhook", (self.alert_webhook,) if self.alert_webhook else ()),
            ("alert_source_url", (self.alert_source_url,) if self.alert_source_url else ()),
        ):
            if not all(map(is_http_url, urls)):
                # Without the URL itself: it may hold a password.
                raise ValueError(f"{key} has no URL, expected one such as https://host:9093")
        if len(set(self.alertmanagers)) < len(self.alertmanagers):
            raise ValueError("alertmanagers has a URL twice, expected each once")

    def __repr__(self) -> str:
        """Return the fields, without the URLs of receivers: settings are shown in logs, and a URL may be a secret."""
        hidden = ("alertmanagers", "alert_webhook")
        shown = (f"{name}={getattr(self, name)!r}" for name in self.__struct_fields__ if name not in hidden)
        return f"AlertSettings({', '.join(shown)})"

    def require_whole(self) -> None:
        """Raise `ConfigError` for settings that contradict each other, from whatever source each comes."""
        if self.alerts_token_file and any("@" in url for url in (*self.alertmanagers, self.alert_webhook)):
            raise ConfigError("[alerts] alerts_token_file: is given, and a URL has a user name; expected one of them")
        if self.alert_expiry_seconds < 2 * self.resend_seconds:
            raise ConfigError(
                f"[alerts] alert_expiry_seconds: is {self.alert_expiry_seconds:g}, expected at least twice "
                f"resend_seconds ({self.resend_seconds:g}), so that no alert ends between two repetitions"
            )


def parse_alert_settings(section: Mapping[str, Any]) -> AlertSettings:
    """Read the section `[alerts]` of a settings file, rules included; raises `ConfigError` naming the rule or key."""
    try:
        settings = msgspec.convert(section, AlertSettings)
    except msgspec.ValidationError as exc:
        raise ConfigError(f"alerts: {exc}") from exc
    settings.require_whole()
    parse_alert_rules(settings)
    return settings


def parse_alert_rules(settings: AlertSettings) -> dict[str, AlertRuleSettings]:
    """Return the rules of the settings by name, checked as far as that needs no model.

    Raises `ConfigError` naming the rule, the key and what was expected.
    """
    if len(settings.rules) > MAX_RULES:
        raise ConfigError(f"alerts.rules has {len(settings.rules)} rules, expected at most {MAX_RULES}")
    return {name: _parse_rule(name, table) for name, table in settings.rules.items()}


def parse_duration_seconds(value: str | float) -> float:
    """Return the seconds of a duration such as `90s`, `90m`, `4h` or `1.5d`, or of a number, which is in seconds.

    Raises `ValueError` with what was expected.
    """
    if isinstance(value, str):
        seconds = parse_duration(value)
        if seconds is None:
            raise ValueError(f'is {value!r:.40}, expected seconds, or a duration such as "90m" or "4h"')
        return seconds
    if not 0 < value < math.inf:
        raise ValueError(f"is {value}, expected a positive number of seconds")
    return float(value)


def _parse_rule(name: str, table: Mapping[str, Any]) -> AlertRuleSettings:
    place = f"alerts.rules.{name:.200}"
    if not _RULE_NAME.fullmatch(name):
        raise ConfigError(f"{place}: the name of a rule has letters, digits, _ . : and -, and at most 128 of them")
    try:
        rule = msgspec.convert(table, AlertRuleSettings)
    except msgspec.ValidationError as exc:
        raise ConfigError(f"{place}{_explain_refusal(str(exc))}") from exc
    _check_condition(rule, place)
    _check_labels(rule, place)
    return rule


def _explain_refusal(message: str) -> str:
    """Return a message about a rule's table, with its key first and what was expected last."""
    text, _, path = message.partition(" - at `$")
    if "unknown field" in text:
        keys = (field.encode_name for field in msgspec.structs.fields(AlertRuleSettings))
        text += f", expected some of {', '.join(keys)}"
    if path == ".severity`" and "enum" in text:
        text += f", expected one of {', '.join(get_args(Severity))}"
    return f"{path.removesuffix('`')}: {text}"


def _check_condition(rule: AlertRuleSettings, place: str) -> None:
    if (rule.above is None) == (rule.below is None):
        given = "neither above nor below is" if rule.above is None else "above and below are both"
        raise ConfigError(f"{place}: {given} given, expected one of them")
    for key, value in (("above", rule.above), ("below", rule.below), ("hysteresis", rule.hysteresis)):
        if value is not None and not math.isfinite(value):
            raise ConfigError(f"{place}.{key}: is {value}, expected a finite number")
    if rule.within is not None:
        try:
            parse_duration_seconds(rule.within)
        except ValueError as exc:
            raise ConfigError(f"{place}.within: {exc}") from exc
    if not rule.servers:
        raise ConfigError(f"{place}.servers: is empty and matches no server; leave it out for all servers")


def _check_labels(rule: AlertRuleSettings, place: str) -> None:
    for key, pairs, longest in (
        ("labels", rule.labels, MAX_LABEL_CHARACTERS),
        ("annotations", rule.annotations, MAX_ANNOTATION_CHARACTERS),
    ):
        if len(pairs) > MAX_LABELS:
            raise ConfigError(f"{place}.{key}: has {len(pairs)} names, expected at most {MAX_LABELS}")
        for name, value in pairs.items():
            if not _LABEL_NAME.fullmatch(name):
                raise ConfigError(f"{place}.{key}: has {name!r:.80}, expected a name of letters, digits and _")
            if not 0 < len(value) <= longest:
                raise ConfigError(f"{place}.{key}.{name}: has {len(value)} characters, expected 1 to {longest}")
    texts = [text for pairs in (rule.labels, rule.annotations) for pair in pairs.items() for text in pair]
    if (size := sum(len(text.encode()) for text in texts)) > MAX_TEXTS_BYTES:
        raise ConfigError(
            f"{place}: labels and annotations have {size} bytes together, expected at most {MAX_TEXTS_BYTES}"
        )
    if reserved := sorted(RESERVED_LABELS & set(rule.labels)):
        raise ConfigError(f"{place}.labels: has {reserved[0]}, which each alert gets by itself")
