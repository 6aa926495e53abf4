"""Everything that outlives the process: servers, windows and latest forecasts.

`opening.py` opens the mapped files. The policies over the arrays are in `core/state`.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import structlog

from streamd.core.arrays import Numbers, Slots
from streamd.core.contract import ModelContract
from streamd.core.errors import StorageError
from streamd.core.state.ahead_servers import AheadServers
from streamd.core.state.board import ForecastBoard
from streamd.core.state.directory import Directory
from streamd.core.state.memory import MemoryStore
from streamd.core.state.recovery import rewind
from streamd.core.state.windows import WindowStore
from streamd.runtime.state.folder import SharedFolder, StateFolder
from streamd.runtime.state.mapped_file import StateFile

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class WindowLimits:
    """The limits of windows; see `WindowStore`. With `has_memory`, their hourly means of a week are kept too."""

    capacity: int = 30_000
    need: int = 48
    late_steps: int = 288
    grace_seconds: float = 10.0
    has_memory: bool = True


@dataclass(kw_only=True)
class State:
    """The arrays of one state folder and the policies over them.

    `recovered` counts the findings of a restart: servers, interrupted changes of rows, slots that were freed because
    their stored names or numbers are implausible (`unreadable`), slots whose damage was undone (`repaired`), and rows
    that are missing because nothing proves them (`lost_rows`), and means of hours likewise (`lost_means`). `torn` is 1
    if the machine went down before. Without `memory_file`, no memory is kept.
    """

    contract: ModelContract
    lock: StateFolder | SharedFolder
    windows_file: StateFile
    board_file: StateFile
    directory: Directory
    windows: WindowStore
    board: ForecastBoard
    memory_file: StateFile | None = None
    recovered: dict[str, int] = field(default_factory=dict)
    set_aside: list[str] = field(default_factory=list)
    """The files that could not be read at start, by the paths that they were renamed to."""
    is_shared: bool = False
    """Whether other processes of this daemon write the windows too."""

    def __post_init__(self) -> None:
        arrays = self.windows.arrays
        self.ahead = AheadServers(self.directory.names, arrays["newest"], arrays["open_step"])
        self._refusal: StorageError | None = None
        self._needs_space = any(file.needs_spare_space for file in self.files)
        self.can_run_short = self._needs_space
        """Whether `find_shortage` can find one now: on most file systems it cannot."""

    @property
    def files(self) -> tuple[StateFile, ...]:
        """The mapped files."""
        files = (self.windows_file, self.board_file)
        return files if self.memory_file is None else (*files, self.memory_file)

    @property
    def memory(self) -> MemoryStore | None:
        """The hourly means of the last seven days; `None` if they are not kept."""
        return self.windows.memory

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
        for file in self.files:
            file.reserve(slot)
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
        self.directory.expire(slot)  # windows that run hold rows that were dropped
        return dropped

    def is_unforecast(self, slot: int) -> bool:
        """Whether a slot's window has enough rows, and its newest row has no forecast yet."""
        return self.windows.is_ready(slot) and self.windows.get_newest_step(slot) > self.board.get_step(slot)

    def snapshot_many(self, slots: Slots) -> tuple[Numbers, Numbers, Numbers]:
        """Return the generations of slots, their newest steps, and the numbers of rows in their windows; all `(n,)`."""
        contexts = self.windows.volatile["have"][slots].astype(np.int64)
        return self.directory.generations[slots], self.windows.arrays["newest"][slots], contexts

    def find_unforecast(self) -> list[int]:
        """Return the slots whose newest row was closed but not forecast when the former process ended."""
        return [slot for slot in self.directory.slots.values() if self.is_unforecast(slot)]

    def find_shortage(self) -> StorageError | None:
        """Return an error if nothing may be written, else `None`.

        See `refuse_writes` and `StateFile.find_shortage`.
        """
        if not self.can_run_short:
            return None
        return self._refusal or next(filter(None, (file.find_shortage() for file in self.files)), None)

    def refuse_writes(self, error: StorageError | None) -> None:
        """Let `find_shortage` return this error from now on, `None` to permit writes again."""
        self._refusal = error
        self.can_run_short = self._needs_space or error is not None

    def reserve_whole_pieces(self) -> None:
        """Reserve whole pieces of the files around the used slots; without space, the next call tries again."""
        for file in self.files:
            file.reserve_whole_pieces()

    def flush(self) -> None:
        """Write everything through to the disk; blocks."""
        for file in self.files:
            file.flush()

    def close(self) -> None:
        """Flush and release the folder. What cannot be flushed is logged, and the next start checks all rows."""
        if self.memory is not None:
            self.memory.settle()
        is_flushed = True
        for file in self.files:
            try:
                file.close()
            except OSError as exc:
                is_flushed = False
                log.error("state_not_flushed", file=str(file.path), error=exc.strerror or str(exc))
        if is_flushed and not self.lock.is_closed:
            self.lock.mark_clean()
        self.lock.close()
