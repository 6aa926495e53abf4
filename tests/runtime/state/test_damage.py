"""Tests `streamd/runtime/state`: damaged files.

After one damaged field, windows are right, or their slot is freed and counted, or the file is set aside and named.

Every byte of every scalar of every used slot is damaged in turn, and every byte of both headers. Every bit of every
column is damaged in memory: `tests/core/state/test_repairs.py`.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamd.core.state import board, window_columns
from streamd.core.state.directory import DIRECTORY_COLUMNS
from streamd.core.state.layout import HEADER_BYTES, Layout, parse_header
from streamd.core.state.window_columns import NO_STEP
from streamd.runtime.state.mapped_file import ForeignLayoutError, StateFile
from streamd.runtime.state.migration import make_windows_layout
from streamd.runtime.state.state import State
from tests.support.contracts import make_contract
from tests.support.kill_points import EXHAUSTIVE
from tests.support.state_files import LIMITS, NOW, fill, opened, rows_of, send, whole

CONTRACT = make_contract()
WINDOWS = make_windows_layout(list(CONTRACT.features), 8, 300, LIMITS.capacity)
BOARD = Layout(board.make_board_columns(CONTRACT), LIMITS.capacity, {})
SERVERS = ("web-01", "web-02", "web-03")

Damage = tuple[str, int, int]
"""A file's name, the position of a byte in it, and the mask that the byte is XORed with."""


@dataclass
class SoundState:
    """The files of a sound state, and its content by server."""

    folder: Path
    files: dict[str, bytes]
    servers: dict[str, Any]

    def damage(self, *places: Damage) -> None:
        """Restore the sound files, and damage them."""
        for path in self.folder.iterdir():
            if path.name not in self.files:
                path.unlink()
        for name, content in self.files.items():
            copy = bytearray(content)
            for file, place, bits in places:
                if file == name:
                    copy[place] ^= bits
            write_over(self.folder / name, copy)


def write_over(path: Path, content: bytes | bytearray) -> None:
    """Write a file in place: to free the pages of the former content takes ten times as long."""
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o640), "r+b") as file:
        file.write(content)
        if os.fstat(file.fileno()).st_size != len(content):
            file.truncate()


@pytest.fixture(name="sound")
def make_sound_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SoundState:
    """Make three servers: one with a forecast, one with an open row and older ones, one with an open row only."""
    for name in ("fdatasync", "fsync"):  # thousands of files are opened, and need not reach the disk
        monkeypatch.setattr(os, name, lambda fd: None)
    with opened(tmp_path) as state:
        slot = fill(state, "web-01", 12)
        state.board.post(slot, 111, 8, b"model", np.ones(CONTRACT.forecast_shape, np.float32))
        fill(state, "web-02", 3, first_step=200)
        send(state, "web-02", 204, {"cpu": 5.0}, status=5)
        send(state, "web-03", 300, {"mem": 1.0})
        servers = {name: describe(state, name) for name in SERVERS}
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    return SoundState(tmp_path, files, servers)


def describe(state: State, server: str) -> Any:
    """Return the content of a server's window, closed and open rows."""
    slot, arrays = state.directory.slots[server], state.windows.arrays
    statuses = np.empty(8, np.int32)
    state.windows.gather_window(slot, np.empty((8, 3), np.float32), statuses)
    open_step = int(arrays["open_step"][slot])
    still_open = (open_step, *arrays["open_values"][slot].tolist(), int(arrays["open_status"][slot]) & 15)
    rows = rows_of(state, server) if state.windows.get_newest_step(slot) != NO_STEP else {}
    return str(
        (rows, statuses.tolist(), state.windows.get_newest_step(slot), still_open if open_step != NO_STEP else None)
    )


def generate_damage(layout: Layout, file: str) -> Iterator[tuple[str, int, Damage]]:
    """Yield (column, slot, damage): a bit of each byte of each used slot's scalars; of the first, all bits too."""
    for column in layout.columns:
        if column.shape and column.name != "name":
            continue
        size = column.count_bytes(1)
        for slot in range(len(SERVERS)):
            first = layout.offsets[column.name] + slot * size
            used = len(SERVERS[0]) if column.name == "name" else size
            for place in range(first, first + used):
                for bits in choose_masks(place, is_first=slot == 0):
                    yield column.name, slot, (file, place, bits)


