"""The accuracy history: past forecasts of each server, what came true, and how far they were off.

Runs on the event loop: it copies the few forecasts that are kept, and the windows that have their truth. A thread
writes them, and computes the scores.
"""

import asyncio
import math
import sqlite3
from typing import Any

import numpy as np
import structlog

from streamd.core.accuracy.history_scores import HistoryForm
from streamd.core.accuracy.history_selection import HistoryLimits, HistorySelection
from streamd.core.accuracy.pending_truth import PendingTruth
from streamd.core.arrays import Float32, Numbers, Slots
from streamd.core.errors import UnavailableError
from streamd.core.selection import ServerGlobs
from streamd.core.state.window_copies import copy_window
from streamd.runtime.accuracy.history_records import (
    Change,
    DroppedHistory,
    KeptForecast,
    KnownTruth,
    ServerHistory,
    StoredForecast,
    StoredServer,
    make_empty_history,
)
from streamd.runtime.accuracy.history_writer import HistoryWriter
from streamd.runtime.background_tasks import BackgroundTasks
from streamd.runtime.state.state import State

log = structlog.get_logger(__name__)

SECONDS_A_DAY = 86_400

HISTORY_NAME = "history.sqlite"

MAX_WAITING = 4_096
"""Forecasts that are given to the thread at the next sweep; beyond it they are not kept, and counted."""

RETRY_SWEEPS = 60
"""After so many sweeps the file is opened again, if that failed."""

MAX_SCORED_SERVERS = 160
"""Servers whose truth is taken at one sweep: to copy a window takes 26 µs."""

READ_SECONDS = 10.0
"""How long a caller waits for the file."""

HISTORY_CLOSE_SECONDS = 2.0
"""How long `close` waits until all is written."""


