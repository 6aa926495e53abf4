"""Everything that outlives the process: servers, windows and latest forecasts.

Opens, repairs and migrates the mapped files at start. The policies over the arrays are in `core/state`.
"""

import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import structlog

from streamd.core.contract import ModelContract
from streamd.core.errors import StateError, StorageError
from streamd.core.state import board
from streamd.core.state.ahead_servers import AheadServers
from streamd.core.state.board import ForecastBoard
from streamd.core.state.directory import Directory
from streamd.core.state.layout import HEADER_BYTES, Layout, parse_header
from streamd.core.state.recovery import rewind
from streamd.core.state.repairs import Repairs, repair_windows
from streamd.core.state.rows import RowReader
from streamd.core.state.windows import WindowStore
from streamd.regular_files import open_regular
from streamd.runtime.state.folder import StateFolder, find_free_name
from streamd.runtime.state.mapped_file import StateFile, open_state_file
from streamd.runtime.state.migration import FormerWindows, make_windows_layout, read_former_windows

log = structlog.get_logger(__name__)

MAX_NAMED_SLOTS = 20
"""The number of damaged servers that the log names one by one; all are counted."""


@dataclass(frozen=True)
class WindowLimits:
    """The limits of windows; see `WindowStore`."""

    capacity: int = 30_000
    need: int = 48
    late_steps: int = 288
    grace_seconds: float = 10.0


@dataclass(kw_only=True)
class State:
    """The arrays of one state folder and the policies over them.

    `recovered` counts the findings of a restart: servers, interrupted changes of rows, slots that were freed because
    their stored names or numbers are implausible (`unreadable`), slots whose damage was undone (`repaired`), and rows
    that are missing because nothing proves them (`lost_rows`). `torn` is 1 if the machine went down before.
    """

    contract: ModelContract
    lock: StateFolder
    windows_file: StateFile
    board_file: StateFile
    directory: Directory
    windows: WindowStore
    board: ForecastBoard
    recovered: dict[str, int] = field(default_factory=dict)
    set_aside: list[str] = field(default_factory=list)
    """The files that could not be read at start, by the paths that they were renamed to."""

    def __post_init__(self) -> None:
        arrays = self.windows.arrays
        self.ahead = AheadServers(self.directory.names, arrays["newest"], arrays["open_step"])
        self._refusal: StorageError | None = None
        self._needs_space = self.windows_file.needs_spare_space or self.board_file.needs_spare_space
        self.can_run_short = self._needs_space
        """Whether `find_shortage` can find one now: on most file systems it cannot."""

    @property
    def folder(self) -> Path:
        """The state folder."""
        return self.windows_file.path.parent

    def admit(self, name: str, now_wall: float, silent_since: float = math.inf) -> tuple[int, str | None]:
        """Give a new server a slot; returns it, and the server that was evicted for it or `None`.

        Raises `NoCapacityError` if every server was seen after `silent_since` (epoch seconds), and `StorageError` if
        the disk is full; then no server is evicted.
        """
        slot, forgotten = self.directory.find_slot(silent_since)
        self.windows_file.reserve(slot)
        self.board_file.reserve(slot)
        if forgotten is not None:
            self.directory.release(slot)
        self.windows.reset(slot)
        self.board.take_down(slot)
        self.directory.admit(slot, name, now_wall)
        return slot, forgotten

    def forget(self, slot: int) -> None:
        """Forget a server: free its slot, and empty its window and forecast."""
        # The slot is freed first: whenever the process is killed, the server is complete or absent. What a kill leaves
        # in a free slot is emptied before the slot gets its next name.
        self.directory.release(slot)
        self.windows.reset(slot)
        self.board.take_down(slot)

    def rewind(self, slot: int, last_step: int) -> int:
        """Drop a server's rows after `last_step`, and its forecast from them; returns how many rows."""
        # The forecast first: after a kill in between, the next start finds the rows again, and drops them then.
        if self.board.get_step(slot) > last_step:
            self.board.take_down(slot)
        dropped = rewind(self.windows, slot, last_step)
        if self.board.get_step(slot) > self.windows.get_newest_step(slot):
            self.board.take_down(slot)
        self.directory.generations[slot] += 1  # windows that run hold rows that were dropped
        return dropped

    def is_unforecast(self, slot: int) -> bool:
        """Whether a slot's window has enough rows, and its newest row has no forecast yet."""
        return self.windows.is_ready(slot) and self.windows.get_newest_step(slot) > self.board.get_step(slot)

    def snapshot(self, slot: int) -> tuple[int, int, int]:
        """Return a slot's generation, its newest step, and the number of rows in its window."""
        return self.directory.generations[slot], self.windows.get_newest_step(slot), self.windows.have[slot]

    def find_unforecast(self) -> list[int]:
        """Return the slots whose newest row was closed but not forecast when the former process ended."""
        return [slot for slot in self.directory.slots.values() if self.is_unforecast(slot)]

    def find_shortage(self) -> StorageError | None:
        """Return an error if nothing may be written, else `None`.

        See `refuse_writes` and `StateFile.find_shortage`.
        """
        if not self.can_run_short:
            return None
        return self._refusal or self.windows_file.find_shortage() or self.board_file.find_shortage()

    def refuse_writes(self, error: StorageError | None) -> None:
        """Let `find_shortage` return this error from now on, `None` to permit writes again."""
        self._refusal = error
        self.can_run_short = self._needs_space or error is not None

    def reserve_whole_pieces(self) -> None:
        """Reserve whole pieces of the files around the used slots; without space, the next call tries again."""
        self.windows_file.reserve_whole_pieces()
        self.board_file.reserve_whole_pieces()

    def flush(self) -> None:
        """Write everything through to the disk; blocks."""
        self.windows_file.flush()
        self.board_file.flush()

    def close(self) -> None:
        """Flush and release the folder. What cannot be flushed is logged, and the next start checks all rows."""
        is_flushed = True
        for file in (self.windows_file, self.board_file):
            try:
                file.close()
            except OSError as exc:
                is_flushed = False
                log.error("state_not_flushed", file=str(file.path), error=exc.strerror or str(exc))
        if is_flushed and not self.lock.is_closed:
            self.lock.mark_clean()
        self.lock.close()


