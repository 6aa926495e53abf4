"""Tests `streamd/runtime/state/state.py`: space for servers, eviction, and the files of the state."""

import errno
import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from streamd.core.errors import StorageError
from streamd.core.state.layout import Column, Layout
from streamd.core.state.window_columns import NO_STEP
from streamd.runtime.state.mapped_file import StateFile, open_state_file
from streamd.runtime.state.state import WindowLimits
from tests.support.contracts import make_contract
from tests.support.state_files import (
    LIMITS,
    NOW,
    fill,
    fill_the_disk,
    opened,
    rows_of,
    send,
    whole,
    window_of,
)

SAME = make_contract()


# ---------------------------------------------------------------- a full disk
def test_a_full_disk_evicts_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path) as state:
        names = [f"web-{number}" for number in range(LIMITS.capacity)]
        for name in names:
            fill(state, name, 3)
    with opened(tmp_path) as state:  # it does not know which pieces of the file have space
        generations = state.directory.generations.tolist()
        fill_the_disk(monkeypatch)
        with pytest.raises(StorageError, match="no space") as caught:
            send(state, "one-more", 100, whole(1.0))
        assert caught.value.retry
        assert sorted(state.directory.slots) == sorted(names)
        assert state.directory.generations.tolist() == generations
        for name in names:
            assert len(rows_of(state, name)) == 3
        assert send(state, names[0], 103, whole(1.0)) == 1, "known servers go on"
        monkeypatch.undo()
        send(state, "one-more", 100, whole(1.0))
        assert "one-more" in state.directory.slots


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_that_cannot_reserve_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    fill_the_disk(monkeypatch, code)
    with opened(tmp_path) as state:
        fill(state, "web-01", 3)
        assert len(rows_of(state, "web-01")) == 3


@pytest.mark.parametrize("has_space_for_pieces", [True, False])
def test_a_slot_is_reserved_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_space_for_pieces: bool
) -> None:
    reserved: dict[int, list[tuple[int, int]]] = {}

    def reserve(fd: int, offset: int, size: int) -> None:
        if size > mmap.PAGESIZE and not has_space_for_pieces:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        reserved.setdefault(fd, []).append((offset, offset + size))

    monkeypatch.setattr(os, "posix_fallocate", reserve)
    with opened(tmp_path) as state:
        slot, _ = state.admit("web-01", NOW)
        files = (state.windows_file, state.board_file)
        assert len(reserved) == len(files)
        for file, ranges in zip(files, reserved.values(), strict=True):
            for offset, size in file.layout.list_slot_extents(slot):
                assert any(start <= offset and offset + size <= end for start, end in ranges)


def test_a_piece_of_a_file_is_reserved_once_for_all_of_its_slots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserved: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "posix_fallocate", lambda fd, offset, size: reserved.append((fd, offset)))
    with opened(tmp_path) as state:
        for number in range(LIMITS.capacity):
            state.admit(f"web-{number}", NOW)
    assert len(set(reserved)) == len(reserved) == 2, "each file is smaller than a piece"


# ---------------------------------------------------------------- capacity
def test_the_longest_silent_server_is_evicted_and_its_slot_emptied(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        for number in range(LIMITS.capacity):
            slot = fill(state, f"web-{number}", 3, now=NOW + number)
            state.board.post(slot, 102, 3, b"model", np.zeros(SAME.forecast_shape, np.float32))
        fill(state, "web-0", 1, first_step=103, now=NOW + 50)
        slot, forgotten = state.admit("one-more", NOW + 60)
        assert forgotten == "web-1"
        assert state.directory.names[slot] == "one-more"
        assert state.windows.get_newest_step(slot) == NO_STEP
        assert state.windows.have[slot] == 0
        assert state.board.get_forecast(slot) is None
        assert np.isnan(window_of(state, "one-more")).all()


# ---------------------------------------------------------------- the file itself
def test_a_file_can_be_closed_twice_and_flushed_afterwards(tmp_path: Path) -> None:
    layout = Layout((Column("a", "<f4"),), 4, {"kind": "test"})
    file, aside = open_state_file(tmp_path / "a" / "b" / "file", layout)
    assert aside is None
    assert file.is_new
    file.map_arrays()["a"][2] = 5.0
    file.flush()
    file.close()
    file.close()
    file.flush()
    again = StateFile(file.path, layout)
    assert not again.is_new
    assert again.identifier == file.identifier
    assert again.map_arrays()["a"].tolist() == [0.0, 0.0, 5.0, 0.0]
    again.close()


def test_a_file_is_sparse_until_it_is_used(tmp_path: Path) -> None:
    limits = WindowLimits(capacity=20_000, need=1)
    contract = make_contract(context_length=288)
    with opened(tmp_path, contract, limits) as state:
        before = os.stat(state.windows_file.path)
        assert before.st_size > 90 * 2**20
        fill(state, "web-01", 3)
        # A server takes a piece of each large column at first; the next servers find their space in it.
        assert os.stat(state.windows_file.path).st_blocks * 512 < 12 * 2**20
