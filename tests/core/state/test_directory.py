"""Tests `streamd/core/state/directory.py`: the slot of each server, over restarts and damage."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.errors import InvalidServerError, NoCapacityError
from streamd.core.state.directory import (
    DIRECTORY_COLUMNS,
    MAX_SERVER_NAME_BYTES,
    SHORT_NAME_BYTES,
    VOLATILE_DIRECTORY_COLUMNS,
    Directory,
    check_server_name,
)
from streamd.core.state.layout import Layout, NamedArrays, make_zeros

NAMES = ["web-01", "web-02", "ä" * 128, "x" * 256, "s", " ", "数据库"]


def make_arrays(capacity: int = 3) -> NamedArrays:
    layout = Layout(DIRECTORY_COLUMNS, capacity, {})
    return layout.make_views(bytearray(layout.nbytes))


def come(directory: Directory, name: str, now: float) -> tuple[int, str | None]:
    """Admit a new server as `State.admit` does."""
    slot, forgotten = directory.find_slot()
    if forgotten is not None:
        directory.release(slot)
    directory.admit(slot, name, now)
    return slot, forgotten


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.booleans()), max_size=60), st.integers(1, 4))
def test_the_directory_is_a_dict_that_forgets_the_longest_silent_server(
    steps: list[tuple[str, bool]], capacity: int
) -> None:
    arrays = make_arrays(capacity)
    directory = Directory(arrays)
    seen: dict[str, float] = {}
    forgotten_slots = [0] * capacity
    for now, (name, restart) in enumerate(steps):
        if name in directory.slots:
            directory.touch(directory.slots[name], float(now))
        else:
            slot, forgotten = come(directory, name, float(now))
            assert forgotten == (min(seen, key=seen.__getitem__) if len(seen) == capacity else None)
            if forgotten is not None:
                del seen[forgotten]
                forgotten_slots[slot] += 1
        seen[name] = float(now)
        if restart:
            assert directory.generations.tolist() == forgotten_slots
            slots = dict(directory.slots)
            directory = Directory(arrays)
            forgotten_slots = [0] * capacity
            assert directory.slots == slots, "a restart finds every server in its slot"
            assert directory.unreadable == 0
        assert {name: directory.get_last_seen(slot) for name, slot in directory.slots.items()} == seen
        assert [name for name in directory.names if name] == sorted(seen, key=directory.slots.__getitem__)
        assert len(directory) == len(seen)


@given(
    st.lists(
        st.tuples(st.sampled_from(["come", "touch", "release", "limit"]), st.integers(0, 3), st.integers(0, 9)),
        max_size=40,
    ),
    st.integers(0, 5),
)
def test_a_newcomer_evicts_only_a_server_that_was_silent_for_long_enough(
    steps: list[tuple[str, int, int]], patience: int
) -> None:
    directory = Directory(make_arrays(3))
    seen: dict[str, float] = {}
    now = 0.0
    for number, (kind, which, passed) in enumerate(steps):
        now += passed
        names = sorted(seen)
        if kind == "come":
            oldest = min(seen.values(), default=0.0)
            if len(seen) == 3 and oldest > now - patience:
                with pytest.raises(NoCapacityError):
                    directory.find_slot(now - patience)
                continue
            slot, forgotten = directory.find_slot(now - patience)
            if forgotten is not None:
                assert seen.pop(forgotten) == oldest
                directory.release(slot)
            directory.admit(slot, f"server-{number}", now)
            seen[f"server-{number}"] = now
        elif kind == "limit":
            now = max(now - 3 * passed, 0.0)  # the clock was ahead
            directory.limit_last_seen(now)
            seen = {name: min(time, now) for name, time in seen.items()}
        elif names:
            name = names[which % len(names)]
            if kind == "touch":
                directory.touch(directory.slots[name], now)
                seen[name] = now
            else:
                directory.release(directory.slots[name])
                del seen[name]


def test_a_refused_newcomer_is_not_searched_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    directory = Directory(make_arrays())
    for now, name in enumerate(["a", "b", "c"]):
        come(directory, name, float(now))
    searches = 0

    def search(times: np.ndarray) -> int:
        nonlocal searches
        searches += 1
        return int(times.argmin())

    monkeypatch.setattr(np, "argmin", search)
    for _ in range(5):
        with pytest.raises(NoCapacityError, match="evict_after_seconds"):
            directory.find_slot(-1.0)
    assert searches <= 1
    assert directory.find_slot(0.0) == (0, "a")


@given(st.lists(st.sampled_from(NAMES), max_size=30), st.text(max_size=8))
def test_names_are_iterated_in_order_behind_any_text(coming: list[str], after: str) -> None:
    directory = Directory(make_arrays(len(NAMES)))
    for now, name in enumerate(coming):
        if name in directory.slots:
            directory.release(directory.slots[name])
        else:
            come(directory, name, float(now))
        for text in ("", after, name):
            assert list(directory.iterate_names(text)) == sorted(each for each in directory.slots if each > text)


def test_a_name_counts_only_once_it_is_complete() -> None:
    """A server whose admission was interrupted by a kill was not acknowledged: its slot is free again."""
    arrays = make_arrays()
    directory = Directory(arrays)
    slot, _ = directory.find_slot()
    directory.admit(slot, "web-01", 1.0)
    arrays["name_bytes"][slot] = 0  # as it was before the last write
    again = Directory(arrays)
    assert again.slots == {}
    assert again.find_slot() == (slot, None)


def break_utf8(arrays: NamedArrays) -> None:
    arrays["name"][1, 0] = 0xFF


def repeat_a_name(arrays: NamedArrays) -> None:
    arrays["name"][1] = arrays["name"][0]
    arrays["name_bytes"][1] = arrays["name_bytes"][0]


def lengthen_beyond_bounds(arrays: NamedArrays) -> None:
    arrays["name_bytes"][1] = MAX_SERVER_NAME_BYTES + 1


@pytest.mark.parametrize("damage", [break_utf8, repeat_a_name, lengthen_beyond_bounds])
def test_a_damaged_name_frees_only_its_slot(damage: Callable[[NamedArrays], None]) -> None:
    arrays = make_arrays()
    before = Directory(arrays)
    for now, name in enumerate(["a-server", "b-server", "c-server"]):
        come(before, name, float(now))
    damage(arrays)
    after = Directory(arrays)
    assert after.slots == {"a-server": 0, "c-server": 2}
    assert after.unreadable == 1
    assert after.find_slot() == (1, None)
    assert Directory(arrays).unreadable == 0, "it is freed in the file too"


def test_a_shorter_name_replaces_a_longer_one() -> None:
    arrays = make_arrays(1)
    directory = Directory(arrays)
    come(directory, "x" * 256, 1.0)
    come(directory, "short", 2.0)
    assert Directory(arrays).slots == {"short": 0}


def test_a_slot_that_is_not_the_next_is_refused() -> None:
    directory = Directory(make_arrays())
    with pytest.raises(AssertionError, match="not the next free one"):
        directory.admit(2, "a", 0.0)
    directory = Directory(make_arrays())
    with pytest.raises(AssertionError, match="free already"):
        directory.release(0)


@pytest.mark.parametrize("name", NAMES)
def test_good_names(name: str) -> None:
    check_server_name(name)


@pytest.mark.parametrize("name", ["", "x" * 257, "ä" * 129, "\ud800"])
def test_bad_names(name: str) -> None:
    with pytest.raises(InvalidServerError, match="server"):
        check_server_name(name)


def test_names_lie_in_the_arrays_as_utf8() -> None:
    arrays = make_arrays()
    come(Directory(arrays), "数据库", 5.0)
    stored = arrays["name"][0, : int(arrays["name_bytes"][0])]
    assert np.array_equal(stored, np.frombuffer("数据库".encode(), np.uint8))
    assert arrays["last_seen"][0] == 5.0


def test_generations_and_seeds_lie_in_arrays_that_others_may_share() -> None:
    shared = make_zeros(VOLATILE_DIRECTORY_COLUMNS, 3)
    directory = Directory(make_arrays(), shared)
    slot, _ = come(directory, "web-01", 1.0)
    seed = int(shared["seeds"][slot])
    assert seed > 0
    directory.expire(slot)
    assert (directory.get_generation(slot), shared["generations"].tolist()[slot]) == (1, 1)
    directory.release(slot)
    assert (directory.get_generation(slot), int(shared["seeds"][slot])) == (2, 0)
    come(directory, "web-01", 2.0)
    assert int(shared["seeds"][slot]) == seed, "it depends on the name only"


def test_a_short_name_does_not_touch_the_rest_of_the_names() -> None:
    arrays = make_arrays()
    directory = Directory(arrays)
    come(directory, "x" * SHORT_NAME_BYTES, 1.0)
    assert not arrays["name_rest"].any()
    come(directory, "y" * (SHORT_NAME_BYTES + 1), 2.0)
    assert arrays["name_rest"].sum() == ord("y")