def open_state(folder: Path, contract: ModelContract, limits: WindowLimits, now: float) -> State:
    """Open a state folder, and repair and migrate it (`now`: monotonic seconds); raises `StateError`.

    If the capacity or the model's features changed, the windows of the former file are carried over. If that fails, the
    former files are unchanged and no new file is left.
    """
    lock = StateFolder(folder)
    if not lock.is_torn:
        lock.mark_in_use()  # before the first change
    layout = make_windows_layout(
        list(contract.features), contract.context_length, contract.step_seconds, limits.capacity
    )
    opened = ExitStack()
    try:
        windows_file, former_path = open_state_file(folder / "windows.streamd", layout)
        opened.callback(windows_file.discard)
        board_layout = _make_board_layout(contract, limits.capacity, windows_file.identifier)
        board_file, former_board = open_state_file(folder / "forecasts.streamd", board_layout)
        opened.callback(board_file.discard)
        state = _make_state(contract, lock, windows_file, board_file, limits)
        _restore(state, former_path, former_board, now)
        if lock.is_torn:
            state.flush()  # a torn file is not in order before all that was rebuilt is on the disk
            lock.mark_in_use()
    except BaseException as exc:
        try:
            opened.close()
            if lock.was_clean:
                lock.mark_clean()  # the files that are left are as they were found
        except OSError as error:
            log.warning("state_not_flushed", folder=str(folder), error=error.strerror or str(error))
        lock.close()
        if isinstance(exc, OSError):
            raise StateError(f"{folder}: cannot be read and written: {exc.strerror or exc}") from exc
        raise
    if len(state.directory):
        log.info("state_recovered", folder=str(folder), **state.recovered)
    return state


def _make_board_layout(contract: ModelContract, capacity: int, windows: str) -> Layout:
    """Return the layout of a forecast file; `windows` is the identifier of the window file that has its slots."""
    identity = {
        "kind": "forecasts",
        "windows": windows,
        "targets": list(contract.targets),
        "quantiles": list(contract.quantiles),
        "horizon": contract.horizon,
    }
    return Layout(board.make_board_columns(contract), capacity, identity)


def _make_state(
    contract: ModelContract, lock: StateFolder, windows_file: StateFile, board_file: StateFile, limits: WindowLimits
) -> State:
    arrays = windows_file.map_arrays()
    directory = Directory(arrays, has_checks=windows_file.is_sealed)
    windows = WindowStore(
        arrays,
        seeds=directory.seeds,
        need=min(limits.need, contract.context_length),
        late_steps=limits.late_steps,
        grace_seconds=limits.grace_seconds,
    )
    return State(
        contract=contract,
        lock=lock,
        windows_file=windows_file,
        board_file=board_file,
        directory=directory,
        windows=windows,
        board=ForecastBoard(board_file.map_arrays(), directory.seeds),
    )


