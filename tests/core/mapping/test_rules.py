"""Tests `streamd/core/mapping/rules.py`: rules as they are written, their overrides, and the errors of wrong ones."""

import tomllib
from typing import Any

import pytest

from streamd.core.errors import ConfigError
from streamd.core.mapping.rules import MappingRule, RuleSet, Term, parse_rule_set
from streamd.core.mapping.series import Kind

AGENT = """
server = ["host"]
strip_port = true
drop = [{ metric = "test_*" }]

[load_average]
metric = "load1"
where = { host = "web-*" }
factor = 2.0

[mem_used]
numerator = [{ metric = "used" }]
denominator = [{ metric = ["total", "size"], kind = "state" }]
"""


def parse(text: str = AGENT, overrides: str = "") -> RuleSet:
    return parse_rule_set("agent", tomllib.loads(text), tomllib.loads(overrides))


def test_a_rule_set_has_its_head_and_its_rules_by_name() -> None:
    rule_set = parse()
    assert (rule_set.name, rule_set.server, rule_set.strip_port) == ("agent", ["host"], True)
    assert rule_set.drop == [Term(metric="test_*")]
    assert list(rule_set.rules) == ["load_average", "mem_used"]
    assert rule_set.rules["mem_used"].denominator == [Term(metric=["total", "size"], kind=Kind.STATE)]


def test_the_short_form_is_one_term_of_the_numerator() -> None:
    rule = parse().rules["load_average"]
    assert rule.list_numerator() == [Term(metric="load1", where={"host": "web-*"})]
    assert parse().rules["mem_used"].list_numerator() == [Term(metric="used")]


def test_the_defaults_of_a_rule_are_one_summed_gauge() -> None:
    rule = MappingRule(metric="x")
    assert (rule.kind, rule.over, rule.by, rule.factor, rule.offset, rule.enabled) == (
        Kind.GAUGE,
        "sum",
        [],
        1.0,
        0.0,
        True,
    )


@pytest.mark.parametrize("override", ["enabled = false", "factor = 3.0", "offset = 1.0", "factor = 3.0\noffset = 1.0"])
def test_an_override_of_a_number_or_switch_keeps_the_rest_of_the_rule(override: str) -> None:
    rule, given = parse(overrides=f"[load_average]\n{override}").rules["load_average"], tomllib.loads(override)
    assert (rule.metric, rule.where) == ("load1", {"host": "web-*"})
    assert rule.factor == given.get("factor", 2.0)
    assert rule.offset == given.get("offset", 0.0)
    assert rule.enabled == given.get("enabled", True)


def test_any_other_override_replaces_the_whole_rule() -> None:
    rule = parse(overrides='[load_average]\nmetric = "load5"').rules["load_average"]
    assert rule == MappingRule(metric="load5")


def test_overrides_replace_the_head_and_add_rules() -> None:
    rule_set = parse(overrides='server = ["node"]\ndrop = []\n[uptime]\nmetric = "up"')
    assert (rule_set.server, rule_set.drop, rule_set.strip_port) == (["node"], [], True)
    assert list(rule_set.rules) == ["load_average", "mem_used", "uptime"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[x]\nmetric = "y"', "mapping.agent.server: is missing, expected the labels that name the server"),
        ('server = "host"', r"mapping.agent: Expected `array`, got `str` - at `\$.server`"),
        ('server = ["a"]\nstrip_ports = true', "mapping.agent.strip_ports: Expected `object`, got `bool`"),
        ('server = ["a"]\n[x]\nmetrc = "y"', "mapping.agent.x: Object contains unknown field `metrc`"),
        ('server = ["a"]\n[x]\nmetric = "y"\nkind = "rate"', "mapping.agent.x: Invalid enum value 'rate'"),
        ('server = ["a"]\n[x]\nmetric = "y"\nover = "min"', "mapping.agent.x: Invalid enum value 'min'"),
        ('server = ["a"]\n[x]\nmetric = "y"\nfactor = "2"', "mapping.agent.x: Expected `float`, got `str`"),
        ('server = ["a"]\n[x]\nfactor = 2.0', "mapping.agent.x: neither metric nor numerator is given"),
        (
            'server = ["a"]\n[x]\nmetric = "y"\nnumerator = [{ metric = "z" }]',
            "mapping.agent.x: metric and numerator are both given",
        ),
        (
            'server = ["a"]\n[x]\nwhere = { b = "c" }\nnumerator = [{ metric = "z" }]',
            "mapping.agent.x: where and where_not belong to metric",
        ),
        ('server = ["a"]\n[x]\nnumerator = [{ metric = "z", sign = 2 }]', "mapping.agent.x: Invalid enum value 2"),
        ('server = ["a"]\n[x]\nnumerator = [{ where = {} }]', "missing required field `metric`"),
    ],
)
def test_what_is_wrong_is_named_with_its_rule_set_and_rule(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(text)


@pytest.mark.parametrize("override", [{"load_average": {"metrc": "x"}}, {"load_average": 1}, {"server": []}])
def test_a_wrong_override_is_refused(override: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^mapping\.agent"):
        parse_rule_set("agent", tomllib.loads(AGENT), override)


def test_a_rule_that_there_is_not_cannot_be_disabled() -> None:
    with pytest.raises(ConfigError, match=r"x: neither metric nor numerator is given"):
        parse('server = ["a"]\n[x]\nenabled = false')


def test_a_factor_that_is_no_number_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"x: factor is nan"):
        parse('server = ["a"]\n[x]\nmetric = "m"\nfactor = nan')
