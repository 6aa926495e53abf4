"""Tests `streamd/core/fleet/ranking.py`: the orders against Python's sort by the same keys."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.fleet.conditions import Condition
from streamd.core.fleet.ranking import rank_by_age, rank_worst
from streamd.core.state.window_columns import NO_STEP

TIMES = st.integers(0, 3).map(float) | st.just(math.inf)
SERVERS = st.lists(st.tuples(st.integers(0, 3), TIMES, TIMES, st.sampled_from(Condition)), max_size=14)


@given(SERVERS, st.randoms(use_true_random=False))
def test_worst_first_is_by_severity_then_crossing_then_condition_then_name(
    servers: list[tuple[int, float, float, Condition]], random: object
) -> None:
    names = list(range(len(servers)))
    random.shuffle(names)  # type: ignore[attr-defined]
    severities, likely, earliest, conditions = (
        [np.array(column) for column in zip(*servers, strict=True)] if servers else [np.empty(0)] * 4
    )
    ranked = rank_worst(
        np.array(names, np.int64),
        severities=severities.astype(np.int8),
        likely=likely,
        earliest=earliest,
        conditions=conditions.astype(np.int8),
    )
    place = {slot: number for number, slot in enumerate(names)}

    def key(slot: int) -> tuple[float, ...]:
        severity, likely_at, earliest_at, condition = servers[slot]
        return -severity, likely_at, earliest_at, condition, place[slot]

    assert ranked.tolist() == sorted(names, key=key)


@given(st.lists(st.integers(NO_STEP, 4), max_size=12))
def test_the_oldest_forecast_is_first_and_servers_without_one_are_last(steps: list[int]) -> None:
    ranked = rank_by_age(np.arange(len(steps)), np.array(steps, np.int64))
    expected = sorted(range(len(steps)), key=lambda slot: (steps[slot] == NO_STEP, steps[slot], slot))
    assert ranked.tolist() == expected
