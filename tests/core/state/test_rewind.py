"""Tests `streamd/core/state/recovery.py` (`rewind`) and `streamd/core/state/ahead_servers.py`.

Rows ahead of the clock are dropped and all others stay, even if the process is killed meanwhile.
"""

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from streamd.core.state.ahead_servers import AheadServers
from streamd.core.state.recovery import rewind
from streamd.core.state.window_columns import NO_STEP
from tests.support.fleet_scripts import SLOTS, Event, Sizes, Twins, check_slot, events, row_of, sizes
from tests.support.naive_windows import NaiveServer
from tests.support.watched_memory import check_sound, make_fed_memory, restart

BACK = st.integers(0, 9)
SECONDS = 100.0


def rewind_naively(server: NaiveServer, last_step: int) -> int:
    """Keep the rows that the ring still has, up to a step; returns how many are dropped."""
    if server.latest is None or server.latest <= last_step:
        return 0
    held = {step: row for step, row in server.rows.items() if row.values or row.status}
    if server.newest is None:
        held = {step: row for step, row in held.items() if step == server.filling}
    else:
        oldest = server.newest - server.context_length
        held = {step: row for step, row in held.items() if step > oldest}
    dropped = sum(step > last_step and step != server.filling for step in held)
    if server.filling is not None and server.filling > last_step:
        server.filling = None
        dropped += 1
    server.rows = {step: row for step, row in held.items() if step <= last_step}
    if server.newest is not None and server.newest > last_step:
        server.newest = max((step for step in server.rows if step != server.filling), default=None)
    return dropped


def fed(lengths: Sizes, sequence: list[Event]) -> Twins:
    twins = Twins.make(lengths)
    for event in sequence:
        twins.feed(event)
    return twins


@given(sizes(), events(), BACK, events(max_size=20))
def test_rows_that_are_not_ahead_stay_and_the_window_continues(
    lengths: Sizes, sequence: list[Event], back: int, later: list[Event]
) -> None:
    twins = fed(lengths, sequence)
    server = twins.naive[0]
    last_step = max((server.latest or 0) - back, 0)
    dropped = rewind(twins.store, 0, last_step)
    assert dropped == rewind_naively(server, last_step)
    twins.check()
    check_sound(twins.store, 0)
    for event in later:
        found, expected = twins.feed(event)
        assert found == expected
        twins.check()


@given(sizes(), events(min_size=5, max_size=25), BACK, st.booleans())
def test_a_rewind_killed_at_any_store_is_repeated(
    lengths: Sizes, sequence: list[Event], back: int, is_shared: bool
) -> None:
    memory, twins = make_fed_memory(lengths, sequence)
    last_step = max((twins.naive[0].latest or 0) - back, 0)
    memory.watch()
    rewind(memory.store, 0, last_step)
    rewind_naively(twins.naive[0], last_step)
    for arrays in memory.after_some_stores():
        store, _ = restart(lengths, arrays, list(range(SLOTS)), twins.now, is_shared=is_shared)
        for slot in range(SLOTS):
            check_sound(store, slot)
        if store.get_latest_step(0) > last_step:
            rewind(store, 0, last_step)
        check_slot(store, 0, twins.naive[0])
        check_sound(store, 0)


def test_late_rows_behind_a_row_ahead_make_a_window_at_once() -> None:
    lengths = Sizes(8, 2, 99)
    store = lengths.store(lengths.arrays())
    store.reset(0)
    whole = {0: 1.0, 1: 2.0, 2: 3.0}
    assert store.write_sample(0, 107, row_of(whole), None, 0.0) == 0
    for step in (101, 102, 103):
        assert store.write_sample(0, step, row_of(whole), None, 0.0) == 0, "accepted, and never due"
    assert rewind(store, 0, 104) == 1
    assert (store.get_newest_step(0), store.have[0]) == (103, 3)
    assert store.write_sample(0, 104, row_of(whole), None, 0.0) == 1


# ---------------------------------------------------------------- servers that lie ahead
STEPS = st.lists(st.integers(NO_STEP, 6), min_size=4, max_size=4)


@given(STEPS, STEPS, st.integers(-1, 7), st.integers(-1, 7))
@example([5, NO_STEP, 5, NO_STEP], [NO_STEP, 5, NO_STEP, NO_STEP], 4, 4)
def test_servers_ahead_are_found_once(newest: list[int], open_step: list[int], first: int, second: int) -> None:
    names = ["a", "b", None, "d"]
    ahead = AheadServers(names, np.array(newest), np.array(open_step))
    latest = dict(enumerate(map(max, newest, open_step)))

    def beyond(step: int) -> set[int]:
        return {slot for slot, name in enumerate(names) if name and latest[slot] > step}

    assert set(ahead.refresh(first)) == set(ahead.contradicted_since) == beyond(first)
    assert set(ahead.refresh(second)) == beyond(second) - beyond(first)
    assert set(ahead.contradicted_since) == beyond(second)


def test_a_server_ahead_is_refuted_once_it_was_contradicted_for_long_enough() -> None:
    ahead = AheadServers(["a", "b"], np.array([9, 9]), np.array([NO_STEP, NO_STEP]))
    ahead.refresh(5)
    assert not ahead.is_refuted(0, SECONDS, 0.0), "nothing contradicts it yet: the clock may be behind"
    ahead.contradict(0, SECONDS)
    ahead.contradict(0, SECONDS + 50)
    assert not ahead.is_refuted(0, SECONDS + 59, 60.0)
    assert ahead.is_refuted(0, SECONDS + 60, 60.0)
    assert not ahead.is_refuted(0, SECONDS + 1e9, float("inf"))
    assert not ahead.is_refuted(1, SECONDS + 60, 60.0)
    ahead.refresh(6)
    assert ahead.is_refuted(0, SECONDS + 60, 60.0), "looking again does not begin anew"
    ahead.forget(0)
    ahead.refresh(6)
    assert not ahead.is_refuted(0, SECONDS + 60, 60.0)
