"""Tests `streamd/tools/mapping/reasons.py`: a feature without a value is explained by what its rules lack."""

from typing import Any

from streamd.core.mapping.mapping import RuleMapping
from streamd.core.mapping.rules import Term, parse_rule_set
from streamd.core.mapping.series import SourceSeries
from streamd.tools.mapping.checked import MappingSink
from streamd.tools.mapping.reasons import NO_RULE_FOR_FEATURE, ReasonFinder, describe_term

FEATURES = ("cpu_user", "mem_used", "net_in", "java_cpu")


Points = list[tuple[str, dict[str, str], float, float]]


def find_reason(feature: str, points: Points, **rules: Any) -> str:
    """Return why a feature of the server a has no value, by a rule set that also maps the metric `seen`."""
    others = [
        parse_rule_set("agent", {"server": ["host"], "seen": {"feature": "cpu_user", "metric": "seen"}, **rules}),
        parse_rule_set("other", {"server": ["host"], "mem_used": {"metric": "m"}, "net_in": {"metric": "n"}}),
    ]
    mapping = RuleMapping(others, FEATURES)
    sink = MappingSink(mapping, FEATURES, 300)
    for name, labels, time, value in [("seen", {}, 0.0, 1.0), *points]:
        sink.add_point(SourceSeries(name, {"host": "a", **labels}), time, value)
    column = FEATURES.index(feature)
    assert feature not in sink.find_newest_values(sink.servers["a"])
    return ReasonFinder(others, mapping).find_reason(sink.servers["a"], column)


SHARE = {"numerator": [{"metric": "used"}], "denominator": [{"metric": "used"}, {"metric": ["free", "f*"]}]}


def test_no_rule_gives_the_feature() -> None:
    assert find_reason("java_cpu", []) == NO_RULE_FOR_FEATURE
    assert find_reason("mem_used", []) == "no rule of agent gives it"


def test_the_rules_of_the_agent_that_sent_the_capture_lack_their_series() -> None:
    rule = {"metric": "bytes", "where": {"way": "in"}, "where_not": {"device": ["lo", "br*"]}, "kind": "counter"}
    assert find_reason("net_in", [], net_in=rule) == 'agent.net_in: no series of bytes{way="in",device!="lo|br*"}'


def test_a_rule_lacks_some_of_its_series() -> None:
    points: Points = [("used", {}, 0.0, 1.0)]
    assert find_reason("mem_used", points, mem_used=SHARE) == "agent.mem_used: no series of free|f*"


def test_a_rule_that_has_series_is_explained_rather_than_one_that_has_none() -> None:
    points: Points = [("used", {}, 0.0, 1.0)]
    second = {"feature": "mem_used", "metric": "percent"}
    found = find_reason("mem_used", points, mem_used_too=second, mem_used=SHARE)
    assert found == "agent.mem_used: no series of free|f*"
    assert find_reason("mem_used", [], mem_used_too=second, mem_used=SHARE) == (
        "agent.mem_used_too: no series of percent; agent.mem_used: no series of used and of free|f*"
    )


def test_the_denominator_is_zero() -> None:
    points: Points = [("used", {}, 0.0, 0.0), ("free", {}, 0.0, 0.0)]
    assert find_reason("mem_used", points, mem_used=SHARE) == "agent.mem_used: its denominator is 0"


def test_a_counter_has_only_one_point() -> None:
    points: Points = [("bytes", {}, 7.0, 5.0), ("bytes", {}, 7.0, 5.0)]
    found = find_reason("net_in", points, net_in={"metric": "bytes", "kind": "counter"})
    assert found == "agent.net_in: needs two points of its counters, and the capture has one; add a later body"


def test_the_series_have_no_values_in_the_same_step() -> None:
    points: Points = [("used", {}, 0.0, 1.0), ("free", {}, 900.0, 1.0)]
    assert find_reason("mem_used", points, mem_used=SHARE) == (
        "agent.mem_used: its series have no values in the same step"
    )


def test_a_term_is_described_like_a_selector() -> None:
    assert describe_term(Term(metric="a")) == "a"
    assert describe_term(Term(metric=["a", "b"], where={"x": "1"}, where_not={"y": ["2", "3"]})) == (
        'a|b{x="1",y!="2|3"}'
    )
