"""Everything that outlives the process: servers, windows and latest forecasts, opened and put in order."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from streamd.core import board, directory, windows
from streamd.core.board import ForecastBoard
from streamd.core.contract import ModelContract
from streamd.core.directory import Directory
from streamd.core.layout import HEADER_BYTES, Layout, read_header
from streamd.core.recovery import recover
from streamd.core.windows import NONE, WindowStore
from streamd.runtime.state_file import StateFile, open_state_file

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class WindowLimits:
    """How windows fill; see `WindowStore`."""

    capacity: int = 10_000
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

    def unforecast(self) -> list[int]:
        """Return the slots whose newest row closed but was not forecast before the process ended."""
        return [
            slot
            for slot in self.directory.slots.values()
            if self.windows.ready(slot) and self.windows.newest(slot) > self.board.step(slot)
        ]

    def flush(self) -> None:
        """Write everything through to the disk; blocks."""
        self.windows_file.flush()
        self.board_file.flush()

    def close(self) -> None:
        """Flush and release the folder."""
        self.windows_file.close()
        self.board_file.close()


def windows_layout(contract: ModelContract, capacity: int) -> Layout:
    """The layout of `windows.streamd`."""
    identity = {
        "kind": "windows",
        "features": list(contract.features),
        "context_length": contract.context_length,
        "step_seconds": contract.step_seconds,
    }
    own = windows.columns(contract.context_length, len(contract.features))
    return Layout(directory.COLUMNS + own, capacity, identity)


def open_state(folder: Path, contract: ModelContract, limits: WindowLimits, now: float) -> State:
    """Open a state folder, put it in order and return it (`now` monotonic seconds); raises `StateError`.

    Where the capacity or the model's features changed, the windows of the former file are carried over.
    """
    layout = windows_layout(contract, limits.capacity)
    windows_file, aside = open_state_file(folder / "windows.streamd", layout)
    board_identity = {
        "kind": "forecasts",
        "windows": windows_file.identifier,
        "targets": list(contract.targets),
        "quantiles": list(contract.quantiles),
        "horizon": contract.horizon,
    }
    board_layout = Layout(board.columns(contract), limits.capacity, board_identity)
    board_file, old_board = open_state_file(folder / "forecasts.streamd", board_layout)
    if old_board is not None:
        old_board.unlink()  # forecasts are made anew from the windows
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
    carried = _carry_over(state, aside) if aside is not None else 0
    state.windows.closed_rows = state.windows.warming_rows = 0
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


def _carry_over(state: State, aside: Path) -> int:
    """Copy the windows of a file of another layout, feature by name, the last seen servers first."""
    header = read_header(_first_page(aside))
    if header is None or header.get("kind") != "windows":
        log.warning("state_set_aside", file=str(aside), reason="it is no state file of streamd's")
        return 0
    if header.get("step_seconds") != state.contract.step_seconds:
        log.warning("state_set_aside", file=str(aside), reason="its rows have another step")
        return 0
    old_contract_features: list[str] = header["features"]
    old_layout = Layout(
        directory.COLUMNS + windows.columns(header["context_length"], len(old_contract_features)),
        header["capacity"],
        {},
    )
    old = old_layout.arrays(np.memmap(aside, np.uint8, "r"))
    columns = [
        (source, state.contract.feature_index[name])
        for source, name in enumerate(old_contract_features)
        if name in state.contract.feature_index
    ]
    used = np.flatnonzero(old["name_bytes"])
    used = used[np.argsort(-old["last_seen"][used], kind="stable")][: state.directory.capacity]
    for source in used.tolist():
        name = bytes(old["name"][source, : old["name_bytes"][source]]).decode(errors="replace")
        slot, _ = state.admit(name, float(old["last_seen"][source]))
        _copy_rows(state.windows, slot, old, source, columns)
    log.info("state_carried_over", servers=len(used), former=str(aside))
    return len(used)


def _copy_rows(store: WindowStore, slot: int, old: dict[str, Any], source: int, columns: list[tuple[int, int]]) -> None:
    newest = int(old["newest"][source])
    if newest == NONE:
        return
    old_length = old["marks"].shape[1] // 2
    first = max(0, newest - min(old_length, store.context_length) + 1)
    steps = [*range(first, newest + 1)]
    if (open_step := int(old["open_step"][source])) != NONE:
        steps.append(open_step)
    for step in steps:
        place = step % old_length
        row = old["open_values"][source] if step == open_step else old["values"][source, place]
        mark = int(old["open_status"][source] if step == open_step else old["marks"][source, place])
        cells = [(to, float(row[of])) for of, to in columns if not np.isnan(row[of])]
        if cells:
            mask = sum(1 << to for to, _ in cells)
            store.write(slot, step, cells, mask, mark & ~windows.PRESENT, 0.0)
    store.close_overdue(float("inf"))


def _first_page(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEADER_BYTES)
