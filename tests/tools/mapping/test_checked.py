"""Tests `streamd/tools/mapping/checked.py`: points of a capture become rows as in the daemon, whatever its length."""

from math import nan

import pytest

from streamd.core.errors import InvalidTimeError, InvalidValueError
from streamd.core.mapping.mapping import Match, RuleMapping
from streamd.core.mapping.rules import parse_rule_set
from streamd.core.mapping.series import Kind, SourceSeries
from streamd.tools.mapping.checked import MAX_KEPT_REJECTIONS, FeatureValue, MappingSink

STEP = 300
BEGIN = 3_000 * STEP
RULES = {
    "server": ["host"],
    "cpu_user": {"metric": "cpu"},
    "net_in": {"metric": "bytes", "kind": "counter"},
    "drop": [{"metric": "cpu", "where": {"test": "1"}}],
}


@pytest.fixture
def sink() -> MappingSink:
    features = ("cpu_user", "net_in")
    return MappingSink(RuleMapping([parse_rule_set("agent", RULES)], features), features, STEP)


def make_series(name: str, **labels: str) -> SourceSeries:
    return SourceSeries(name, labels)


def test_a_gauge_becomes_its_mean_and_a_counter_its_rate(sink: MappingSink) -> None:
    for time, value in ((0, 10.0), (20, 30.0), (10, 50.0)):
        sink.add_point(make_series("cpu", host="a"), BEGIN + time, value)
        sink.add_point(make_series("bytes", host="a"), BEGIN + time, 5.0 * time)
    assert sink.find_newest_values(sink.servers["a"]) == {
        "cpu_user": FeatureValue(30.0, "agent.cpu_user", BEGIN),
        "net_in": FeatureValue(5.0, "agent.net_in", BEGIN),
    }


def test_a_capture_may_be_longer_than_the_steps_in_which_late_points_count(sink: MappingSink) -> None:
    """The points of a week come in the order of their series, as `promtool tsdb dump` writes them."""
    steps = 20
    for step in range(steps):
        sink.add_point(make_series("cpu", host="a"), BEGIN + step * STEP, float(step))
    for step in range(steps):
        sink.add_point(make_series("bytes", host="a"), BEGIN + step * STEP, step * 600.0)
    rows = sink.compute_rows(sink.servers["a"])
    assert list(rows) == [BEGIN + step * STEP for step in range(steps)]
    assert [row["cpu_user"].value for row in rows.values()] == [float(step) for step in range(steps)]
    # The increase of a step is known when a point of the next one has come.
    assert [row["net_in"].value for row in rows.values() if "net_in" in row] == pytest.approx([2.0] * (steps - 1))


def test_a_feature_without_a_value_in_the_last_step_has_its_newest_one(sink: MappingSink) -> None:
    sink.add_point(make_series("cpu", host="a"), BEGIN, 1.0)
    sink.add_point(make_series("bytes", host="a"), BEGIN + STEP, 1.0)
    assert sink.find_newest_values(sink.servers["a"]) == {"cpu_user": FeatureValue(1.0, "agent.cpu_user", BEGIN)}


def test_a_series_that_ended_has_no_value(sink: MappingSink) -> None:
    sink.add_point(make_series("cpu", host="a"), BEGIN, nan)
    assert sink.find_newest_values(sink.servers["a"]) == {}
    assert sink.servers["a"].series[0].points == 0


def test_the_same_series_under_two_keys_is_one_series(sink: MappingSink) -> None:
    series = make_series("cpu", host="a")
    for key in ("first", "second"):
        assert sink.find(key) is None
        sink.add(sink.bind(key, series), BEGIN, 1.0)
        assert sink.find(key) is sink.find("first")
    assert len(sink.series) == 1
    assert (sink.series[0].points, sink.series[0].last_value) == (2, 1.0)


def test_a_series_of_another_kind_is_another_series(sink: MappingSink) -> None:
    for kind in (None, Kind.COUNTER):
        sink.add_point(SourceSeries("cpu", {"host": "a"}, kind), BEGIN, 1.0)
    kinds = [series.result.kind for series in sink.series if isinstance(series.result, Match)]
    assert kinds == [Kind.GAUGE, Kind.COUNTER]


def test_servers_are_apart(sink: MappingSink) -> None:
    for number, server in enumerate(("a", "b")):
        sink.add_point(make_series("cpu", host=server), BEGIN, float(number))
    values = {name: sink.find_newest_values(server)["cpu_user"].value for name, server in sink.servers.items()}
    assert values == {"a": 0.0, "b": 1.0}


def test_the_time_of_the_newest_point_counts_and_not_the_order(sink: MappingSink) -> None:
    for time, value in ((5, 1.0), (9, 2.0), (7, 3.0)):
        sink.add_point(make_series("cpu", host="a"), float(time), value)
    (series,) = sink.series
    assert (series.first_time, series.last_time, series.last_value, series.points) == (5.0, 9.0, 2.0, 3)


def test_what_is_ignored_is_listed_by_reason_the_most_frequent_first(sink: MappingSink) -> None:
    for name, labels in (("x", {}), ("y", {"host": "a"}), ("cpu", {}), ("cpu", {"host": "a", "test": "1"})):
        sink.add_point(make_series(name, **labels), BEGIN, 1.0)
    listed = [(reason, [series.source.name for series in many]) for reason, many in sink.list_ignored()]
    assert listed == [("no_rule", ["x", "y"]), ("dropped:agent", ["cpu"]), ("no_server", ["cpu"])]
    assert sink.servers == {}


def test_all_rejections_are_counted_and_some_are_kept(sink: MappingSink) -> None:
    for number in range(MAX_KEPT_REJECTIONS):
        sink.reject(InvalidValueError(f"{number}"), 2)
    sink.reject(InvalidTimeError("last"))
    sink.skip("missing value")
    sink.skip("missing value", 3)
    assert sink.rejected == {"invalid_value": 2 * MAX_KEPT_REJECTIONS, "invalid_time": 1}
    assert len(sink.errors) == MAX_KEPT_REJECTIONS
    assert sink.skipped == {"missing value": 4}
