"""Tests `streamd/rule_sets/__init__.py`: the ready-made rule sets are sound; settings choose and change them."""

import tomllib
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from streamd.core.errors import ConfigError
from streamd.core.mapping.mapping import NO_RULE, NOT_SELECTED, Ignored, Match, RuleMapping
from streamd.core.mapping.rules import MappingRule, Term
from streamd.core.mapping.series import SourceSeries
from streamd.rule_sets import (
    MappingSettings,
    list_rule_sets,
    load_rule_set,
    load_rule_sets,
    parse_mapping_settings,
)
from streamd.tools.networks.contract import FEATURE_UNITS

FEATURES = tuple(FEATURE_UNITS)
LOAD = SourceSeries("node_load1", {"instance": "web-01:9100"})

CANNOT_BE_HAD = {
    "node_exporter": {"java_cpu"},
    "collectd": {"java_cpu"},
    "netdata": {"java_cpu", "swap_used", "back_close_wait", "front_close_wait"},
    "glances": {"java_cpu"},
    "opentelemetry": {"java_cpu"},
    "telegraf": {"java_cpu"},
    "pcp": {"java_cpu"},
}


def list_terms(rule: MappingRule) -> Iterator[Term]:
    yield from rule.list_numerator()
    yield from rule.denominator
    if rule.zero_when is not None:
        yield rule.zero_when


def build_mapping(settings: MappingSettings, features: Sequence[str]) -> RuleMapping:
    return RuleMapping(load_rule_sets(settings), features)


# ---------------------------------------------------------------- the ready-made sets
def test_there_is_a_rule_set_for_each_agent() -> None:
    assert list_rule_sets() == tuple(sorted(CANNOT_BE_HAD))


@pytest.mark.parametrize("name", list_rule_sets())
def test_a_rule_set_gives_every_feature_that_can_be_had_and_no_other(name: str) -> None:
    rules = load_rule_set(name).rules
    assert {rule.feature or key for key, rule in rules.items()} == set(FEATURES) - CANNOT_BE_HAD[name]
    assert all(key == rule.feature or key in FEATURES or rule.feature in FEATURES for key, rule in rules.items())


@pytest.mark.parametrize("name", list_rule_sets())
def test_percentages_are_shares_times_100_or_percentages_as_they_are(name: str) -> None:
    for key, rule in load_rule_set(name).rules.items():
        if FEATURE_UNITS[rule.feature or key] == "percent" and rule.denominator and name != "pcp":
            assert (rule.factor, rule.offset) in {(100.0, 0.0), (-100.0, 100.0)}, key


@pytest.mark.parametrize("name", list_rule_sets())
def test_counters_are_marked_as_counters(name: str) -> None:
    """Metrics whose name ends in `_total` are counters, and so is network traffic that is not sent as a rate."""
    for key, rule in load_rule_set(name).rules.items():
        for term in list_terms(rule):
            metrics = [term.metric] if isinstance(term.metric, str) else term.metric
            if any(metric.endswith(("_total", ".io", ".time", "if_octets", "net_bytes_recv")) for metric in metrics):
                assert (term.kind or rule.kind) == "counter", key


def test_the_rule_sets_name_different_metrics() -> None:
    """Two rule sets for one metric would mix units. Labels distinguish netdata's uptime from OpenTelemetry's."""
    owners: dict[str, set[str]] = {}
    for name in list_rule_sets():
        for rule in load_rule_set(name).rules.values():
            for term in list_terms(rule):
                for metric in [term.metric] if isinstance(term.metric, str) else term.metric:
                    owners.setdefault(metric, set()).add(name)
    shared = {metric: names for metric, names in owners.items() if len(names) > 1}
    assert shared == {"system.uptime": {"netdata", "opentelemetry"}}
    assert len(owners) > 80


def test_an_unknown_rule_set_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match="no rule set 'zabbix', expected one of collectd, glances, netdata"):
        load_rule_set("zabbix")
    with pytest.raises(ConfigError, match=r"no rule set '\.\./rule_sets/pcp'"):
        load_rule_set("../rule_sets/pcp")


