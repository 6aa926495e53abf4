"""Tests `streamd/core/aggregation/formulas.py`: the features of a server from the values of its series."""

import math
from typing import Any

import pytest

from streamd.core.aggregation.formulas import ServerFormulas
from streamd.core.mapping.mapping import Match, RuleMapping
from streamd.core.mapping.rules import parse_rule_set
from streamd.core.mapping.series import SourceSeries

FEATURES = ("cpu", "mem", "waits")


def compute(rules: dict[str, Any], *series: tuple[str, dict[str, str], float]) -> dict[str, float]:
    """Return the features that rules give for series; each series is a metric, its labels and a value."""
    mapping = RuleMapping([parse_rule_set("test", {"server": ["host"], **rules})], FEATURES)
    formulas = ServerFormulas(mapping.rules)
    values: list[float] = []
    for metric, labels, value in series:
        match = mapping.match(SourceSeries(metric, {"host": "a", **labels}))
        if isinstance(match, Match):
            formulas.add_series(len(values), match.uses)
            values.append(value)
    return {FEATURES[column]: value for column, (value, _) in formulas.compute_features(values).items()}


@pytest.mark.parametrize(("over", "expected"), [("sum", 60.0), ("mean", 30.0), ("max", 40.0)])
def test_the_groups_become_one(over: str, expected: float) -> None:
    rules = {"cpu": {"metric": "m", "by": ["core"], "over": over, "factor": 10.0}}
    assert compute(rules, ("m", {"core": "0"}, 2.0), ("m", {"core": "1"}, 4.0)) == {"cpu": expected}


def test_series_of_one_term_are_added_within_a_group() -> None:
    assert compute({"cpu": {"metric": "m"}}, ("m", {"core": "0"}, 2.0), ("m", {"core": "1"}, 4.0)) == {"cpu": 6.0}


USED_OF_TOTAL = {
    "mem": {
        "factor": 100.0,
        "numerator": [{"metric": "total"}, {"metric": "free", "sign": -1}],
        "denominator": [{"metric": "total"}],
    }
}


def test_a_ratio_of_differences() -> None:
    assert compute(USED_OF_TOTAL, ("total", {}, 8.0), ("free", {}, 2.0)) == {"mem": 75.0}


def test_a_ratio_with_a_term_missing_or_a_divisor_of_zero_has_no_value() -> None:
    assert compute(USED_OF_TOTAL, ("total", {}, 8.0)) == {}
    assert compute(USED_OF_TOTAL, ("total", {}, 8.0), ("free", {}, math.nan)) == {}
    assert compute(USED_OF_TOTAL, ("total", {}, 0.0), ("free", {}, 0.0)) == {}


def test_one_minus_a_share() -> None:
    rules = {"cpu": {"metric": "idle", "factor": -100.0, "offset": 100.0}}
    assert compute(rules, ("idle", {}, 0.25)) == {"cpu": 75.0}


def test_what_a_sender_leaves_out_is_zero_if_it_sends_the_rest() -> None:
    rules = {"waits": {"metric": "tcp", "where": {"state": "close_wait"}, "zero_when": {"metric": "tcp"}}}
    assert compute(rules, ("tcp", {"state": "listen"}, 3.0)) == {"waits": 0.0}
    assert compute(rules, ("tcp", {"state": "listen"}, 3.0), ("tcp", {"state": "close_wait"}, 2.0)) == {"waits": 2.0}
    assert compute(rules, ("tcp", {"state": "listen"}, math.nan)) == {}
    assert compute(rules, ("udp", {"state": "listen"}, 3.0)) == {}


def test_the_first_rule_with_a_value_wins() -> None:
    rules = {"cpu": {"metric": "gauge"}, "cpu_from_time": {"feature": "cpu", "metric": "time"}}
    assert compute(rules, ("time", {}, 2.0), ("gauge", {}, 1.0)) == {"cpu": 1.0}
    assert compute(rules, ("time", {}, 2.0), ("gauge", {}, math.nan)) == {"cpu": 2.0}


def test_a_result_that_float32_cannot_hold_is_no_value() -> None:
    assert compute({"cpu": {"metric": "m", "factor": 1e30}}, ("m", {}, 1e30)) == {}
