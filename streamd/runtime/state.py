"""Everything that outlives the process: servers, windows and latest forecasts, opened and put in order."""

from dataclasses import dataclass, field
from pathlib import Path

import structlog

from streamd.core import board
from streamd.core.ahead import AheadServers
from streamd.core.board import ForecastBoard
from streamd.core.contract import ModelContract
from streamd.core.directory import Directory
from streamd.core.layout import Layout
from streamd.core.recovery import recover, rewind
from streamd.core.rows import RowReader
from streamd.core.windows import WindowStore
from streamd.runtime.migration import Former, read_former, windows_layout
from streamd.runtime.state_file import StateFile, open_state_file

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class WindowLimits:
    """How windows fill; see `WindowStore`."""

    capacity: int = 30_000
    need: int = 48
    late_steps: int = 288
    grace_seconds: float = 10.0


@dataclass
class State:
    """The arrays of one state folder and the policies over them.

    `recovered` counts what a restart found: servers, rows cut off in the middle of a change.
    """

    contract: ModelContract
    windows_file: StateFile
    board_file: StateFile
    directory: Directory
    windows: WindowStore
    board: ForecastBoard
    recovered: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        arrays = self.windows.arrays
        self.ahead = AheadServers(self.directory.names, arrays["newest"], arrays["open_step"])

    def admit(self, name: str, now_wall: float) -> tuple[int, str | None]:
        """Give a new server a slot; returns it and who was forgotten for it.

        Raises `StorageError` where the disk is full; nothing is forgotten then.
        """
        slot, forgotten = self.directory.room()
        self.windows_file.reserve(slot)
        self.board_file.reserve(slot)
        if forgotten is not None:
            self.directory.release(slot)
        self.windows.reset(slot)
        self.board.reset(slot)
        self.directory.admit(slot, name, now_wall)
        return slot, forgotten

    def forget(self, slot: int) -> None:
        """Forget a server: its slot is free, and nothing of its window or forecast is there any more."""
        # Freed first: whenever the process is killed, the server is there whole, or not at all. What is left of it in
        # a free slot is emptied before the slot has its next name.
        self.directory.release(slot)
        self.windows.reset(slot)
        self.board.reset(slot)

    def rewind(self, slot: int, last_step: int) -> int:
        """Drop a server's rows after `last_step`, and its forecast from them; returns how many rows."""
        # The forecast first: a process that is killed in between finds the rows ahead again, and them alone.
        if self.board.step(slot) > last_step:
            self.board.reset(slot)
        dropped = rewind(self.windows, slot, last_step)
        if self.board.step(slot) > self.windows.newest(slot):
            self.board.reset(slot)
        self.directory.generations[slot] += 1  # what is under way saw rows that are none
        return dropped

    def is_unforecast(self, slot: int) -> bool:
        """Whether a slot's window has enough rows, and its newest was not forecast yet."""
        return self.windows.ready(slot) and self.windows.newest(slot) > self.board.step(slot)

    def unforecast(self) -> list[int]:
        """Return the slots whose newest row closed but was not forecast before the process ended."""
        return [slot for slot in self.directory.slots.values() if self.is_unforecast(slot)]

    def flush(self) -> None:
        """Write everything through to the disk; blocks."""
        self.windows_file.flush()
        self.board_file.flush()

    def close(self) -> None:
        """Flush and release the folder."""
        self.windows_file.close()
        self.board_file.close()


def open_state(folder: Path, contract: ModelContract, limits: WindowLimits, now: float) -> State:
    """Open a state folder, put it in order and return it (`now` monotonic seconds); raises `StateError`.

    Where the capacity or the model's features changed, the windows of the former file are carried over.
    """
    layout = windows_layout(list(contract.features), contract.context_length, contract.step_seconds, limits.capacity)
    windows_file, former_path = open_state_file(folder / "windows.streamd", layout)
    board_identity = {
        "kind": "forecasts",
        "windows": windows_file.identifier,
        "targets": list(contract.targets),
        "quantiles": list(contract.quantiles),
        "horizon": contract.horizon,
    }
    board_layout = Layout(board.columns(contract), limits.capacity, board_identity)
    board_file, former_board = open_state_file(folder / "forecasts.streamd", board_layout)
    arrays = windows_file.arrays()
    state = State(
        contract,
        windows_file,
        board_file,
        Directory(arrays),
        WindowStore(
            arrays,
            need=min(limits.need, contract.context_length),
            late_steps=limits.late_steps,
            grace_seconds=limits.grace_seconds,
        ),
        ForecastBoard(board_file.arrays()),
    )
    former = read_former(former_path, contract.step_seconds) if former_path is not None else None
    carried = _carry_over(state, former) if former is not None else 0
    if former_path is not None:
        windows_file.take_place(former_path, keep=True)
    if former_board is not None:
        board_file.take_place(former_board, keep=False)  # forecasts are made anew from the windows
    interrupted = recover(state.windows, list(state.directory.slots.values()), now)
    state.recovered = {
        "servers": len(state.directory),
        "interrupted": interrupted,
        "carried_over": carried,
        "unreadable": state.directory.unreadable,
    }
    if len(state.directory):
        log.info("state_recovered", folder=str(folder), **state.recovered)
    return state


def _carry_over(state: State, former: Former) -> int:
    """Copy the windows of a file of another layout, feature by name, the last seen servers first."""
    rows = RowReader(state.contract.features)
    servers = former.servers[: state.directory.capacity]
    for server in servers:
        slot, _ = state.admit(server.name, server.last_seen)
        for step, values, status in former.rows(server, state.contract.context_length):
            state.windows.write(slot, step, rows.read(values), status, 0.0)
        state.windows.close_overdue(float("inf"))
    state.windows.closed_rows = state.windows.warming_rows = 0  # they count since start
    log.info("state_carried_over", servers=len(servers), left_behind=len(former.servers) - len(servers))
    return len(servers)
