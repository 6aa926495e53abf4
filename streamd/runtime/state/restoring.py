"""Repairs opened files at start, and carries over what former files hold."""

import math
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import structlog

from streamd.core.errors import StateError, StorageError
from streamd.core.state.board import MAX_SERIAL
from streamd.core.state.layout import HEADER_BYTES, parse_header
from streamd.core.state.memory_repairs import repair_memory
from streamd.core.state.repairs import Repairs, repair_windows
from streamd.core.state.rows import RowReader
from streamd.regular_files import open_regular
from streamd.runtime.state.folder import find_free_name
from streamd.runtime.state.memory_file import open_former_memory
from streamd.runtime.state.migration import FormerWindow, FormerWindows, open_former_windows
from streamd.runtime.state.state import State

log = structlog.get_logger(__name__)

MAX_FORMER_CAPACITY = 2**24
"""A capacity beyond which the header of a former forecast file is not believed."""

MAX_NAMED_SLOTS = 20
"""The number of damaged servers that the log names one by one; all are counted."""


class FormerFiles(NamedTuple):
    """The paths of the files of another layout that are to be replaced, `None` for those that need not be."""

    windows: Path | None
    board: Path | None
    memory: Path | None


def restore_state(state: State, former_files: FormerFiles, now: float) -> None:
    """Bring opened files into a consistent state.

    1. Reserve the used slots again.
    2. Carry over the windows of a former file, and their memory, and replace both.
    3. Replace a former forecast file; its forecasts are computed again.
    4. Finish interrupted changes, empty rows that nothing proves, free slots without any, drop forecasts that are not
       what was posted, and compute the hourly means that the windows still have.
    """
    _reserve_again(state)
    former, former_path = None, former_files.windows
    if former_path is not None:
        former = open_former_windows(former_path, state.contract.step_seconds, is_torn=state.lock.is_torn)
    carried = _carry_over(state, former, former_files.memory) if former is not None else 0
    if former_path is not None:
        if state.memory_file is not None:
            state.memory_file.flush()  # it is complete before the window file that it belongs to takes its place
        # One file that was carried over is retained; each file that was not is retained under its own name.
        aside = former_path.with_name(f"{former_path.name}.old") if former is not None else find_free_name(former_path)
        state.windows_file.replace_former(former_path, aside)
        if former is None:
            state.set_aside.append(str(aside))
    if former_files.memory is not None:
        _replace_memory(state, former_files.memory, is_carried=former is not None, is_retained=former_path is not None)
    if former_files.board is not None:
        _replace_board(state, former_files.board)
    repairs = _repair(state, now)
    drop_impossible_forecasts(state)
    lost_means = _repair_memory(state)
    if state.set_aside:
        log.warning("state_files_retained", files=state.set_aside)
    state.recovered = {
        "servers": len(state.directory),
        "interrupted": repairs.interrupted,
        "carried_over": carried,
        "unreadable": state.directory.unreadable,
        "repaired": len(repairs.repaired),
        "lost_rows": sum(repairs.lost_rows.values()) + (sum(former.lost_rows.values()) if former is not None else 0),
        "lost_means": lost_means,
        "torn": int(state.lock.is_torn and not state.windows_file.is_new),
    }


def drop_impossible_forecasts(state: State) -> None:
    """Drop the forecasts that are damaged, or not of a row of their server's window."""
    used = np.fromiter(state.directory.slots.values(), np.int64, len(state.directory))
    state.board.drop_impossible(used, state.windows.arrays["newest"][used], state.contract.context_length)
    if state.board.unreadable:
        log.warning("forecasts_dropped", count=state.board.unreadable, reason="they are damaged")


def _replace_board(state: State, former: Path) -> None:
    """Replace a former forecast file by the new one; its forecasts are computed again from the windows."""
    with open_regular(former) as file:
        header = parse_header(file.read(HEADER_BYTES))
        last_serial = 0 if header is None else _read_last_serial(file, header)
    if state.directory.slots:
        state.board.skip_serials(last_serial, min(state.directory.slots.values()))
    aside = find_free_name(former) if header is None else None
    state.board_file.replace_former(former, aside)
    if aside is not None:
        log.warning("state_set_aside", file=str(former), reason="it is damaged, or no forecast file of streamd")
        state.set_aside.append(str(aside))


