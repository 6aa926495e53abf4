"""The rules of alerts, bound to the contract of a model: names are indices, and durations are steps. No I/O."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from streamd.core.alerts.settings import (
    AlertRuleSettings,
    AlertSettings,
    Severity,
    parse_alert_rules,
    parse_duration_seconds,
)
from streamd.core.contract import ModelContract
from streamd.core.errors import ConfigError, InvalidSelectionError
from streamd.core.selection import ServerGlobs

HYSTERESIS_SHARE = 0.02
"""The default hysteresis, as a share of the threshold."""

RANGE_QUANTILES = (0.9, 0.5, 0.1)
"""The quantiles whose curves give the earliest, the likely and the latest crossing of a threshold from below."""

_QUANTILE_TOLERANCE = 1e-6
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, kw_only=True)
class AlertRule:
    """One rule for the forecasts of one contract."""

    name: str
    target: str
    unit: str
    """The unit of the target, empty if the manifest states none."""
    target_index: int
    """The place of the target in a forecast `(targets, horizon, quantiles)`."""
    feature_index: int
    """The column of the target in a window."""
    quantile: float
    quantile_index: int
    is_above: bool
    """Whether values at or above the threshold are crossed; else those at or below it."""
    threshold: float
    hysteresis: float
    """How far on the safe side of the threshold a curve must stay to be clear."""
    clear_threshold: float
    """A curve that does not reach this is clear; between it and the threshold nothing changes."""
    within_seconds: float
    within_steps: float
    """The same in steps from the origin; a later crossing does not count."""
    consecutive: int
    min_rows: int
    servers: ServerGlobs
    severity: Severity
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    range_indices: tuple[int, int, int]
    """The places of the quantiles whose curves give the earliest, the likely and the latest crossing."""
    fingerprint: str
    """A digest of the definition without its annotations: an alert belongs to the definition that it began with."""


def bind_alert_rules(settings: AlertSettings, contract: ModelContract) -> tuple[AlertRule, ...]:
    """Return the rules of the settings for the forecasts of a contract, in their order.

    Raises `ConfigError` naming the rule, the key, its value and what was expected.
    """
    return tuple(_bind_rule(name, rule, contract) for name, rule in parse_alert_rules(settings).items())


def _bind_rule(name: str, rule: AlertRuleSettings, contract: ModelContract) -> AlertRule:
    place = f"alerts.rules.{name}"
    if rule.target not in contract.targets:
        raise ConfigError(f"{place}.target: is {rule.target!r:.80}, expected one of {', '.join(contract.targets)}")
    hysteresis = abs(rule.threshold) * HYSTERESIS_SHARE if rule.hysteresis is None else rule.hysteresis
    clear_threshold = rule.threshold - hysteresis if rule.is_above else rule.threshold + hysteresis
    if not max(abs(rule.threshold), abs(clear_threshold)) <= _LARGEST:
        raise ConfigError(f"{place}: {rule.threshold} and its hysteresis are too large for a forecast (float32)")
    within_seconds = _find_within_seconds(rule, contract, place)
    return AlertRule(
        name=name,
        target=rule.target,
        unit=contract.units.get(rule.target, ""),
        target_index=contract.targets.index(rule.target),
        feature_index=contract.feature_index[rule.target],
        quantile=rule.quantile,
        quantile_index=_find_quantile(rule, contract, place),
        is_above=rule.is_above,
        threshold=rule.threshold,
        hysteresis=hysteresis,
        clear_threshold=clear_threshold,
        within_seconds=within_seconds,
        within_steps=within_seconds / contract.step_seconds,
        consecutive=rule.consecutive,
        min_rows=_find_min_rows(rule, contract, place),
        servers=_compile_servers(rule, place),
        severity=rule.severity,
        labels=dict(rule.labels),
        annotations=dict(rule.annotations),
        range_indices=_find_range(contract, is_above=rule.is_above),
        fingerprint=_compute_fingerprint(rule, hysteresis, within_seconds),
    )


def _find_quantile(rule: AlertRuleSettings, contract: ModelContract, place: str) -> int:
    for index, quantile in enumerate(contract.quantiles):
        if abs(quantile - rule.quantile) < _QUANTILE_TOLERANCE:
            return index
    expected = ", ".join(map(str, contract.quantiles))
    raise ConfigError(f"{place}.quantile: is {rule.quantile}, expected one of {expected}")


def _find_within_seconds(rule: AlertRuleSettings, contract: ModelContract, place: str) -> float:
    whole = float(contract.horizon * contract.step_seconds)
    if rule.within is None:
        return whole
    seconds = parse_duration_seconds(rule.within)
    if seconds > whole:
        raise ConfigError(f"{place}.within: is {rule.within}, expected at most {whole:g} s, the horizon of the model")
    return seconds


def _find_min_rows(rule: AlertRuleSettings, contract: ModelContract, place: str) -> int:
    length = contract.context_length
    if rule.min_rows is None:
        return -(-length // 2)  # rounded up
    if rule.min_rows > length:
        raise ConfigError(f"{place}.min_rows: is {rule.min_rows}, expected at most {length}, the context length")
    return rule.min_rows


def _compile_servers(rule: AlertRuleSettings, place: str) -> ServerGlobs:
    try:
        return ServerGlobs(rule.servers)
    except InvalidSelectionError as exc:
        raise ConfigError(f"{place}: {exc}") from exc


def _find_range(contract: ModelContract, *, is_above: bool) -> tuple[int, int, int]:
    """Return the places of the quantiles nearest to those of the range; the lower one of two that are as near."""
    wanted = RANGE_QUANTILES if is_above else tuple(reversed(RANGE_QUANTILES))
    quantiles = np.array(contract.quantiles)
    earliest, likely, latest = (int(np.argmin(np.abs(quantiles - each).round(6))) for each in wanted)
    return earliest, likely, latest


def _compute_fingerprint(rule: AlertRuleSettings, hysteresis: float, within_seconds: float) -> str:
    definition = (
        rule.target,
        rule.is_above,
        rule.threshold,
        rule.quantile,
        within_seconds,
        rule.consecutive,
        hysteresis,
        rule.min_rows,
        sorted(rule.servers),
        rule.severity,
        sorted(rule.labels.items()),
    )
    return hashlib.sha256(json.dumps(definition).encode()).hexdigest()[:16]
