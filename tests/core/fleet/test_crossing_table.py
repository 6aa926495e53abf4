"""Tests `streamd/core/fleet/crossing_table.py`: the crossing that matters most against a loop over rules."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.fleet.crossing_table import NO_CROSSING, CrossingTable, FiringRules

STEP_SECONDS, HORIZON, RULES, CAPACITY = 60, 4, 3, 3
TIMES = st.integers(0, 4).map(float) | st.just(math.inf)
CROSSINGS = st.tuples(TIMES, TIMES, TIMES).map(lambda each: tuple(sorted(each)))
"""The earliest, the likely and the latest crossing: of sorted quantiles, they rise."""

NOTHING_FIRES = FiringRules(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int8))


def make_firing(severities: dict[tuple[int, int], int]) -> FiringRules:
    """Return the alerts of rules and slots that fire."""
    keys = np.array(list(severities), np.int64).reshape(-1, 2)
    return FiringRules(keys[:, 0], keys[:, 1], np.array(list(severities.values()), np.int8))


@given(
    crossings=st.lists(st.lists(CROSSINGS, min_size=CAPACITY, max_size=CAPACITY), min_size=RULES, max_size=RULES),
    origins=st.lists(st.integers(0, 5), min_size=CAPACITY, max_size=CAPACITY),
    rules=st.lists(st.integers(0, RULES - 1), unique=True),
    severities=st.dictionaries(
        st.tuples(st.integers(0, RULES - 1), st.integers(0, CAPACITY - 1)), st.integers(1, 3), max_size=5
    ),
    now=st.integers(0, 10),
)
def test_the_worst_alert_that_fires_decides_and_then_the_first_crossing(
    crossings: list[list[tuple[float, ...]]],
    origins: list[int],
    rules: list[int],
    severities: dict[tuple[int, int], int],
    now: int,
) -> None:
    table = CrossingTable(RULES, CAPACITY)
    slots = np.arange(CAPACITY)
    for rule, of_rule in enumerate(crossings):
        table.put(rule, slots, np.array(of_rule))
    table.put_origins(slots, np.array(origins) * STEP_SECONDS)
    found = table.find_first(
        rules, make_firing(severities), step_seconds=STEP_SECONDS, horizon=HORIZON, now=float(now * STEP_SECONDS)
    )
    for slot in range(CAPACITY):
        ranges = [(-severities.get((rule, slot), 0), *crossings[rule][slot][1::-1]) for rule in rules]
        is_over = origins[slot] + HORIZON <= now
        crossing = [each for each in ranges if math.isfinite(each[2]) and not is_over]
        if not crossing:
            assert found.rules[slot] == NO_CROSSING
            assert math.isinf(found.earliest[slot])
            continue
        rule = int(found.rules[slot])
        assert rule in rules
        assert (-severities.get((rule, slot), 0), *crossings[rule][slot][1::-1]) == min(crossing)
        times = [each[slot] for each in found[1:]]
        assert times == [(origins[slot] + steps) * STEP_SECONDS for steps in crossings[rule][slot]]


def test_cleared_slots_cross_nothing() -> None:
    table = CrossingTable(1, 2)
    table.put(0, np.array([0, 1]), np.array([[0.5, 1.0, math.inf]] * 2))
    table.put_origins(np.array([0, 1]), np.array([600, 600]))
    table.clear(np.array([0]))
    found = table.find_first([0], NOTHING_FIRES, step_seconds=60, horizon=4, now=600.0)
    assert found.rules.tolist() == [NO_CROSSING, 0]
    assert found.earliest.tolist() == [math.inf, 630.0]


def test_all_crossings_of_a_server_are_listed_the_likely_ones_first() -> None:
    table = CrossingTable(4, 1)
    slot = np.array([0])
    for rule, crossing in enumerate(((1.0, math.inf, math.inf), (2.0, 3.0, math.inf), (0.0, 1.0, 2.0))):
        table.put(rule, slot, np.array([crossing]))
    table.put_origins(slot, np.array([600]))
    found = table.find_all([0, 1, 2, 3], 0, step_seconds=60)
    assert [(rule, times.tolist()) for rule, times in found] == [
        (2, [600.0, 660.0, 720.0]),
        (1, [720.0, 780.0, math.inf]),
        (0, [660.0, math.inf, math.inf]),
    ]
    assert [rule for rule, _ in table.find_all([0, 3], 0, step_seconds=60)] == [0]