def choose_masks(place: int, *, is_first: bool) -> tuple[int, ...]:
    if EXHAUSTIVE:
        return (*(1 << bit for bit in range(8)), 0xFF)
    return (1 << place % 8, 0xFF) if is_first else (1 << place % 8,)


def check_usable(state: State) -> None:
    """Check that every server takes rows and becomes due, also a freed one, and that forecasts can be posted."""
    for server in SERVERS:
        slot = state.directory.slots.get(server)
        latest = 400 if slot is None else state.windows.get_latest_step(slot)
        due = sum(send(state, server, latest + ahead, whole(1.0)) for ahead in (1, 2, 3))
        slot = state.directory.slots[server]
        assert due >= 2, server
        assert slot in state.find_unforecast(), server
        serial = state.board.post(slot, latest + 3, 2, b"model", np.zeros(CONTRACT.forecast_shape, np.float32))
        assert state.board.find_later_than(serial - 1).tolist() == [slot], server


def test_each_damaged_scalar_of_the_windows_is_handled(sound: SoundState) -> None:
    lost: set[str] = set()
    for column, slot, damage in generate_damage(WINDOWS, "windows.streamd"):
        sound.damage(damage)
        with opened(sound.folder) as state:
            where = (column, slot, damage)
            assert state.set_aside == [], where
            missing = set(SERVERS) - set(state.directory.slots)
            assert missing <= {SERVERS[slot]}, where
            assert state.recovered["unreadable"] == len(missing), where
            assert set(state.directory.slots) <= set(SERVERS), where
            changed = {name for name in state.directory.slots if describe(state, name) != sound.servers[name]}
            assert changed <= {SERVERS[slot]}, where
            assert state.recovered["lost_rows"] == len(changed), "an open row that nothing proves"
            check_usable(state)
            if missing or changed:
                lost.add(column)
    assert lost == {"name", "name_bytes", "name_check", "last_seen", "open_status", "open_seal"}


def test_each_damaged_scalar_of_the_forecasts_is_handled(sound: SoundState) -> None:
    dropped: set[str] = set()
    for column, slot, damage in generate_damage(BOARD, "forecasts.streamd"):
        sound.damage(damage)
        with opened(sound.folder) as state:
            where = (column, slot, damage)
            assert {server: describe(state, server) for server in SERVERS} == sound.servers, where
            assert state.recovered["unreadable"] == 0, where
            forecast = state.board.get_forecast(0)
            if forecast is None:
                assert 0 in state.find_unforecast(), where
                dropped.add(column)
            elif forecast.step != 111:
                assert 0 in state.find_unforecast(), "it is computed again at once"
            assert state.board.unreadable <= 1, where
            check_usable(state)
    assert {"serial", "step", "context", "model"} <= dropped


@pytest.mark.parametrize("file", ["windows.streamd", "forecasts.streamd"])
def test_each_damaged_byte_of_a_header_is_handled(sound: SoundState, file: str) -> None:
    size = sound.files[file].index(b"\0")
    places = [*range(size), size, size + 9, HEADER_BYTES - 1]
    for damage in ((file, place, 0xFF if place % 5 == 0 else 1 << place % 8) for place in places):
        sound.damage(damage)
        before = (sound.folder / file).read_bytes()
        with opened(sound.folder) as state:
            if state.set_aside:
                (aside,) = state.set_aside
                assert Path(aside).read_bytes() == before, damage
                assert Path(aside).name.startswith(file), damage
            if file == "windows.streamd" and state.set_aside:
                assert len(state.directory) == 0, damage
            else:
                assert {server: describe(state, server) for server in SERVERS} == sound.servers, damage
            check_usable(state)
        if damage[1] % 8 == 0:
            with opened(sound.folder) as state:
                assert state.set_aside == [], "once"


