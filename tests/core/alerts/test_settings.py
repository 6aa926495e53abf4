"""Tests `streamd/core/alerts/settings.py`: what a rule may be, and that each error names the rule and the key."""

import tomllib
from typing import Any

import pytest

from streamd.core.alerts.settings import (
    MAX_RULES,
    AlertSettings,
    parse_alert_rules,
    parse_alert_settings,
    parse_duration_seconds,
)
from streamd.core.errors import ConfigError

RULE: dict[str, Any] = {"target": "cpu", "above": 90.0}


def parse(**changes: Any) -> Any:
    """Return the rule `r` with these keys."""
    return parse_alert_rules(AlertSettings(rules={"r": {**RULE, **changes}}))["r"]


def test_a_rule_is_read_with_all_its_keys() -> None:
    settings = parse_alert_settings(
        tomllib.loads(
            """
            silent_after_seconds = 60.0
            [rules.disk_fills]
            target = "disk_usage"
            below = 10
            quantile = 0.1
            within = "90m"
            for = 3
            hysteresis = 1.5
            min_rows = 12
            servers = ["db-*", "web-01"]
            severity = "critical"
            labels = { team = "storage" }
            annotations = { runbook_url = "https://example.org/disk" }
            """
        )
    )
    rule = parse_alert_rules(settings)["disk_fills"]
    assert settings.silent_after_seconds == 60.0
    assert (rule.target, rule.threshold, rule.is_above, rule.quantile) == ("disk_usage", 10.0, False, 0.1)
    assert (rule.within, rule.consecutive, rule.hysteresis, rule.min_rows) == ("90m", 3, 1.5, 12)
    assert (rule.servers, rule.severity) == (("db-*", "web-01"), "critical")
    assert (rule.labels, rule.annotations) == ({"team": "storage"}, {"runbook_url": "https://example.org/disk"})


def test_a_rule_needs_only_a_target_and_a_threshold() -> None:
    rule = parse()
    assert (rule.consecutive, rule.quantile, rule.severity, rule.servers) == (2, 0.5, "warning", ("*",))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"above": None}, "neither above nor below is given, expected one of them"),
        ({"below": 1.0}, "above and below are both given"),
        ({"above": float("nan")}, r"r\.above: is nan, expected a finite number"),
        ({"above": float("inf")}, r"r\.above: is inf"),
        ({"hysteresis": -1.0}, r"r\.hysteresis: Expected"),
        ({"hysteresis": float("inf")}, r"r\.hysteresis: is inf"),
        ({"within": "4 hours"}, r"r\.within: is '4 hours', expected seconds, or a duration"),
        ({"within": 0}, r"r\.within: is 0\.0, expected a positive number"),
        ({"for": 0}, r"r\.for: Expected `int` >= 1"),
        ({"for": 101}, r"r\.for: Expected `int` <= 100"),
        ({"for": "5m"}, r"r\.for: Expected `int`"),
        ({"min_rows": 0}, r"r\.min_rows: Expected"),
        ({"servers": []}, r"r\.servers: is empty"),
        ({"severity": "page"}, r"r\.severity: .*'page', expected one of info, warning, critical"),
        ({"labels": {"a.b": "x"}}, r"r\.labels: has 'a\.b', expected a name of letters"),
        ({"labels": {"team": ""}}, r"r\.labels\.team: has 0 characters"),
        ({"labels": {"alertname": "x"}}, r"r\.labels: has alertname, which each alert gets by itself"),
        ({"labels": {f"l{number}": "x" for number in range(33)}}, r"r\.labels: has 33 names"),
        ({"annotations": {"text": "x" * 8_193}}, r"r\.annotations\.text: has 8193 characters"),
        ({"treshold": 1}, r"alerts\.rules\.r: .*treshold`, expected some of target, above, below, .*, for, "),
        ({"target": 5}, r"alerts\.rules\.r\.target: Expected `str`"),
    ],
)
def test_a_wrong_rule_is_refused_by_the_name_of_what_is_wrong(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        parse(**changes)


@pytest.mark.parametrize("name", ["", "a b", "ä", "-a", "x" * 129])
def test_the_name_of_a_rule_is_limited(name: str) -> None:
    with pytest.raises(ConfigError, match="the name of a rule has letters"):
        parse_alert_rules(AlertSettings(rules={name: RULE}))


def test_more_rules_than_the_limit_are_refused() -> None:
    rules = {f"r{number}": RULE for number in range(MAX_RULES + 1)}
    assert len(parse_alert_rules(AlertSettings(rules=dict(list(rules.items())[:-1])))) == MAX_RULES
    with pytest.raises(ConfigError, match="has 101 rules, expected at most 100"):
        parse_alert_rules(AlertSettings(rules=rules))


def test_the_texts_that_each_alert_repeats_are_limited_together() -> None:
    texts = {f"a{number}": "é" * 1_000 for number in range(4)}
    parse_alert_rules(AlertSettings(rules={"r": {**RULE, "annotations": texts}}))
    with pytest.raises(
        ConfigError, match=r"rules\.r: labels and annotations have 8209 bytes together, expected at most"
    ):
        parse_alert_rules(AlertSettings(rules={"r": {**RULE, "annotations": texts, "labels": {"a": "x" * 200}}}))


def test_an_unknown_key_of_the_section_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"alerts: .*rule"):
        parse_alert_settings({"rule": {}})


