"""Tests `streamd/core/alerts/rules.py`: what the model must have, the defaults that depend on it, and fingerprints."""

from typing import Any

import pytest

from streamd.core.alerts.rules import AlertRule, bind_alert_rules
from streamd.core.alerts.settings import AlertSettings
from streamd.core.errors import ConfigError
from tests.support.contracts import make_contract

CONTRACT = make_contract(units={"cpu": "percent"}, quantiles=(0.02, 0.1, 0.5, 0.85, 0.98))


def bind(**changes: Any) -> AlertRule:
    """Return the rule `r` for the contract."""
    table = {"target": "cpu", "above": 90.0, **changes}
    return bind_alert_rules(AlertSettings(rules={"r": table}), CONTRACT)[0]


def test_names_become_places_of_the_contract() -> None:
    rule = bind(quantile=0.98)
    assert (rule.target_index, rule.feature_index, rule.unit) == (1, 0, "percent")
    assert rule.quantile_index == 4


def test_the_defaults_depend_on_the_model_and_the_threshold() -> None:
    rule = bind()
    assert (rule.within_seconds, rule.within_steps) == (1_200.0, 4.0)
    assert rule.min_rows == 4
    assert rule.clear_threshold == pytest.approx(88.2)
    assert bind(above=None, below=-10.0).clear_threshold == pytest.approx(-9.8)


def test_within_is_turned_into_steps() -> None:
    assert bind(within="10m").within_steps == 2.0
    assert bind(within=450).within_steps == 1.5


def test_the_range_is_of_the_quantiles_nearest_to_those_that_are_wanted() -> None:
    assert bind().range_indices == (3, 2, 1)
    assert bind(above=None, below=5.0).range_indices == (1, 2, 3)


def test_a_model_with_one_quantile_has_a_range_of_one_curve() -> None:
    contract = make_contract(quantiles=(0.5,))
    rules = bind_alert_rules(AlertSettings(rules={"r": {"target": "cpu", "above": 1.0}}), contract)
    assert rules[0].range_indices == (0, 0, 0)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"target": "disk"}, r"alerts\.rules\.r\.target: is 'disk', expected one of mem, cpu"),
        ({"target": "net"}, r"alerts\.rules\.r\.target: is 'net', expected one of mem, cpu"),
        ({"quantile": 0.9}, r"alerts\.rules\.r\.quantile: is 0\.9, expected one of 0\.02, 0\.1, 0\.5, 0\.85, 0\.98"),
        ({"within": "1h"}, r"alerts\.rules\.r\.within: is 1h, expected at most 1200 s, the horizon of the model"),
        ({"min_rows": 9}, r"alerts\.rules\.r\.min_rows: is 9, expected at most 8, the context length"),
        ({"above": 1e39}, r"alerts\.rules\.r: .* too large"),
        ({"servers": ["*a*b"] * 2 + [f"*{n}*x" for n in range(1_001)]}, r"alerts\.rules\.r: servers has"),
    ],
)
def test_a_rule_that_does_not_fit_the_model_is_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        bind(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"above": 91.0},
        {"above": None, "below": 90.0},
        {"target": "mem"},
        {"quantile": 0.1},
        {"within": "10m"},
        {"for": 3},
        {"hysteresis": 0.0},
        {"min_rows": 8},
        {"servers": ["db-*"]},
        {"severity": "critical"},
        {"labels": {"team": "a"}},
    ],
)
def test_another_definition_has_another_fingerprint(changes: dict[str, Any]) -> None:
    assert bind(**changes).fingerprint != bind().fingerprint


def test_annotations_are_no_part_of_the_definition() -> None:
    assert bind(annotations={"runbook_url": "https://example.org"}).fingerprint == bind().fingerprint


def test_a_default_that_is_written_out_is_the_same_definition() -> None:
    assert bind(within="20m", hysteresis=1.8, servers=["*"]).fingerprint == bind().fingerprint
