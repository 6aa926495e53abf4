"""Tests `streamd/runtime/state`.

One damaged field of the state: the right windows, or a slot that is freed and counted, or a file set aside by name.

Every bit and byte of every scalar of every used slot is damaged in turn, and every bit of both headers.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamd.core.state import board, windows
from streamd.core.state.directory import DIRECTORY_COLUMNS
from streamd.core.state.layout import CHECKSUM_KEY, HEADER_BYTES, STATE_MAGIC, Layout
from streamd.core.state.windows import NO_STEP
from streamd.runtime.state.migration import make_windows_layout
from streamd.runtime.state.state import State
from tests.support.contracts import make_contract
from tests.support.state_files import LIMITS, NOW, fill, opened, rows_of, send, whole, window_of

CONTRACT = make_contract()
WINDOWS = make_windows_layout(list(CONTRACT.features), 8, 300, LIMITS.capacity)
BOARD = Layout(board.make_board_columns(CONTRACT), LIMITS.capacity, {})
SERVERS = ("web-01", "web-02", "web-03")
Damage = tuple[str, int, int]
"""A file's name, the place of a byte in it, and what the byte is exclusive-ored with."""


@dataclass
class Kept:
    """A sound state: its files, and what is in it by server."""

    folder: Path
    files: dict[str, bytes]
    servers: dict[str, Any]

    def damage(self, *places: Damage) -> None:
        """Put the sound files back, and damage them."""
        for path in self.folder.iterdir():
            if path.name not in self.files:
                path.unlink()
        for name, content in self.files.items():
            copy = bytearray(content)
            for file, place, bits in places:
                if file == name:
                    copy[place] ^= bits
            (self.folder / name).write_bytes(copy)


@pytest.fixture(name="kept")
def make_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kept:
    """Three servers: one that was forecast, one with an open row beside older ones, one with an open row alone."""
    monkeypatch.setattr(os, "fdatasync", lambda fd: None)  # thousands of files are opened and none needs the disk
    with opened(tmp_path) as state:
        slot = fill(state, "web-01", 12)
        state.board.post(slot, 111, 8, b"model", np.ones(CONTRACT.forecast_shape, np.float32))
        fill(state, "web-02", 3, first_step=200)
        send(state, "web-02", 204, {"cpu": 5.0}, status=5)
        send(state, "web-03", 300, {"mem": 1.0})
        servers = {name: describe(state, name) for name in SERVERS}
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    return Kept(tmp_path, files, servers)


def describe(state: State, server: str) -> Any:
    """All that a server's window holds, closed and open."""
    slot, arrays = state.directory.slots[server], state.windows.arrays
    statuses = np.empty(8, np.int32)
    state.windows.gather_window(slot, np.empty((8, 3), np.float32), statuses)
    open_step = int(arrays["open_step"][slot])
    still_open = (open_step, *arrays["open_values"][slot].tolist(), int(arrays["open_status"][slot]) & 15)
    rows = rows_of(state, server) if state.windows.get_newest_step(slot) != NO_STEP else {}
    return str(
        (rows, statuses.tolist(), state.windows.get_newest_step(slot), still_open if open_step != NO_STEP else None)
    )


def scalar_damage(layout: Layout, file: str) -> Iterator[tuple[str, int, Damage]]:
    """Yield (column, slot, damage): each bit, and each byte replaced by its complement, of each used slot's scalars."""
    for column in layout.columns:
        if column.shape and column.name != "name":
            continue
        size = column.count_bytes(1)
        for slot in range(len(SERVERS)):
            first = layout.offsets[column.name] + slot * size
            used = len(SERVERS[0]) if column.name == "name" else size
            for place in range(first, first + used):
                for bits in (*(1 << bit for bit in range(8)), 0xFF):
                    yield column.name, slot, (file, place, bits)