class AccuracyHistory:
    """The history of the servers of one state folder. Without selected servers it does nothing and has no file.

    Call `open` once, `forecasts_posted` with each batch, `forget` when a slot gets another server or its newest rows
    were dropped, and `sweep` about every second. Before `open` has read the file, nothing is kept.
    """

    def __init__(self, state: State, limits: HistoryLimits) -> None:
        contract = state.contract
        self.form = HistoryForm(contract)
        self.limits = limits
        self.dropped = 0
        """Forecasts that were not kept because too many came within one sweep."""
        self._state = state
        self._selection = HistorySelection(limits, ServerGlobs(limits.servers).matches, state.directory.names)
        self._path = state.folder / HISTORY_NAME
        self._writer = HistoryWriter(
            self._path, self.form, math.ceil(limits.retention_days * SECONDS_A_DAY / contract.step_seconds)
        )
        self._changes: list[Change] = []
        self._pending = PendingTruth(state.directory.capacity, contract.horizon + limits.settle_steps)
        self._columns = [contract.feature_index[target] for target in contract.targets]
        self._window = np.empty(contract.input_shapes["encoder_cont"], np.float32)
        self._statuses = np.empty(contract.context_length, np.int32)
        self._first_servers: dict[str, tuple[int, int]] = {}  # slots and generations at the start, by name
        self._is_open = False
        self._has_file = False
        self._opening = BackgroundTasks()
        self._sweeps_until_open = 0

    # ------------------------------------------------------------ start
    def open(self) -> None:
        """Read which servers have a history already, in the thread; without a file, begin at once."""
        if not self.limits.servers:
            return
        self._has_file = self._path.exists()
        if self._has_file:
            directory = self._state.directory
            self._first_servers = {
                name: (slot, directory.get_generation(slot)) for name, slot in directory.slots.items()
            }
            self._opening.start(self._read_servers())
        else:
            self._is_open = True

    async def _read_servers(self) -> None:
        self._sweeps_until_open = RETRY_SWEEPS
        try:
            servers = await self._writer.read_servers()
        except (OSError, sqlite3.Error) as exc:
            log.error("history_not_opened", file=str(self._path), reason=str(exc))
            return
        self._restore_servers(servers)
        self._is_open = True

    def _restore_servers(self, servers: dict[str, StoredServer]) -> None:
        """Continue with the servers that were read; what was stored of others is deleted.

        Also that of one that was forgotten or lost rows since the start, although it may report again.
        """
        generations, first_servers = self._state.directory.generations, self._first_servers
        self._first_servers = {}
        for name, stored in servers.items():
            slot, generation = first_servers.get(name, (0, -1))
            newest = self._state.windows.get_newest_step(slot)
            if generations[slot] != generation or not self._selection.restore_server(slot, min(stored.newest, newest)):
                self._changes.append(DroppedHistory(name))
                continue
            if stored.newest > newest:  # its rows were dropped, or lost with the machine, before the file had it
                self._changes.append(DroppedHistory(name, newest))
            self._pending.restore(slot, [step for step in stored.pending if step <= newest])

    # ------------------------------------------------------------ forecasts and truth
    def forecasts_posted(self, slots: Slots, steps: Numbers, model: bytes, forecasts: Float32) -> None:
        """Keep some of the forecasts of a batch, `(n, targets, horizon, quantiles)`, from `steps`."""
        if not self._is_open:
            return
        places = self._selection.choose_places(slots, steps)
        if not places:
            return
        if len(self._changes) + len(places) > MAX_WAITING:
            self.dropped += len(places)
            return
        name, kept = model.decode(), self.form.cut(forecasts[places])
        for place, values in zip(places, kept, strict=True):
            slot, step = int(slots[place]), int(steps[place])
            self._changes.append(KeptForecast(self._selection.servers[slot], step, name, values))
            self._pending.add(slot, step)

    def sweep(self, most: int = MAX_SCORED_SERVERS) -> int:
        """Pass what was kept to the thread, with the truth of up to `most` servers; returns how many servers."""
        if not self._is_open:
            self._open_again()
            return 0
        due = self._pending.find_due(self._state.windows.arrays["newest"], most)
        for slot in due:
            self._take_truth(slot)
        if self._changes or self._writer.has_unwritten:
            self._writer.write_changes(self._take_changes())
        return len(due)

    def _open_again(self) -> None:
        if self._has_file and not len(self._opening):
            self._sweeps_until_open -= 1
            if self._sweeps_until_open <= 0:
                self._opening.start(self._read_servers())

    def _take_changes(self) -> list[Change]:
        changes, self._changes = self._changes, []
        self._has_file = self._has_file or bool(changes)
        return changes

    def _take_truth(self, slot: int) -> None:
        """Take the truth of the forecasts of a server whose horizon is over from its window."""
        newest = self._copy_window(slot)
        if newest is None:
            return
        for step in self._pending.take_known(slot, newest):
            truth = self.form.select_truth(newest, step, self._window[:, self._columns])
            self._changes.append(KnownTruth(self._selection.servers[slot], step, truth))

    def _copy_window(self, slot: int) -> int | None:
        """Copy a server's window; returns the step of its last row, `None` while another process changes it."""
        copied = copy_window(self._state.windows, slot, self._window, self._statuses)
        return None if copied is None else copied.newest

    def forget(self, slot: int) -> None:
        """Drop a slot that gets another server; if it still has its server, only what came from dropped rows."""
        name = self._selection.servers.get(slot)
        if name is None or self._state.directory.names[slot] != name:
            if self._selection.forget_server(slot) is not None:
                assert name is not None
                self._changes.append(DroppedHistory(name))
            self._pending.forget(slot)
        else:
            newest = self._state.windows.get_newest_step(slot)
            self._selection.restart_server(slot)
            self._changes.append(DroppedHistory(name, newest))
            self._pending.drop_after(slot, newest)

    # ------------------------------------------------------------ reading
    async def read_history(self, slot: int, first: int, last: int, limit: int) -> ServerHistory:
        """Return the history of a server between two steps, with the newest `limit` forecasts and scores.

        A forecast whose horizon is not over has the truth that is known by now. Raises `UnavailableError` if the
        file cannot be read.
        """
        name = self._selection.servers.get(slot)
        if name is None or not self._is_open:
            return make_empty_history(self.form)
        if changes := self._take_changes():
            self._writer.write_changes(changes)
        if not self._has_file:
            return make_empty_history(self.form)
        try:
            async with asyncio.timeout(READ_SECONDS):
                history = await self._writer.read_history(name, first, last, limit)
        except (OSError, sqlite3.Error) as exc:  # a timeout is an OSError
            raise UnavailableError(f"the accuracy history cannot be read: {str(exc) or 'no answer'}") from exc
        return history._replace(forecasts=self._add_known_truth(slot, name, history.forecasts))

    def _add_known_truth(self, slot: int, name: str, forecasts: list[StoredForecast]) -> list[StoredForecast]:
        """Return forecasts with the truth of those that are not complete, as far as it is known."""
        if self._state.directory.names[slot] != name or all(each.is_complete for each in forecasts):
            return forecasts
        newest = self._copy_window(slot)
        if newest is None:
            return forecasts
        rows = self._window[:, self._columns]
        return [
            each if each.is_complete else each._replace(truth=self.form.select_truth(newest, each.step, rows))
            for each in forecasts
        ]

    def close(self) -> None:
        """Write what was kept, wait up to `HISTORY_CLOSE_SECONDS` for it, and close the file."""
        self._opening.cancel()
        if self._changes:
            self._writer.write_changes(self._take_changes())
        self._is_open = False
        self._writer.close(HISTORY_CLOSE_SECONDS)

    # ------------------------------------------------------------ reports
    def describe(self) -> dict[str, Any]:
        """Return the entry `accuracy_history` of `/v1/status`."""
        return {
            "servers": self.servers,
            "left_out": self.left_out,
            "forecasts": self.forecasts,
            "scored": self._writer.scored,
            "dropped": self.count_dropped(),
            "write_errors": self.write_errors,
            "problem": self._writer.problem or None,
        }

    @property
    def servers(self) -> int:
        """The number of servers that have a history."""
        return len(self._selection.servers)

    @property
    def left_out(self) -> int:
        """The number of servers that have none because others took all places."""
        return self._selection.left_out

    @property
    def forecasts(self) -> int:
        """The number of stored forecasts."""
        return self._writer.forecasts

    @property
    def write_errors(self) -> int:
        """The number of times that changes could not be written."""
        return self._writer.write_errors

    def count_dropped(self) -> int:
        """Return the number of forecasts that were selected and not stored."""
        return self.dropped + self._writer.dropped
