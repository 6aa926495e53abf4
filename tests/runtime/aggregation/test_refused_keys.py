"""Tests `streamd/runtime/aggregation/refused_keys.py`."""

from collections.abc import Hashable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.runtime.aggregation.refused_keys import REPLACE_EVERY, RefusedKeys

KEYS = st.one_of(st.binary(max_size=40), st.tuples(st.text(max_size=9), st.integers(0, 3)))


def test_a_series_is_found_by_its_protocol_and_key_until_it_is_removed() -> None:
    keys = RefusedKeys()
    keys.add("p", b"key", "web-01")
    assert keys.find_server("p", b"key") == "web-01"
    assert keys.find_server("q", b"key") is None
    keys.remove("p", b"key")
    keys.remove("p", b"key")
    assert (keys.find_server("p", b"key"), len(keys)) == (None, 0)


@given(st.lists(st.tuples(st.booleans(), KEYS), max_size=60))
def test_its_size_is_bounded_and_counted_exactly(steps: list[tuple[bool, Hashable]]) -> None:
    keys = RefusedKeys(max_bytes=3_000)
    for is_added, key in steps:
        if is_added:
            keys.add("p", key, "s")
        else:
            keys.remove("p", key)
        assert 0 <= keys._bytes <= 3_000
        assert (keys._bytes == 0) == (len(keys) == 0)
    for _, key in steps:
        keys.remove("p", key)
    assert (keys._bytes, len(keys)) == (0, 0)


@pytest.mark.parametrize("size", [300, 1_000])
def test_a_fleet_that_is_too_large_for_it_finds_a_share_of_its_keys(size: int) -> None:
    """With the oldest replaced each time, it would find none."""
    keys = RefusedKeys(max_bytes=200 * 400)
    for _ in range(3):
        found = 0
        for number in range(size):
            found += keys.find_server("p", number) is not None
            keys.add("p", number, "s")
    assert found > 0.5 * len(keys)


def test_keys_that_never_come_again_are_replaced() -> None:
    keys = RefusedKeys(max_bytes=100 * 400)
    for number in range(1_000):
        keys.add("p", ("old", number), "s")
    for number in range(REPLACE_EVERY * 200):
        keys.add("p", number, "s")
    assert all(keys.find_server("p", ("old", number)) is None for number in range(1_000))