def check_goes_on(state: State) -> None:
    """Every server takes its next rows and becomes due, one that was freed comes back, and forecasts can be posted."""
    for server in SERVERS:
        slot = state.directory.slots.get(server)
        latest = 400 if slot is None else state.windows.get_latest_step(slot)
        due = sum(send(state, server, latest + ahead, whole(1.0)) for ahead in (1, 2, 3))
        slot = state.directory.slots[server]
        assert due >= 2, server
        assert slot in state.find_unforecast(), server
        serial = state.board.post(slot, latest + 3, 2, b"model", np.zeros(CONTRACT.forecast_shape, np.float32))
        assert state.board.find_later_than(serial - 1) == [slot], server


def test_each_scalar_of_the_windows(kept: Kept) -> None:
    freed: set[str] = set()
    for column, slot, damage in scalar_damage(WINDOWS, "windows.streamd"):
        kept.damage(damage)
        with opened(kept.folder) as state:
            where = (column, slot, damage)
            assert state.set_aside == [], where
            missing = set(SERVERS) - set(state.directory.slots)
            assert missing <= {SERVERS[slot]}, where
            assert state.recovered["unreadable"] == len(missing), where
            assert set(state.directory.slots) <= set(SERVERS), where
            for server in state.directory.slots:
                assert describe(state, server) == kept.servers[server], where
            check_goes_on(state)
            if missing:
                freed.add(column)
    assert {"name", "name_bytes", "last_seen", "newest", "open_step", "journal", "open_status"} <= freed


def test_each_scalar_of_the_forecasts(kept: Kept) -> None:
    dropped: set[str] = set()
    for column, slot, damage in scalar_damage(BOARD, "forecasts.streamd"):
        kept.damage(damage)
        with opened(kept.folder) as state:
            where = (column, slot, damage)
            assert {server: describe(state, server) for server in SERVERS} == kept.servers, where
            assert state.recovered["unreadable"] == 0, where
            forecast = state.board.get_forecast(0)
            if forecast is None:
                assert 0 in state.find_unforecast(), where
                dropped.add(column)
            elif forecast.step != 111:
                assert 0 in state.find_unforecast(), "it is made anew at once"
            assert state.board.unreadable <= 1, where
            check_goes_on(state)
    assert {"serial", "step", "context", "model"} <= dropped


@pytest.mark.parametrize("file", ["windows.streamd", "forecasts.streamd"])
def test_each_bit_of_a_header(kept: Kept, file: str) -> None:
    size = kept.files[file].index(b"\0")
    places = [*range(size), size, size + 9, HEADER_BYTES - 1]
    for damage in ((file, place, 1 << bit) for place in places for bit in range(8)):
        kept.damage(damage)
        before = (kept.folder / file).read_bytes()
        with opened(kept.folder) as state:
            if state.set_aside:
                (aside,) = state.set_aside
                assert Path(aside).read_bytes() == before, damage
                assert Path(aside).name.startswith(file), damage
            if file == "windows.streamd" and state.set_aside:
                assert len(state.directory) == 0, damage
            else:
                assert {server: describe(state, server) for server in SERVERS} == kept.servers, damage
            check_goes_on(state)
        with opened(kept.folder) as state:
            assert state.set_aside == [], "once"


WITHOUT_CHECK = (b'"capacity"', b'"step_seconds"', b'"features"', b'"context_length"', b'"kind"')


@pytest.mark.parametrize("field", WITHOUT_CHECK)
@pytest.mark.parametrize("value", [b"0", b"-1", b"null", b'"x"', b"true", b"[]", b"{}", b"1e3", None])
def test_a_former_version_s_header_that_makes_no_sense(kept: Kept, field: bytes, value: bytes | None) -> None:
    """Former versions wrote no checksum: each field is looked at."""
    kept.damage()
    path = kept.folder / "windows.streamd"
    header, rest = kept.files["windows.streamd"][:HEADER_BYTES], kept.files["windows.streamd"][HEADER_BYTES:]
    text = header[len(STATE_MAGIC) :].rstrip(b"\0").replace(f'"{CHECKSUM_KEY}"'.encode(), b'"former"')
    if value is None:
        text = text.replace(field, field.upper())
    else:
        start = text.index(field) + len(field) + 2
        end = text.index(b', "', text.index(b"]", start) if field == b'"features"' else start)
        text = text[:start] + value + text[end:]
    path.write_bytes((STATE_MAGIC + text).ljust(HEADER_BYTES, b"\0") + rest)
    with opened(kept.folder) as state:
        assert len(state.set_aside) == 1
        assert len(state.directory) == 0
        check_goes_on(state)