@pytest.mark.skipif(not EXHAUSTIVE, reason="takes minutes: set EXHAUSTIVE=1")
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("file", ["windows.streamd", "forecasts.streamd"])
def test_each_damaged_byte_of_a_whole_file_gives_no_wrong_number(sound: SoundState, file: str) -> None:
    """Every row and forecast that is there after the damage is one of the sound state."""
    sound.damage()
    with opened(sound.folder) as state:
        rows = {server: rows_of(state, server) for server in SERVERS[:2]}
    found = 0
    for place in range(len(sound.files[file])):
        for bits in (1 << place % 8, 0xFF):
            where = (file, place, bits)
            sound.damage(where)
            with opened(sound.folder) as state:
                found += bool(state.set_aside or any(state.recovered[key] for key in ("unreadable", "lost_rows")))
                for server, slot in state.directory.slots.items():
                    if state.windows.get_newest_step(slot) != NO_STEP:
                        there = rows_of(state, server)
                        assert there == {step: rows[server][step] for step in there}, where
                    forecast = state.board.get_forecast(slot)
                    if forecast is not None:
                        assert (server, forecast.step, forecast.context) == ("web-01", 111, 8), where
                        assert (forecast.values == 1.0).all(), where
    assert found > 0


def test_files_set_aside_do_not_replace_each_other(sound: SoundState) -> None:
    for number in (1, 2):
        (sound.folder / "windows.streamd").write_bytes(bytes([number]) * HEADER_BYTES)
        with opened(sound.folder) as state:
            assert state.set_aside == [str(sound.folder / f"windows.streamd.{number}.old")]
    for number in (1, 2):
        assert (sound.folder / f"windows.streamd.{number}.old").read_bytes() == bytes([number]) * HEADER_BYTES


def test_damage_is_found_when_windows_are_carried_over(sound: SoundState) -> None:
    place = WINDOWS.offsets["newest"]
    sound.damage(("windows.streamd", place, 1))
    with opened(sound.folder, limits=replace(LIMITS, capacity=9)) as state:
        assert set(state.directory.slots) == set(SERVERS)
        assert rows_of(state, "web-01") == {step: whole(float(step)) for step in range(104, 112)}
        assert (state.recovered["unreadable"], state.recovered["lost_rows"]) == (0, 0)


def test_every_scalar_column_is_damaged_above() -> None:
    """A new column must be added to these tests."""
    scalars = {
        column.name for column in (*DIRECTORY_COLUMNS, *window_columns.make_window_columns(8, 3)) if not column.shape
    }
    damaged = {column for column, _, _ in generate_damage(WINDOWS, "windows.streamd")}
    assert scalars | {"name"} == damaged
    assert NOW < 1e9


@pytest.mark.parametrize("file", ["windows.streamd", "forecasts.streamd"])
def test_a_file_that_was_cut_off_is_never_taken_for_a_state(sound: SoundState, file: str) -> None:
    sound.damage()
    layout = replace_identity(sound, file)
    path = sound.folder / file
    edges = {edge + more for edge in range(0, len(sound.files[file]) + 1, 4_096) for more in range(-9, 10)}
    sizes = {*range(1, 600), *edges, *range(1, len(sound.files[file]), 1 if EXHAUSTIVE else 101)}
    for size in sorted((size for size in sizes if 0 < size < len(sound.files[file])), reverse=True):
        os.truncate(path, size)
        if size in layout.earlier_sizes:
            continue
        with pytest.raises(ForeignLayoutError):
            StateFile(path, layout)


def replace_identity(sound: SoundState, file: str) -> Layout:
    """Return the layout that a file has by its own header."""
    header = parse_header(sound.files[file][:HEADER_BYTES])
    assert header is not None
    layout = WINDOWS if file == "windows.streamd" else BOARD
    identity = {key: value for key, value in header.items() if key not in ("identifier", "sealed", "capacity")}
    return Layout(layout.columns, LIMITS.capacity, identity)


@pytest.mark.parametrize("file", ["windows.streamd", "forecasts.streamd"])
def test_a_file_cut_off_at_the_edge_of_each_page_is_set_aside(sound: SoundState, file: str) -> None:
    edges = range(0, len(sound.files[file]), 4_096)
    for size in sorted({max(edge + more, 0) for edge in edges for more in (-1, 0, 1, 700)} - {0}):
        sound.damage()
        os.truncate(sound.folder / file, size)
        with opened(sound.folder) as state:
            known = set() if file == "windows.streamd" else set(SERVERS)
            assert set(state.directory.slots) == known, size
            check_usable(state)
