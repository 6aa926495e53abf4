"""Tests `streamd/core/mapping/mapping.py`: the server and the rules that a series feeds, or the reason to ignore it.

A naive matcher, which tries all rules for each series, must give the same result.
"""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.errors import ConfigError
from streamd.core.mapping import mapping as module
from streamd.core.mapping.mapping import (
    NO_RULE,
    NO_SERVER,
    NOT_SELECTED,
    Ignored,
    Match,
    Role,
    RuleMapping,
    Use,
)
from streamd.core.mapping.rules import MappingRule, Patterns, RuleSet, Term, parse_rule_set
from streamd.core.mapping.series import Kind, SourceSeries

FEATURES = ("cpu_user", "mem_used", "net_in")


def make_rule_set(name: str = "agent", server: tuple[str, ...] = ("host",), **rules: Any) -> RuleSet:
    return parse_rule_set(name, {"server": list(server), **rules})


def match(rule_set: RuleSet, name: str, **labels: str) -> Match | Ignored:
    return RuleMapping([rule_set], FEATURES).match(SourceSeries(name, labels))


# ---------------------------------------------------------------- what a series becomes
def test_a_series_belongs_to_the_rule_of_its_metric() -> None:
    rule_set = make_rule_set(mem_used={"metric": "mem"}, cpu_user={"metric": "cpu", "kind": "counter"})
    assert match(rule_set, "cpu", host="a") == Match("a", Kind.COUNTER, (Use(1, Role.NUMERATOR, 0, ()),))
    assert match(rule_set, "mem", host="a") == Match("a", Kind.GAUGE, (Use(0, Role.NUMERATOR, 0, ()),))


def test_one_series_can_be_in_several_parts_of_a_rule() -> None:
    rule_set = make_rule_set(
        mem_used={
            "numerator": [{"metric": "used"}],
            "denominator": [{"metric": "free"}, {"metric": ["used", "x"]}],
            "zero_when": {"metric": "u*"},
        }
    )
    found = match(rule_set, "used", host="a")
    assert isinstance(found, Match)
    assert set(found.uses) == {
        Use(0, Role.NUMERATOR, 0, ()),
        Use(0, Role.DENOMINATOR, 1, ()),
        Use(0, Role.WITNESS, 0, ()),
    }


def test_the_group_is_the_values_of_the_labels_by_and_empty_for_one_that_is_not_there() -> None:
    rule_set = make_rule_set(cpu_user={"metric": "cpu", "by": ["cpu", "socket"], "zero_when": {"metric": "cpu"}})
    found = match(rule_set, "cpu", host="a", cpu="1")
    assert isinstance(found, Match)
    assert found.uses == (Use(0, Role.NUMERATOR, 0, ("1", "")), Use(0, Role.WITNESS, 0, ()))


def test_a_kind_that_the_protocol_says_wins_over_that_of_the_term_and_of_the_rule() -> None:
    rule_set = make_rule_set(
        mem_used={"kind": "counter", "numerator": [{"metric": "a"}, {"metric": "b", "kind": "state"}]}
    )
    for name, kind, expected in (("a", None, Kind.COUNTER), ("b", None, Kind.STATE), ("b", Kind.GAUGE, Kind.GAUGE)):
        found = RuleMapping([rule_set], FEATURES).match(SourceSeries(name, {"host": "a"}, kind))
        assert isinstance(found, Match)
        assert found.kind is expected


def test_rules_for_features_that_the_model_does_not_have_are_left_out() -> None:
    mapping = RuleMapping([make_rule_set(java_cpu={"metric": "j"}, mem_used={"metric": "m"})], FEATURES)
    assert [(rule.name, rule.column) for rule in mapping.rules] == [("agent.mem_used", 1)]
    assert mapping.match(SourceSeries("j", {"host": "a"})) == Ignored(NO_RULE)


def test_disabled_rules_are_left_out_and_several_rules_can_give_one_feature() -> None:
    rule_set = make_rule_set(
        cpu_user={"metric": "a", "enabled": False},
        cpu_user_too={"metric": "b", "feature": "cpu_user", "factor": 2.0, "offset": 1.0, "over": "max"},
    )
    (rule,) = RuleMapping([rule_set], FEATURES).rules
    assert (rule.name, rule.column, rule.factor, rule.offset, rule.over) == ("agent.cpu_user_too", 0, 2.0, 1.0, "max")
    assert (rule.signs, rule.divisor_signs, rule.has_witness) == ((1,), (), False)


def test_rules_are_numbered_in_the_order_of_their_sets() -> None:
    first, second = make_rule_set("first", cpu_user={"metric": "a"}), make_rule_set("second", cpu_user={"metric": "a"})
    mapping = RuleMapping([first, second], FEATURES)
    assert [rule.name for rule in mapping.rules] == ["first.cpu_user", "second.cpu_user"]
    found = mapping.match(SourceSeries("a", {"host": "a"}))
    assert isinstance(found, Match)
    assert [use.rule for use in found.uses] == [0, 1]


