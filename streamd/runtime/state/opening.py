"""Opens a state folder: its lock, its mapped files, and what they hold."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import structlog

from streamd.core.contract import ModelContract
from streamd.core.errors import StateError
from streamd.core.state import board
from streamd.core.state.board import ForecastBoard
from streamd.core.state.directory import DIRECTORY_COLUMNS, Directory
from streamd.core.state.layout import Layout, NamedArrays, make_zeros
from streamd.core.state.windows import WindowStore
from streamd.runtime.state.folder import SharedFolder, StateFolder
from streamd.runtime.state.mapped_file import ForeignLayoutError, StateFile, open_state_file
from streamd.runtime.state.memory_file import (
    MEMORY_NAME,
    keeps_memory,
    make_memory_layout,
    make_memory_store,
    open_memory_file,
    remove_memory_file,
)
from streamd.runtime.state.migration import make_windows_layout
from streamd.runtime.state.restoring import FormerFiles, drop_impossible_forecasts, restore_state
from streamd.runtime.state.state import State, WindowLimits

log = structlog.get_logger(__name__)

WINDOWS_NAME, FORECASTS_NAME = "windows.streamd", "forecasts.streamd"


@dataclass(frozen=True)
class SharedArrays:
    """Arrays of what is in memory only, which other processes of this daemon use as well.

    `volatile` has the columns of `make_volatile_columns` and `VOLATILE_DIRECTORY_COLUMNS`. With `in_use`, others write
    the windows at this moment, so that this process must not repair them.
    """

    volatile: NamedArrays
    in_use: bool = False


class _Files(NamedTuple):
    """The mapped files of a state; `memory` is `None` if none is kept."""

    windows: StateFile
    board: StateFile
    memory: StateFile | None


class StateReplacedError(StateError):
    """The state must be replaced by one of another layout, while other processes use it."""


def open_state(
    folder: Path, contract: ModelContract, limits: WindowLimits, now: float, shared: SharedArrays | None = None
) -> State:
    """Open a state folder, and repair and migrate it (`now`: monotonic seconds); raises `StateError`.

    If the capacity or the model's features changed, the windows of the former file are carried over. If that fails, the
    former files are unchanged and no new file is left. If `shared` arrays are in use, the windows are taken as they
    are; raises `StateReplacedError` if they would be replaced.
    """
    lock = StateFolder(folder)
    if not lock.is_torn:
        lock.mark_in_use()  # before the first change
    opened = ExitStack()
    try:
        state = _open_files(folder, contract, limits, lock, shared, opened, now)
        if lock.is_torn:
            state.flush()  # a torn file is not in order before all that was rebuilt is on the disk
            lock.mark_in_use()
    except BaseException as exc:
        _abandon(folder, lock, opened)
        if isinstance(exc, OSError):
            raise StateError(f"{folder}: cannot be read and written: {exc.strerror or exc}") from exc
        raise
    if len(state.directory):
        log.info("state_recovered", folder=str(folder), **state.recovered)
    return state


def _open_files(
    folder: Path,
    contract: ModelContract,
    limits: WindowLimits,
    lock: StateFolder,
    shared: SharedArrays | None,
    opened: ExitStack,
    now: float,
) -> State:
    """Open and restore the files; `opened` discards them again."""
    layout = make_windows_layout(
        list(contract.features), contract.context_length, contract.step_seconds, limits.capacity
    )
    windows_file, former_path = open_state_file(folder / WINDOWS_NAME, layout)
    opened.callback(windows_file.discard)
    board_layout = _make_board_layout(contract, limits.capacity, windows_file.identifier)
    board_file, former_board = open_state_file(folder / FORECASTS_NAME, board_layout)
    opened.callback(board_file.discard)
    memory_file, former_memory = None, None
    if keeps_memory(contract, is_wanted=limits.has_memory):
        memory_layout = make_memory_layout(list(contract.features), limits.capacity, windows_file.identifier)
        memory_file, former_memory = open_memory_file(folder / MEMORY_NAME, memory_layout)
        opened.callback(memory_file.discard)
    in_use = shared is not None and shared.in_use
    is_new = windows_file.is_new or (memory_file is not None and memory_file.is_new)
    if in_use and (former_path or former_board or former_memory or is_new):
        raise StateReplacedError(f"{folder}: the state must be replaced, and other processes use it")
    volatile = None if shared is None else shared.volatile
    files = _Files(windows_file, board_file, memory_file)
    state = _make_state(contract, lock, files, limits, volatile)
    if in_use:
        drop_impossible_forecasts(state)
    else:
        restore_state(state, FormerFiles(former_path, former_board, former_memory), now)
    if memory_file is None:
        remove_memory_file(folder / MEMORY_NAME)
    return state


def _abandon(folder: Path, lock: StateFolder, opened: ExitStack) -> None:
    """Release a folder that could not be opened."""
    try:
        opened.close()
        if lock.was_clean:
            lock.mark_clean()  # the files that are left are as they were found
    except OSError as error:
        log.warning("state_not_flushed", folder=str(folder), error=error.strerror or str(error))
    lock.close()


def open_shared_state(folder: Path, contract: ModelContract, limits: WindowLimits, shared: SharedArrays) -> State:
    """Open a state folder that another process of this daemon has open; its slots have no names here at first.

    Raises `StateError`, and `StateReplacedError` if the files have another layout.
    """
    layout = make_windows_layout(
        list(contract.features), contract.context_length, contract.step_seconds, limits.capacity
    )
    try:
        windows_file = StateFile(folder / WINDOWS_NAME, layout, is_shared=True)
        board_layout = _make_board_layout(contract, limits.capacity, windows_file.identifier)
        board_file = StateFile(folder / FORECASTS_NAME, board_layout, is_shared=True)
        memory_file = None
        if keeps_memory(contract, is_wanted=limits.has_memory):
            memory_layout = make_memory_layout(list(contract.features), limits.capacity, windows_file.identifier)
            memory_file = StateFile(folder / MEMORY_NAME, memory_layout, is_shared=True)
    except ForeignLayoutError as exc:
        raise StateReplacedError(f"{folder}: {exc}") from exc
    files = _Files(windows_file, board_file, memory_file)
    return _make_state(contract, SharedFolder(), files, limits, shared.volatile, is_named=False)


def _make_board_layout(contract: ModelContract, capacity: int, windows: str) -> Layout:
    """Return the layout of a forecast file; `windows` is the identifier of the window file that has its slots."""
    identity = {
        "kind": "forecasts",
        "layout": board.BOARD_LAYOUT,
        "windows": windows,
        "targets": list(contract.targets),
        "quantiles": list(contract.quantiles),
        "horizon": contract.horizon,
    }
    return Layout(board.make_board_columns(contract), capacity, identity)


def _make_state(
    contract: ModelContract,
    lock: StateFolder | SharedFolder,
    files: _Files,
    limits: WindowLimits,
    volatile: NamedArrays | None = None,
    *,
    is_named: bool = True,
) -> State:
    """Return the state over its files; without `is_named`, the follower of the servers adds their names."""
    arrays = files.windows.map_arrays()
    named = arrays if is_named else _hide_names(arrays, limits.capacity)
    directory = Directory(named, volatile, has_checks=True)
    memory = None if files.memory is None else make_memory_store(files.memory, arrays, contract, directory.seeds)
    windows = WindowStore(
        arrays,
        volatile=volatile,
        seeds=directory.seeds,
        need=min(limits.need, contract.context_length),
        late_steps=limits.late_steps,
        grace_seconds=limits.grace_seconds,
        memory=memory,
    )
    return State(
        contract=contract,
        lock=lock,
        windows_file=files.windows,
        board_file=files.board,
        memory_file=files.memory,
        directory=directory,
        windows=windows,
        board=ForecastBoard(files.board.map_arrays(), directory.seeds),
        is_shared=volatile is not None,
    )


def _hide_names(arrays: NamedArrays, capacity: int) -> NamedArrays:
    """Return the arrays with names of their own, all empty: pages of zeros that are never written take no memory."""
    columns = tuple(each for each in DIRECTORY_COLUMNS if each.name != "last_seen")
    return {**arrays, **make_zeros(columns, capacity)}