def _read_last_serial(file: BinaryIO, header: Mapping[str, Any]) -> int:
    """Return the last serial of a former forecast file, read behind its header: the serials are its first column.

    A reader may have it: it must miss none of the forecasts that are posted from now on.
    """
    capacity = header.get("capacity")
    content = file.read(8 * capacity) if isinstance(capacity, int) and 0 < capacity <= MAX_FORMER_CAPACITY else b""
    serials = np.abs(np.frombuffer(content[: len(content) // 8 * 8], "<i8"))
    return int(serials[(serials >= 0) & (serials <= MAX_SERIAL)].max(initial=0))


def _repair(state: State, now: float) -> Repairs:
    """Repair the windows, name the servers that lost rows, and free the slots without any usable row."""
    names, slots = state.directory.names, list(state.directory.slots.values())
    repairs = repair_windows(state.windows, slots, now, is_torn=state.lock.is_torn)
    _report_lost_rows({str(names[slot]): rows for slot, rows in repairs.lost_rows.items()})
    for slot, reason in islice(repairs.unreadable.items(), MAX_NAMED_SLOTS):
        log.warning("server_unreadable", server=names[slot], slot=slot, reason=reason)
    for slot in repairs.unreadable:
        state.directory.free_damaged(slot)
    if state.directory.unreadable:
        log.warning("slots_freed", count=state.directory.unreadable, reason="their stored numbers are implausible")
    return repairs


def _report_lost_rows(lost_rows: Mapping[str, int]) -> None:
    """Log the servers of which rows are missing because nothing proves them."""
    for server, rows in islice(lost_rows.items(), MAX_NAMED_SLOTS):
        log.warning("rows_lost", server=server, rows=rows, reason="they are damaged, or were not on the disk in time")
    if len(lost_rows) > MAX_NAMED_SLOTS:
        log.warning("servers_with_lost_rows", count=len(lost_rows), rows=sum(lost_rows.values()))


def _reserve_again(state: State) -> None:
    """Make sure that the used slots of all files can be written: one of the files may be new."""
    used = np.flatnonzero(state.windows_file.map_arrays()["name_bytes"])
    runs = np.split(used, np.flatnonzero(np.diff(used) != 1) + 1) if len(used) else []
    try:
        for run in runs:
            for file in state.files:
                file.reserve_again(int(run[0]), len(run))
    except StorageError as exc:
        raise StateError(str(exc)) from exc


def _replace_memory(state: State, former: Path, *, is_carried: bool, is_retained: bool) -> None:
    """Replace a former memory file by the new one; what becomes of it is what becomes of the former window file."""
    assert state.memory_file is not None, "it replaces the former one"
    with open_regular(former) as file:
        is_damaged = parse_header(file.read(HEADER_BYTES)) is None
    if is_carried and not is_damaged:
        aside: Path | None = former.with_name(f"{former.name}.old")
    else:
        aside = find_free_name(former) if is_retained or is_damaged else None
        if aside is not None:
            log.warning("state_set_aside", file=str(former), reason="its hourly means cannot be used")
            state.set_aside.append(str(aside))
    state.memory_file.replace_former(former, aside)


def _repair_memory(state: State) -> int:
    """Repair the memory of all servers; returns how many means were dropped because nothing proves them."""
    if state.memory is None:
        return 0
    dropped = repair_memory(state.memory, list(state.directory.slots.values()), is_torn=state.lock.is_torn)
    if dropped:
        log.warning("means_dropped", count=dropped, reason="they are damaged, or were not on the disk in time")
    return dropped


def _carry_over(state: State, former: FormerWindows, memory_path: Path | None) -> int:
    """Copy the windows of a file of another layout, and their memory, the last seen servers first; returns how many."""
    carried = 0
    expected = min(len(former.servers), state.directory.capacity)
    copy_window, copy_means = _choose_copying(state, former), _choose_memory(state, former, memory_path)
    for window in islice(former.read_windows(), state.directory.capacity):
        try:
            slot, _ = state.admit(window.server.name, window.server.last_seen)
        except StorageError as exc:
            raise StateError(f"{expected} servers cannot be carried over, the former file is unchanged: {exc}") from exc
        copy_window(slot, window)
        copy_means(slot, window.server.slot)
        carried += 1
    state.directory.unreadable += former.unreadable
    _report_lost_rows(former.lost_rows)
    state.windows.reset_counts()  # they count from the start of the process
    log.info("state_carried_over", servers=carried, left_behind=len(former.servers) - carried)
    return carried


def _choose_memory(state: State, former: FormerWindows, path: Path | None) -> Callable[[int, int], None]:
    """Return what copies the memory of a former slot into a slot; a no-op if nothing was kept."""
    memory, features = state.memory, list(state.contract.features)
    found = None if path is None else open_former_memory(path, former.identifier, features)
    if memory is None or found is None:
        return lambda slot, former_slot: None
    return lambda slot, former_slot: found.copy_means(memory, slot, former_slot, int(state.directory.seeds[slot]))


def _choose_copying(state: State, former: FormerWindows) -> Callable[[int, FormerWindow], None]:
    """Return what copies a former window into a slot: whole if it has the same rows, else row by row."""
    contract, rows = state.contract, RowReader(state.contract.features)

    def copy_whole(slot: int, window: FormerWindow) -> None:
        for name, array in window.arrays.items():
            state.windows.arrays[name][slot] = array[window.slot]

    def copy_rows(slot: int, window: FormerWindow) -> None:
        for step, values, status in former.list_rows(window, contract.context_length):
            state.windows.write_sample(slot, step, rows.read_row(values), status, 0.0)
        state.windows.close_overdue_rows(math.inf)

    is_same = former.features == list(contract.features) and former.context_length == contract.context_length
    return copy_whole if is_same else copy_rows