@pytest.mark.parametrize(
    ("value", "seconds"), [("45s", 45.0), ("90m", 5_400.0), ("4h", 14_400.0), ("1.5d", 129_600.0), (60, 60.0)]
)
def test_durations_have_a_unit_or_are_seconds(value: str | float, seconds: float) -> None:
    assert parse_duration_seconds(value) == seconds


@pytest.mark.parametrize("value", ["", "4", "h", "-4h", "4h30m", "1e3s", float("nan"), float("inf"), -1, "0h"])
def test_anything_else_is_no_duration(value: str | float) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_duration_seconds(value)


# ---------------------------------------------------------------- receivers
@pytest.mark.parametrize("key", ["alertmanagers", "alert_webhook", "alert_source_url"])
@pytest.mark.parametrize(
    "url",
    [
        "host:9093",
        "ftp://host",
        "http://",
        "http:///path",
        "http://a b",
        "http://secret#x",
        "http://[::1",
        "http://a:1x",
    ],
)
def test_a_receiver_that_is_no_url_is_refused_without_being_repeated(key: str, url: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} has no URL") as raised:
        parse_alert_settings({key: [url] if key == "alertmanagers" else url})
    assert "secret" not in str(raised.value)


def test_receivers_have_any_url_of_http() -> None:
    urls = ["http://am-1:9093", "https://user:pass@host/base/", "http://[::1]:9093", "http://am?x=1"]
    assert parse_alert_settings({"alertmanagers": urls}).alertmanagers == tuple(urls)
    with pytest.raises(ConfigError, match="has a URL twice"):
        parse_alert_settings({"alertmanagers": ["http://a", "http://a"]})
    with pytest.raises(ConfigError, match="alertmanagers has no URL"):
        parse_alert_settings({"alertmanagers": [""]})


def test_the_urls_of_receivers_are_not_shown_in_logs() -> None:
    settings = AlertSettings(alertmanagers=("http://u:secret@a",), alert_webhook="http://a/secret")
    assert "secret" not in repr(settings)
    assert "resend_seconds=60.0" in repr(settings)


@pytest.mark.parametrize("given", [{"alert_expiry_seconds": float("inf")}, {"alert_expiry_seconds": 1e15}])
def test_an_alert_expires_at_a_time_that_can_be_written(given: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="alert_expiry_seconds"):
        parse_alert_settings(given)


def test_an_interval_that_would_leave_the_loop_no_time_is_refused() -> None:
    with pytest.raises(ConfigError, match="resend_seconds"):
        parse_alert_settings({"resend_seconds": 1e-9})


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected at least twice resend_seconds"):
        parse_alert_settings({"resend_seconds": 500.0})
    parse_alert_settings({"resend_seconds": 500.0, "alert_expiry_seconds": 1_000.0})
    with pytest.raises(ConfigError, match="a URL has a user name"):
        parse_alert_settings({"alert_webhook": "http://u:p@a", "alerts_token_file": "token"})