# ---------------------------------------------------------------- why a series is ignored
def test_the_reason_for_ignoring_a_series_is_the_nearest_one() -> None:
    rule_set = make_rule_set(
        cpu_user={"metric": "cpu", "where": {"mode": "user"}, "where_not": {"cpu": ["9", "1?"]}},
        drop=[{"metric": "*", "where": {"host": "test-*"}}],
    )
    for name, labels, reason in (
        ("disk", {"host": "a"}, NOT_SELECTED),  # named by the drop rule alone
        ("cpu", {"host": "a", "mode": "idle"}, NOT_SELECTED),
        ("cpu", {"host": "a", "mode": "user", "cpu": "9"}, NOT_SELECTED),
        ("cpu", {"host": "a", "mode": "user", "cpu": "12"}, NOT_SELECTED),
        ("cpu", {"mode": "user"}, NO_SERVER),
        ("cpu", {"mode": "user", "host": ""}, NO_SERVER),
        ("cpu", {"mode": "user", "host": "test-1"}, "dropped:agent"),
    ):
        assert match(rule_set, name, **labels) == Ignored(reason), (name, labels)
    assert match(make_rule_set(), "disk", host="a") == Ignored(NO_RULE)


def test_a_label_that_is_not_there_is_empty_for_where_and_never_matches_where_not() -> None:
    absent = make_rule_set(cpu_user={"metric": "c", "where": {"mode": ""}, "where_not": {"device": "*"}})
    assert isinstance(match(absent, "c", host="a"), Match)
    assert match(absent, "c", host="a", device="lo") == Ignored(NOT_SELECTED)
    assert match(absent, "c", host="a", mode="user") == Ignored(NOT_SELECTED)


def test_globs_match_whole_texts_and_distinguish_case() -> None:
    rule_set = make_rule_set(cpu_user={"metric": "node_*_total", "where": {"mode": ["us?r", "[ab]"]}})
    for name, mode, is_mapped in (
        ("node_cpu_total", "user", True),
        ("node_cpu_total", "a", True),
        ("node_cpu_total", "ab", False),
        ("node_cpu_total", "User", False),
        ("node_cpu_total", "user\n", False),
        ("Node_cpu_total", "user", False),
        ("x_node_cpu_total", "user", False),
    ):
        assert isinstance(match(rule_set, name, host="a", mode=mode), Match) is is_mapped, (name, mode)


def test_an_empty_list_of_patterns_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"mapping.*cpu_user: a list of patterns is empty"):
        RuleMapping([make_rule_set(cpu_user={"metric": "c", "where": {"mode": []}})], FEATURES)


# ---------------------------------------------------------------- the server
def test_the_server_is_the_first_label_that_is_there_and_not_empty() -> None:
    rule_set = make_rule_set(server=("server", "host", "instance"), cpu_user={"metric": "c"})
    for labels, server in (
        ({"server": "a", "host": "b"}, "a"),
        ({"server": "", "host": "b"}, "b"),
        ({"instance": "web:9100"}, "web:9100"),
    ):
        found = match(rule_set, "c", **labels)
        assert isinstance(found, Match)
        assert found.server == server


@pytest.mark.parametrize(
    ("address", "server"),
    [
        ("web-01:9100", "web-01"),
        ("web-01", "web-01"),
        ("10.0.0.1:80", "10.0.0.1"),
        ("[::1]:9100", "::1"),
        ("[fe80::1]", "fe80::1"),
        ("fe80::1", "fe80::1"),
        ("web-01:", "web-01:"),
        ("web-01:http", "web-01:http"),
        ("web-01:123456", "web-01:123456"),
        ("web-01:9100\n", "web-01:9100\n"),
        (":9100", None),
        ("[]:9100", None),
    ],
)
def test_a_port_is_stripped_from_an_address_and_from_nothing_else(address: str, server: str | None) -> None:
    rule_set = make_rule_set(strip_port=True, cpu_user={"metric": "c"})
    found = match(rule_set, "c", host=address)
    assert (found.server if isinstance(found, Match) else None) == server


def test_a_label_that_is_only_a_port_leaves_the_server_to_the_next_label() -> None:
    rule_set = make_rule_set(server=("instance", "host"), strip_port=True, cpu_user={"metric": "c"})
    found = match(rule_set, "c", instance=":9100", host="web-01")
    assert isinstance(found, Match)
    assert found.server == "web-01"


# ---------------------------------------------------------------- bounds
def test_ever_new_names_do_not_make_the_cache_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CACHED_NAMES", 10)
    mapping = RuleMapping([make_rule_set(cpu_user={"metric": "c*"})], FEATURES)
    for number in range(100):
        assert isinstance(mapping.match(SourceSeries(f"c{number}", {"host": "a"})), Match)
        assert mapping.match(SourceSeries(f"d{number}", {"host": "a"})) == Ignored(NO_RULE)
    assert len(mapping._cache) <= 10