def test_a_rule_set_is_read_once_and_an_override_leaves_it_as_it_was() -> None:
    ready_made = load_rule_set("telegraf")
    assert not load_rule_set("telegraf", {"mem_used": {"enabled": False}}).rules["mem_used"].enabled
    assert load_rule_set("telegraf") is ready_made
    assert ready_made.rules["mem_used"].enabled


def test_a_rule_set_is_overridden_rule_by_rule() -> None:
    changed = load_rule_set("telegraf", {"mem_used": {"metric": "mem_available_percent", "factor": -1.0}})
    assert changed.rules["mem_used"] == MappingRule(metric="mem_available_percent", factor=-1.0)
    assert changed.rules["swap_used"] == load_rule_set("telegraf").rules["swap_used"]


# ---------------------------------------------------------------- the settings
def parse(text: str) -> MappingSettings:
    return parse_mapping_settings(tomllib.loads(text))


def test_by_default_every_rule_set_is_in_use() -> None:
    assert parse("") == MappingSettings()
    assert MappingSettings().rule_sets == list_rule_sets()
    found = build_mapping(MappingSettings(), FEATURES).match(LOAD)
    assert isinstance(found, Match)
    assert found.server == "web-01"


def test_only_the_rule_sets_that_are_listed_are_in_use() -> None:
    settings = parse('rule_sets = ["collectd"]\nmax_series = 10')
    assert (settings.rule_sets, settings.max_series, settings.tables) == (("collectd",), 10, {})
    mapping = build_mapping(settings, FEATURES)
    assert {rule.name.partition(".")[0] for rule in mapping.rules} == {"collectd"}
    assert mapping.match(LOAD) == Ignored(NO_RULE)


def test_a_table_overrides_a_ready_made_rule_set() -> None:
    settings = parse("[node_exporter.load_average]\nenabled = false\n[node_exporter.uptime]\nfactor = 2.0")
    rules = {rule.name: rule for rule in build_mapping(settings, FEATURES).rules}
    assert "node_exporter.load_average" not in rules
    assert rules["node_exporter.uptime"].factor == 2.0


def test_a_table_of_another_name_is_an_own_rule_set_whose_rules_win() -> None:
    mapping = build_mapping(
        parse('[mine]\nserver = ["host"]\n[mine.java_cpu]\nmetric = "jvm_cpu"\nfactor = 100.0'), FEATURES
    )
    assert mapping.rules[0].name == "mine.java_cpu"
    found = mapping.match(SourceSeries("jvm_cpu", {"host": "a"}))
    assert isinstance(found, Match)
    assert [use.rule for use in found.uses] == [0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_serie = 3", r"mapping.max_serie: there is no such setting; a rule set is a table, \[mapping.max_serie\]"),
        ("max_series = 0", r"mapping: Expected `int` >= 1 - at `\$.max_series`"),
        ('rule_sets = "pcp"', "mapping: Expected `array`, got `str`"),
        ('rule_sets = ["zabbix"]', "no rule set 'zabbix'"),
        ('rule_sets = ["pcp", "pcp"]', "mapping.rule_sets: is .*, expected each name once"),
        ('rule_sets = ["pcp"]\n[collectd.uptime]\nfactor = 2.0', "mapping.collectd: overrides a rule set that"),
        ('[mine.uptime]\nmetric = "up"', "mapping.mine.server: is missing"),
        ("[pcp.uptime]\nfactr = 2.0", "mapping.pcp.uptime: Object contains unknown field `factr`"),
    ],
)
def test_wrong_settings_are_refused_with_their_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_mapping(parse(text), FEATURES)


# ---------------------------------------------------------------- series that no fixture has
@pytest.fixture(scope="module")
def everything() -> RuleMapping:
    return build_mapping(MappingSettings(), FEATURES)


def find_features(mapping: RuleMapping, name: str, labels: dict[str, str]) -> set[str]:
    found = mapping.match(SourceSeries(name, labels))
    uses = found.uses if isinstance(found, Match) else ()
    return {FEATURES[mapping.rules[use.rule].column] for use in uses}


