"""Tests `streamd/core/aggregation/points.py`: the points of a server in its newest steps, and the rows from them."""

import math
import random
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.aggregation.points import ServerPoints, ServerSeries, count_retained_steps
from streamd.core.mapping.mapping import Match, RuleMapping
from streamd.core.mapping.rules import parse_rule_set
from streamd.core.mapping.series import Kind, SourceSeries
from tests.support.naive_aggregation import reduce_naively

STEP = 10
RETAINED = 3
FEATURES = ("gauge", "rate")
MAPPING = RuleMapping(
    [
        parse_rule_set(
            "test",
            {"server": ["host"], "gauge": {"metric": "g"}, "rate": {"metric": "c", "kind": "counter"}},
        )
    ],
    FEATURES,
)


def add_series(server: ServerPoints, metric: str, **labels: str) -> ServerSeries:
    match = MAPPING.match(SourceSeries(metric, {"host": "a", **labels}))
    assert isinstance(match, Match)
    return server.add_series(f"{metric}{labels}".encode(), match)


def make_server() -> ServerPoints:
    server = ServerPoints("a", MAPPING.rules, STEP, retained_steps=RETAINED)
    add_series(server, "g")
    add_series(server, "c")
    return server


def add(server: ServerPoints, *points: tuple[int, float, float]) -> list[int]:
    steps = server.add_points(*(list(column) for column in zip(*points, strict=True)))
    for step in steps:
        server.mark_closed(step)
    return steps


def row(server: ServerPoints, step: int) -> dict[str, float]:
    return {FEATURES[column]: value for column, (value, _) in server.compute_row(step).items()}


def test_a_row_is_over_when_a_point_of_a_later_step_comes() -> None:
    server = make_server()
    assert add(server, (0, 100.0, 1.0), (0, 105.0, 3.0)) == []
    assert server.list_open_steps() == [10]
    assert add(server, (0, 110.0, 9.0)) == [10]
    assert row(server, 10) == {"gauge": 2.0}


def test_points_of_many_steps_close_all_but_the_newest() -> None:
    server = make_server()
    assert server.add_points([0] * 6, [100.0, 110.0, 120.0, 130.0, 140.0, 150.0], [1.0, 2, 3, 4, 5, 6]) == [
        *range(10, 15)
    ], "none is forgotten before its row is written"
    assert [row(server, step) for step in range(10, 15)] == [{"gauge": float(value)} for value in range(1, 6)]


def test_a_late_point_changes_its_row() -> None:
    server = make_server()
    add(server, (0, 100.0, 1.0), (0, 110.0, 1.0), (0, 120.0, 1.0))
    assert add(server, (0, 101.0, 3.0)) == [10, 11]
    assert row(server, 10) == {"gauge": 2.0}


def test_the_rest_of_a_scrape_completes_the_increase_in_the_row_before() -> None:
    server = make_server()
    add(server, (1, 98.0, 0.0), (1, 108.0, 10.0))
    assert add(server, (0, 118.0, 1.0)) == [10], "the gauge came first"
    assert row(server, 10) == {"rate": 1.0}
    assert add(server, (1, 118.0, 40.0)) == [10]
    assert row(server, 10) == {"rate": pytest.approx((8.0 + 6.0) / 10.0)}


def test_a_point_before_the_first_of_its_step_changes_the_increase_in_the_row_before() -> None:
    server = make_server()
    add(server, (1, 108.0, 0.0), (1, 118.0, 10.0))
    assert row(server, 10) == {"rate": 1.0}
    assert add(server, (1, 110.0, 8.0)) == [10]
    assert row(server, 10) == {"rate": 4.0}
    assert add(server, (1, 119.0, 11.0)) == [], "a later point is the usual one"


def test_a_late_point_counts_for_three_steps_and_for_two_minutes() -> None:
    assert [count_retained_steps(seconds) for seconds in (300, 60, 40, 5, 1)] == [3, 3, 3, 24, 120]


def test_a_jump_ahead_closes_the_row_before_it() -> None:
    server = make_server()
    add(server, (0, 100.0, 1.0))
    assert add(server, (0, 500.0, 2.0)) == [10]
    assert server.count_points() == 1, "points that no row needs any more are forgotten"


def test_a_row_that_its_grace_closed_is_amended_by_later_points_of_its_step() -> None:
    server = make_server()
    add(server, (0, 100.0, 1.0))
    server.mark_closed(10)
    assert server.list_open_steps() == []
    assert add(server, (0, 101.0, 3.0)) == [10]
    assert row(server, 10) == {"gauge": 2.0}


def test_series_without_points_are_removed_and_the_others_keep_theirs() -> None:
    server = make_server()
    gone, kept = server.entries[0], server.entries[1]
    another = add_series(server, "g", device="b")
    add(server, (1, 100.0, 0.0), (2, 100.0, 7.0), (1, 105.0, 10.0))
    assert server.prune() == [gone]
    assert (kept.index, another.index) == (0, 1)
    assert server.find_series(b"g{}") is None
    assert row(server, 10) == {"gauge": 7.0, "rate": 2.0}
    assert server.prune() == []


def test_a_kind_that_changes_holds_for_the_whole_step() -> None:
    server = make_server()
    add(server, (1, 100.0, 4.0), (1, 101.0, 6.0))
    server.set_kind(server.entries[1], Kind.GAUGE)
    assert row(server, 10) == {"rate": 5.0}


arrivals = st.lists(st.tuples(st.integers(0, 1), st.integers(100, 170), st.integers(0, 50)), min_size=1, max_size=40)


@given(arrivals, st.randoms(use_true_random=False))
def test_rows_are_those_of_all_points_in_whatever_bodies_they_come(
    points: list[tuple[int, int, int]], cut: random.Random
) -> None:
    server, taken, rows = make_server(), [], {}
    bodies = [list(body) for _, body in groupby(points, key=lambda _: cut.random() < 0.5)]
    for body in bodies:
        oldest = server.find_oldest_step() * STEP
        good = [(series, float(time), float(value)) for series, time, value in body if time >= oldest]
        if not good:
            continue
        taken += good
        steps = server.add_points(*(list(column) for column in zip(*good, strict=True)))
        for step in steps:
            rows[step] = row(server, step)
            server.mark_closed(step)
        for step in range(server.latest_step - RETAINED + 1, server.latest_step):
            assert rows.get(step, {}) == pytest.approx(find_row(taken, step)), "the newest rows have all points"


def find_row(points: list[tuple[int, float, float]], step: int) -> dict[str, float]:
    """Return the row of a step, from all points in order of arrival; points of forgotten steps have no effect."""
    kinds = {0: ("gauge", Kind.GAUGE), 1: ("rate", Kind.COUNTER)}
    if not any(step * STEP <= time < (step + 1) * STEP for _, time, _ in points):
        return {}
    near = [point for point in points if (step - 1) * STEP <= point[1] < (step + 2) * STEP]
    values = {
        name: reduce_naively(
            [(time, value) for each, time, value in near if each == series], kind, step * STEP, step * STEP + STEP, 20.0
        )
        for series, (name, kind) in kinds.items()
    }
    return {name: value for name, value in values.items() if not math.isnan(value)}