def test_files_set_aside_do_not_replace_each_other(kept: Kept) -> None:
    for number in (1, 2):
        (kept.folder / "windows.streamd").write_bytes(bytes([number]) * HEADER_BYTES)
        with opened(kept.folder) as state:
            assert state.set_aside == [str(kept.folder / f"windows.streamd.{number}.old")]
    for number in (1, 2):
        assert (kept.folder / f"windows.streamd.{number}.old").read_bytes() == bytes([number]) * HEADER_BYTES


def test_damage_is_seen_when_windows_are_carried_over(kept: Kept) -> None:
    place = WINDOWS.offsets["newest"]
    kept.damage(("windows.streamd", place, 1))
    with opened(kept.folder, limits=replace(LIMITS, capacity=9)) as state:
        assert set(state.directory.slots) == {"web-02", "web-03"}
        assert state.recovered["unreadable"] == 1


# ---------------------------------------------------------------- files of a former version
def former(kept: Kept, name: str) -> None:
    """Cut the added columns and the checksum from a window file, as versions that had neither wrote it."""
    path = kept.folder / name
    content = kept.files[name][: WINDOWS.earlier_nbytes]
    text = content[len(STATE_MAGIC) : HEADER_BYTES].replace(f'"{CHECKSUM_KEY}"'.encode(), b'"former"')
    path.write_bytes((STATE_MAGIC + text)[:HEADER_BYTES] + content[HEADER_BYTES:])


@pytest.mark.parametrize("capacity", [LIMITS.capacity, 9])
def test_a_former_version_s_file_is_taken_as_it_is(kept: Kept, capacity: int) -> None:
    former(kept, "windows.streamd")
    with opened(kept.folder, limits=replace(LIMITS, capacity=capacity)) as state:
        # Rows that are open are closed where they are carried over.
        same = SERVERS if capacity == LIMITS.capacity else SERVERS[:1]
        assert set(state.directory.slots) == set(SERVERS)
        assert [describe(state, server) for server in same] == [kept.servers[server] for server in same]
        check_goes_on(state)
        after = {server: window_of(state, server) for server in SERVERS}
    with opened(kept.folder, limits=replace(LIMITS, capacity=capacity)) as state:
        for server in SERVERS:
            np.testing.assert_array_equal(window_of(state, server), after[server])


@pytest.mark.parametrize("column", ["newest", "open_step", "journal"])
@pytest.mark.parametrize("bit", [42, 60, 63])
def test_a_former_version_s_absurd_number_frees_its_slot(kept: Kept, column: str, bit: int) -> None:
    kept.damage()
    former(kept, "windows.streamd")
    content = bytearray((kept.folder / "windows.streamd").read_bytes())
    content[WINDOWS.offsets[column] + 8 + bit // 8] ^= 1 << bit % 8
    (kept.folder / "windows.streamd").write_bytes(content)
    with opened(kept.folder) as state:
        assert set(state.directory.slots) == {"web-01", "web-03"}
        assert state.recovered["unreadable"] == 1
        check_goes_on(state)


def test_every_scalar_column_is_damaged_above() -> None:
    """A column that is added must be thought of here."""
    scalars = {column.name for column in (*DIRECTORY_COLUMNS, *windows.make_window_columns(8, 3)) if not column.shape}
    damaged = {column for column, _, _ in scalar_damage(WINDOWS, "windows.streamd")}
    assert scalars | {"name"} == damaged
    assert NOW < 1e9