def _restore(state: State, former_path: Path | None, former_board: Path | None, now: float) -> None:
    """Bring opened files into a consistent state.

    1. Reserve the used slots again.
    2. Carry over the windows of a former file, and replace it.
    3. Replace a former forecast file; its forecasts are computed again.
    4. Finish interrupted changes, empty rows that nothing proves, free slots without any, and drop forecasts that are
       not what was posted.
    """
    _reserve_again(state)
    former = None
    if former_path is not None:
        former = read_former_windows(former_path, state.contract.step_seconds, is_torn=state.lock.is_torn)
    carried = _carry_over(state, former) if former is not None else 0
    if former_path is not None:
        # One file that was carried over is retained; each file that was not is retained under its own name.
        aside = former_path.with_name(f"{former_path.name}.old") if former is not None else find_free_name(former_path)
        state.windows_file.replace_former(former_path, aside)
        if former is None:
            state.set_aside.append(str(aside))
    if former_board is not None:
        _replace_board(state, former_board)
    repairs = _repair(state, now)
    if not state.board_file.is_sealed:
        state.board.seal_all()
        state.board_file.mark_sealed()
    for slot in state.directory.slots.values():
        state.board.drop_impossible(slot, state.windows.get_newest_step(slot), state.contract.context_length)
    if state.board.unreadable:
        log.warning("forecasts_dropped", count=state.board.unreadable, reason="they are damaged")
    if state.set_aside:
        log.warning("state_files_retained", files=state.set_aside)
    state.recovered = {
        "servers": len(state.directory),
        "interrupted": repairs.interrupted,
        "carried_over": carried,
        "unreadable": state.directory.unreadable,
        "repaired": len(repairs.repaired),
        "lost_rows": sum(repairs.lost_rows.values()) + (sum(former.lost_rows.values()) if former is not None else 0),
        "torn": int(state.lock.is_torn and not state.windows_file.is_new),
    }


def _replace_board(state: State, former: Path) -> None:
    """Replace a former forecast file by the new one; its forecasts are computed again from the windows."""
    with open_regular(former) as file:
        header = parse_header(file.read(HEADER_BYTES))
    aside = find_free_name(former) if header is None else None
    state.board_file.replace_former(former, aside)
    if aside is not None:
        log.warning("state_set_aside", file=str(former), reason="it is damaged, or no forecast file of streamd")
        state.set_aside.append(str(aside))


def _repair(state: State, now: float) -> Repairs:
    """Repair the windows, name the servers that lost rows, and free the slots without any usable row."""
    file, names, slots = state.windows_file, state.directory.names, list(state.directory.slots.values())
    repairs = repair_windows(state.windows, slots, now, is_sealed=file.is_sealed, is_torn=state.lock.is_torn)
    if not file.is_sealed:
        file.mark_sealed()
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
    """Make sure that the used slots of both files can be written: one of the files may be new."""
    used = np.flatnonzero(state.windows_file.map_arrays()["name_bytes"])
    runs = np.split(used, np.flatnonzero(np.diff(used) != 1) + 1) if len(used) else []
    try:
        for run in runs:
            for file in (state.windows_file, state.board_file):
                file.reserve_again(int(run[0]), len(run))
    except StorageError as exc:
        raise StateError(str(exc)) from exc


def _carry_over(state: State, former: FormerWindows) -> int:
    """Copy the windows of a file of another layout by feature name, the last seen servers first."""
    rows = RowReader(state.contract.features)
    servers = former.servers[: state.directory.capacity]
    for server in servers:
        try:
            slot, _ = state.admit(server.name, server.last_seen)
        except StorageError as exc:
            raise StateError(
                f"{len(servers)} servers cannot be carried over, the former file is unchanged: {exc}"
            ) from exc
        for step, values, status in former.rows(server, state.contract.context_length):
            state.windows.write_sample(slot, step, rows.read_row(values), status, 0.0)
        state.windows.close_overdue_rows(float("inf"))
    state.directory.unreadable += former.unreadable
    _report_lost_rows(former.lost_rows)
    state.windows.closed_rows = state.windows.warming_rows = 0  # they count from the start of the process
    log.info("state_carried_over", servers=len(servers), left_behind=len(former.servers) - len(servers))
    return len(servers)