def test_a_name_of_megabytes_is_not_kept() -> None:
    mapping = RuleMapping([make_rule_set(cpu_user={"metric": "c*"})], FEATURES)
    assert mapping.names_metric("c" * 2**20)
    assert not mapping.names_metric("d" * 2**20)
    assert mapping._cache == {}


# ---------------------------------------------------------------- against a naive matcher
TEXTS = st.text("ab-", max_size=2)
PATTERN = st.text("ab-*?[]!", min_size=1, max_size=3)
PATTERNS = st.one_of(PATTERN, st.lists(PATTERN, min_size=1, max_size=2))
LABELS = st.sampled_from(["host", "mode", "cpu"])
WHERE = st.dictionaries(LABELS, PATTERNS, max_size=2)
TERMS = st.builds(
    Term,
    metric=PATTERNS,
    where=WHERE,
    where_not=WHERE,
    kind=st.none() | st.sampled_from(Kind),
    sign=st.sampled_from([1, -1]),
)
RULES = st.builds(
    MappingRule,
    feature=st.sampled_from([*FEATURES, "unknown"]),
    kind=st.sampled_from(Kind),
    numerator=st.lists(TERMS, min_size=1, max_size=2),
    denominator=st.lists(TERMS, max_size=2),
    zero_when=st.none() | TERMS,
    by=st.lists(LABELS, max_size=2),
    enabled=st.booleans(),
)
RULE_SETS = st.builds(
    RuleSet,
    name=st.sampled_from(["one", "two"]),
    server=st.lists(LABELS, min_size=1, max_size=2),
    drop=st.lists(TERMS, max_size=1),
    rules=st.dictionaries(st.sampled_from(["r", "s", "t"]), RULES, max_size=3),
)
SERIES = st.builds(
    SourceSeries, name=TEXTS, labels=st.dictionaries(LABELS, TEXTS), kind=st.none() | st.sampled_from(Kind)
)


def is_any(patterns: Patterns, text: str) -> bool:
    return any(fnmatchcase(text, glob) for glob in ([patterns] if isinstance(patterns, str) else patterns))


def is_wanted(term: Term, series: SourceSeries) -> bool:
    labels = series.labels
    return (
        is_any(term.metric, series.name)
        and all(is_any(patterns, labels.get(label, "")) for label, patterns in term.where.items())
        and not any(label in labels and is_any(patterns, labels[label]) for label, patterns in term.where_not.items())
    )


def list_parts(rule: MappingRule) -> Iterator[tuple[Role, int, Term]]:
    yield from ((Role.NUMERATOR, place, term) for place, term in enumerate(rule.numerator))
    yield from ((Role.DENOMINATOR, place, term) for place, term in enumerate(rule.denominator))
    if rule.zero_when is not None:
        yield Role.WITNESS, 0, rule.zero_when


def match_naively(rule_sets: list[RuleSet], series: SourceSeries) -> tuple[set[Use], set[str], bool]:
    """Return the uses, the rule sets that drop the series, and whether any rule names its metric."""
    uses, droppers, is_named, number = set[Use](), set[str](), False, 0
    for rule_set in rule_sets:
        for term in rule_set.drop:
            is_named |= is_any(term.metric, series.name)
            if is_wanted(term, series):
                droppers.add(rule_set.name)
        for rule in rule_set.rules.values():
            if not rule.enabled or rule.feature not in FEATURES:
                continue
            for role, place, term in list_parts(rule):
                is_named |= is_any(term.metric, series.name)
                if is_wanted(term, series):
                    group = tuple(series.labels.get(label, "") for label in rule.by)
                    uses.add(Use(number, role, place, () if role is Role.WITNESS else group))
            number += 1
    return uses, droppers, is_named


@given(st.lists(RULE_SETS, max_size=2), st.lists(SERIES, min_size=1, max_size=5))
def test_a_series_is_matched_as_a_naive_matcher_does(rule_sets: list[RuleSet], many: list[SourceSeries]) -> None:
    mapping = RuleMapping(rule_sets, FEATURES)
    for series in [*many, *many]:  # the second time from the cache
        uses, droppers, is_named = match_naively(rule_sets, series)
        found = mapping.match(series)
        if isinstance(found, Match):
            assert not droppers
            assert set(found.uses) == uses
            assert found.uses, "a match feeds a rule"
            assert found.server
            assert series.kind is None or found.kind is series.kind
            named = {series.labels.get(label) for rule_set in rule_sets for label in rule_set.server}
            assert found.server in named
        elif found.reason.startswith("dropped:"):
            assert found.reason.removeprefix("dropped:") in droppers
        elif found.reason == NO_SERVER:
            assert uses
            assert not droppers
        else:
            assert not uses
            assert not droppers
            assert found.reason == (NOT_SELECTED if is_named else NO_RULE)
