"""Tests `streamd/core/cluster/window_batches.py`: bytes that are no snapshot are refused, and change no window."""

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.cluster.formats import LaterFormatError
from streamd.core.cluster.window_batches import (
    decode_owner,
    decode_snapshot,
    encode_owner,
    pack_windows,
    read_head,
    restore_windows,
)
from streamd.core.errors import MalformedError
from streamd.core.state.layout import make_zeros
from streamd.core.state.recovery import find_damage
from streamd.core.state.rows import PackedRow
from streamd.core.state.window_columns import make_window_columns
from streamd.core.state.windows import WindowStore


def make_store(slots: int = 2) -> WindowStore:
    store = WindowStore(
        make_zeros(make_window_columns(4, 2), slots), need=1, late_steps=3, grace_seconds=10.0,
        seeds=np.arange(1, slots + 1, dtype=np.uint32),
    )  # fmt: skip
    for slot in range(slots):
        store.reset(slot)
    return store


def write(store: WindowStore, slot: int, step: int, values: tuple[float, float], status: int | None = None) -> None:
    mask = sum(1 << column for column, value in enumerate(values) if value == value)
    store.write_sample(slot, step, PackedRow(np.array(values, np.float32).tobytes(), mask), status, 0.0)


def pack(store: WindowStore) -> bytes:
    seen = np.array([5.0, 6.0])
    return pack_windows(store, {"web": 0, "db": 1}, seen, chunk=1, chunks=3, covered=9, time=7.5, fence=2)


def make_snapshot() -> bytes:
    store = make_store()
    for step in range(3, 9):
        write(store, 0, step, (float(step), 1.0), step % 3)
    write(store, 0, 9, (9.0, float("nan")), 2)
    write(store, 1, 5, (1.0, float("nan")))
    return pack(store)


SNAPSHOT = make_snapshot()


def test_windows_come_back_at_other_slots() -> None:
    store = make_store()
    restore_windows(store, decode_snapshot(SNAPSHOT, 2), [1, 0], 0.0)
    again = pack_windows(
        store, {"web": 1, "db": 0}, np.array([6.0, 5.0]), chunk=1, chunks=3, covered=9, time=7.5, fence=2
    )
    assert again == SNAPSHOT
    assert not find_damage(store, [0, 1])
    head = read_head(SNAPSHOT)
    assert (head.chunk, head.chunks, head.covered, head.time, head.fence) == (1, 3, 9, 7.5, 2)


def test_a_server_may_be_left_out() -> None:
    store = make_store()
    restore_windows(store, decode_snapshot(SNAPSHOT, 2), [None, 1], 0.0)
    assert store.get_latest_step(0) == -1
    assert store.get_latest_step(1) == 5


def test_an_open_row_goes_on() -> None:
    store = make_store()
    restore_windows(store, decode_snapshot(SNAPSHOT, 2), [0, 1], 0.0)
    write(store, 0, 9, (float("nan"), 4.0))
    assert (store.get_newest_step(0), store.read_row(0, 9).tolist()) == (9, [9.0, 4.0])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "has 0 bytes"),
        (b"\x01\x01\0\0\0\0", "is of kind 1, expected 2"),
        (b"\x02\x01\x01\0\0\0\xff", "the head of a snapshot is unreadable"),
        (SNAPSHOT[:-1], "takes .* bytes, and it has"),
        (SNAPSHOT + b"x", "takes .* bytes, and it has"),
    ],
)
def test_what_is_no_snapshot_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(MalformedError, match=reason):
        decode_snapshot(data, 2)


def test_windows_of_another_contract_are_refused() -> None:
    with pytest.raises(MalformedError, match="have 2 features, expected 3"):
        decode_snapshot(SNAPSHOT, 3)


@given(st.lists(st.tuples(st.integers(0, len(SNAPSHOT) - 1), st.integers(0, 255)), max_size=5))
def test_damaged_bytes_are_refused_or_are_valid_windows(changes: list[tuple[int, int]]) -> None:
    data = bytearray(SNAPSHOT)
    for place, value in changes:
        data[place] = value
    store = make_store()
    with contextlib.suppress(MalformedError, LaterFormatError):
        snapshot = decode_snapshot(bytes(data), 2)
        slots: list[int | None] = [0, 1]
        restore_windows(store, snapshot, (slots + [None] * 99)[: len(snapshot.head.servers)], 0.0)
        assert not find_damage(store, [0, 1])


def test_the_marker_of_an_owner_is_read_back() -> None:
    assert decode_owner(encode_owner(2**40)) == 2**40


@pytest.mark.parametrize("data", [b"", SNAPSHOT, encode_owner(1)[:-1], b"\x02" + encode_owner(1)[1:]])
def test_what_is_no_marker_of_an_owner_is_named(data: bytes) -> None:
    with pytest.raises(MalformedError, match="an owner's marker has"):
        decode_owner(data)