@pytest.mark.parametrize(
    ("name", "labels", "features"),
    [
        ("node_network_receive_bytes_total", {"instance": "a", "device": "eth0"}, {"net_in"}),
        ("node_network_receive_bytes_total", {"instance": "a", "device": "lo"}, set()),
        ("node_network_receive_bytes_total", {"instance": "a", "device": "veth12ab"}, set()),
        ("node_network_transmit_bytes_total", {"instance": "a", "device": "br-0f3c"}, set()),
        ("node_network_transmit_bytes_total", {"instance": "a", "device": "br0"}, {"net_out"}),
        ("node_filesystem_size_bytes", {"instance": "a", "mountpoint": "/boot"}, set()),
        ("net_bytes_recv", {"host": "a", "interface": "eth0"}, {"net_in"}),
        ("net_bytes_sent", {"host": "a", "interface": "lo"}, set()),
        ("cpu_usage_iowait", {"host": "a", "cpu": "cpu-total"}, {"cpu_iowait"}),
        ("cpu_usage_iowait", {"host": "a", "cpu": "cpu0"}, set()),
        ("disk_used_percent", {"host": "a", "path": "/"}, {"disk_usage"}),
        ("disk_used_percent", {"host": "a", "path": "/var"}, set()),
        ("netstat_tcp_close_wait", {"host": "a"}, {"back_close_wait", "front_close_wait"}),
        ("system_uptime", {"host": "a"}, {"uptime"}),
        ("system.cpu.time", {"host.name": "a", "cpu": "cpu0", "state": "wait"}, {"cpu_iowait"}),
        ("system.paging.usage", {"host.name": "a", "device": "/dev/sda2", "state": "used"}, {"swap_used"}),
        ("system.paging.usage", {"host.name": "a", "device": "/dev/sda2", "state": "cached"}, set()),
        ("system.filesystem.usage", {"host.name": "a", "mountpoint": "/", "state": "free"}, {"disk_usage"}),
        ("system.filesystem.usage", {"host.name": "a", "mountpoint": "/", "state": "reserved"}, set()),
        ("system.memory.usage", {"host.name": "a", "state": "slab_reclaimable"}, set()),
        ("system.cpu.load_average.1m", {"host.name": "a"}, {"load_average"}),
        ("network_interface_in_bytes__eth0", {"host": "a", "_field": "_eth0"}, {"net_in"}),
        ("network_interface_in_bytes__br_0f3c", {"host": "a", "_field": "_br_0f3c"}, set()),
    ],
)
def test_a_series_feeds_the_features_that_its_documentation_says(
    everything: RuleMapping, name: str, labels: dict[str, str], features: set[str]
) -> None:
    assert find_features(everything, name, labels) == features


def test_only_glances_own_series_are_those_of_glances(everything: RuleMapping) -> None:
    for labels, server in (({"hostname": "a"}, "a"), ({"hostname": "a", "server": "b"}, "b"), ({"host": "a"}, None)):
        found = everything.match(SourceSeries("cpu_user", labels))
        assert (found.server if isinstance(found, Match) else None) == server
        assert server is not None or found == Ignored(NOT_SELECTED)


@pytest.mark.parametrize(
    ("labels", "rule"),
    [
        ({"hostname": "a", "chart": "system.uptime", "source": "as collected"}, "netdata.uptime_as_collected"),
        ({"hostname": "a", "chart": "system.uptime", "source": "average"}, "netdata.uptime"),
        ({"host.name": "a"}, "opentelemetry.uptime"),
    ],
)
def test_an_uptime_belongs_to_the_agent_that_sent_it(
    everything: RuleMapping, labels: dict[str, str], rule: str
) -> None:
    found = everything.match(SourceSeries("system.uptime", labels))
    assert isinstance(found, Match)
    assert [everything.rules[use.rule].name for use in found.uses] == [rule]


def test_close_wait_of_other_states_is_only_a_witness(everything: RuleMapping) -> None:
    labels: dict[str, Any] = {"instance": "a", "state": "listen"}
    found = everything.match(SourceSeries("node_tcp_connection_states", labels))
    assert isinstance(found, Match)
    assert {use.role.name for use in found.uses} == {"WITNESS"}
