"""Tests `streamd/core/accuracy/history_selection.py`: one forecast in each period, of a bounded number of servers."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.accuracy.history_selection import HistoryLimits, HistorySelection

SLOTS = 6
Steps = list[int]


def make_selection(names: list[str | None] | None = None, **limits: object) -> HistorySelection:
    each = names or [f"web-{slot}" for slot in range(SLOTS)]
    return HistorySelection(HistoryLimits(**limits), lambda name: name.startswith("web"), each)  # type: ignore[arg-type]


def post(selection: HistorySelection, step: int, *slots: int) -> list[int]:
    """Post the forecasts of some slots from a step; returns the slots whose forecasts are kept."""
    places = selection.choose_places(np.array(slots), np.full(len(slots), step))
    return [slots[place] for place in places]


@given(
    every=st.integers(1, 9),
    first=st.integers(0, 50),
    gaps=st.lists(st.integers(1, 4), min_size=1, max_size=60),
)
def test_each_period_of_steps_has_one_forecast(every: int, first: int, gaps: list[int]) -> None:
    selection = make_selection(every_steps=every)
    steps = (first + np.cumsum(gaps)).tolist()
    kept = [step for step in steps if post(selection, step, 0)]
    phase = int(selection._phases[0])
    periods = [(step + phase) // every for step in kept]
    possible = {(step + phase) // every for step in steps}
    assert sorted(possible - {(steps[0] + phase) // every}) == periods, "all but the first, each once, in order"


def test_the_work_is_spread_over_the_steps_of_a_period() -> None:
    names: list[str | None] = [f"web-{number}" for number in range(2_000)]
    selection = make_selection(names, every_steps=36)
    slots = np.arange(2_000)
    counts = [len(selection.choose_places(slots, np.full(2_000, step))) for step in range(1_000, 1_108)]
    assert sum(counts[36:72]) == sum(counts[72:]) == 2_000
    assert counts[0] == 0, "a start keeps no forecast of each server at once"
    assert max(counts) < 100, "55 on average"


def test_servers_that_no_glob_selects_are_never_kept() -> None:
    selection = make_selection(["web-1", "db-1"], every_steps=1)
    for step in range(3):
        assert post(selection, step, 0, 1) == ([0] if step else [])
    assert (selection.servers, selection.left_out) == ({0: "web-1"}, 0)


def test_the_first_servers_take_the_places_and_the_others_are_counted() -> None:
    selection = make_selection(every_steps=1, max_servers=2)
    for step in range(5):
        post(selection, step, 3, 1, 2, 0)
    assert (set(selection.servers), selection.left_out) == ({3, 1}, 2)


def test_the_place_of_a_forgotten_server_is_taken_by_one_that_was_left_out() -> None:
    selection = make_selection(every_steps=1, max_servers=1)
    for step in range(2):
        post(selection, step, 0, 1, 2)
    assert selection.forget_server(0) == "web-0"
    assert post(selection, 2, 1, 2) == []
    assert post(selection, 3, 1, 2) == [1]
    assert (selection.servers, selection.left_out) == ({1: "web-1"}, 1)


def test_a_forgotten_server_that_was_left_out_is_counted_no_more() -> None:
    selection = make_selection(every_steps=1, max_servers=1)
    post(selection, 0, 0, 1, 2)
    assert selection.left_out == 2
    assert selection.forget_server(1) is None
    assert selection.left_out == 1


def test_a_restored_server_continues_its_periods() -> None:
    selection = make_selection(every_steps=10)
    assert selection.restore_server(0, 100)
    kept = [step for step in range(100, 131) if post(selection, step, 0)]
    assert len(kept) == 3
    assert kept[1] - kept[0] == kept[2] - kept[1] == 10


def test_a_server_is_not_restored_without_a_place() -> None:
    selection = make_selection(["web-0", "db-1", "web-2", None], max_servers=1)
    assert [selection.restore_server(slot, 100) for slot in range(4)] == [True, False, False, False]


def test_a_server_whose_rows_were_dropped_begins_with_an_earlier_step() -> None:
    selection = make_selection(every_steps=10)
    selection.restore_server(0, 10_000)
    assert not any(post(selection, step, 0) for step in range(100, 131)), "they look old"
    selection.restart_server(0)
    assert sum(bool(post(selection, step, 0)) for step in range(100, 131)) == 3


@given(st.lists(st.tuples(st.sampled_from(["post", "forget"]), st.integers(0, SLOTS - 1)), max_size=60))
def test_no_more_servers_are_kept_than_there_are_places(actions: list[tuple[str, int]]) -> None:
    selection = make_selection(every_steps=2, max_servers=3)
    kept: Counter[int] = Counter()
    for step, (action, slot) in enumerate(actions):
        if action == "post":
            kept.update(post(selection, step, slot))
        else:
            selection.forget_server(slot)
        assert len(selection.servers) <= 3
        left_out = set(np.flatnonzero(selection._periods == 2**62 - 1).tolist())
        assert (len(left_out), left_out & set(selection.servers)) == (selection.left_out, set())


@pytest.mark.parametrize(
    "limits", [{"every_steps": 0}, {"max_servers": -1}, {"settle_steps": -1}, {"retention_days": -1}]
)
def test_wrong_limits_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected"):
        HistoryLimits(**limits)  # type: ignore[arg-type]
