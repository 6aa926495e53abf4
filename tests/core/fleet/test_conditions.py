"""Tests `streamd/core/fleet/conditions.py`: conditions against their definitions, one server at a time."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.fleet.conditions import Condition, count_conditions, find_conditions
from streamd.core.state.window_columns import NO_STEP

STEP_SECONDS, NEED = 300, 3
SERVERS = st.lists(
    st.tuples(st.integers(0, 6), st.integers(NO_STEP, 20), st.integers(NO_STEP, 20)), min_size=1, max_size=12
)


def find(servers: list[tuple[int, int, int]], now: float) -> list[int]:
    have, newest, forecast_steps = (np.array(column, np.int64) for column in zip(*servers, strict=True))
    found: list[int] = find_conditions(
        have=have, need=NEED, newest=newest, forecast_steps=forecast_steps, now=now, step_seconds=STEP_SECONDS
    ).tolist()
    return found


def define(have: int, newest: int, forecast_step: int, now: float) -> Condition:
    if have < NEED:
        return Condition.WARMING
    if forecast_step == NO_STEP:
        return Condition.PENDING
    return Condition.STALE if now > (newest + 1 + 3) * STEP_SECONDS else Condition.CURRENT


@given(SERVERS, st.integers(0, 30 * STEP_SECONDS))
def test_conditions_are_as_they_are_defined(servers: list[tuple[int, int, int]], now: int) -> None:
    assert find(servers, float(now)) == [define(*server, now=float(now)) for server in servers]


def test_a_server_is_stale_when_its_newest_row_ended_more_than_three_steps_ago() -> None:
    end = 11 * STEP_SECONDS
    assert find([(5, 10, 10)], end + 3.0 * STEP_SECONDS) == [Condition.CURRENT]
    assert find([(5, 10, 10)], end + 3.0 * STEP_SECONDS + 1) == [Condition.STALE]


def test_each_condition_is_counted_by_its_name() -> None:
    codes = np.array([Condition.STALE, Condition.STALE, Condition.CURRENT], np.int8)
    assert count_conditions(codes) == {"pending": 0, "stale": 2, "warming": 0, "current": 1}
    assert count_conditions(codes[:0]) == {"pending": 0, "stale": 0, "warming": 0, "current": 0}
