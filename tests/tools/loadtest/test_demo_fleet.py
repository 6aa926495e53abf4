"""Tests `streamd/tools/loadtest/demo_fleet.py`: the stretch of the recording, and the rows that follow in real time."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamd.tools.fleets.fleet import RecordedFleet
from streamd.tools.loadtest.demo_fleet import MAX_OVERDUE_STEPS, LiveRows, choose_stretch

STEP_SECONDS = 300
NEXT_STEP = 1_000


def make_fleet(servers: int = 2, steps: int = 864, first_step: int = 0) -> RecordedFleet:
    series = np.arange(servers * steps, dtype=np.float32).reshape(servers, steps, 1)
    names = tuple(f"server-{number}" for number in range(servers))
    return RecordedFleet(names, ("cpu_user",), first_step, series)


def test_without_a_time_the_recording_begins_at_its_own_first_row() -> None:
    stretch = choose_stretch(make_fleet(first_step=77), 288, STEP_SECONDS, None)
    assert (stretch.sent.first_step, stretch.sent.steps) == (77, 408)


def test_a_demo_of_the_present_ends_just_before_the_first_row_that_is_due() -> None:
    now = 1_700_000_123.0
    stretch = choose_stretch(make_fleet(), 288, STEP_SECONDS, now)
    assert (stretch.begin, stretch.end) == (252, 660)
    next_step = stretch.sent.first_step + stretch.sent.steps
    assert (next_step + 1) * STEP_SECONDS <= now < (next_step + 2) * STEP_SECONDS
    assert stretch.sent.series[0, -1, 0] == 659


def test_a_short_recording_is_sent_whole() -> None:
    stretch = choose_stretch(make_fleet(steps=300), 288, STEP_SECONDS, 1e9)
    assert (stretch.begin, stretch.end) == (0, 300)


def test_the_rows_of_the_servers_are_spread_over_a_step() -> None:
    rows = LiveRows(make_fleet(), NEXT_STEP, STEP_SECONDS)
    begin = (NEXT_STEP + 1) * STEP_SECONDS
    assert rows.find_next_time() == begin + 75
    assert rows.list_due(begin + 74) == []
    assert rows.list_due(begin + 75) == [(0, NEXT_STEP)]
    assert rows.list_due(begin + 225) == [(0, NEXT_STEP), (1, NEXT_STEP)]
    rows.mark_sent([(0, NEXT_STEP)])
    assert rows.find_next_time() == begin + 225


def test_after_its_last_row_the_recording_begins_again() -> None:
    rows = LiveRows(make_fleet(first_step=NEXT_STEP - 863), NEXT_STEP, STEP_SECONDS)
    assert rows.read_row(1, NEXT_STEP) == {"cpu_user": 864 + 863.0}
    assert rows.read_row(1, NEXT_STEP + 1) == {"cpu_user": 864.0}


def test_a_missing_value_is_left_out() -> None:
    fleet = make_fleet()
    fleet.series[0, 0, 0] = np.nan
    assert LiveRows(fleet, 0, STEP_SECONDS).read_row(0, 0) == {}


def test_after_a_long_sleep_only_rows_that_the_daemon_takes_are_sent() -> None:
    rows = LiveRows(make_fleet(servers=1), NEXT_STEP, STEP_SECONDS)
    due = rows.list_due((NEXT_STEP + 5_001.5) * STEP_SECONDS)
    assert (len(due), due[-1]) == (MAX_OVERDUE_STEPS, (0, NEXT_STEP + 5_000))


@given(waits=st.lists(st.floats(0, 3 * STEP_SECONDS), max_size=20), servers=st.integers(1, 5))
def test_each_row_is_due_once_and_not_before_its_time(waits: list[float], servers: int) -> None:
    rows = LiveRows(make_fleet(servers), NEXT_STEP, STEP_SECONDS)
    now = float(NEXT_STEP * STEP_SECONDS)
    sent: list[tuple[int, int]] = []
    for wait in waits:
        now += wait
        due = rows.list_due(now)
        assert all(rows.find_time(*row) <= now + 1e-3 for row in due)
        rows.mark_sent(due)
        sent += due
        assert rows.find_next_time() > now - 1e-3
    for server in range(servers):
        steps = [step for each, step in sent if each == server]
        assert steps == list(range(NEXT_STEP, NEXT_STEP + len(steps)))
