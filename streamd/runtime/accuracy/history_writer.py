"""The thread that has the file of the history: it writes changes, and reads the history of a server.

What it does comes in the order in which it was requested, so what is read has all changes that were given before. What
cannot be written now is written later, up to a limit.
"""

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

import structlog

from streamd.core.accuracy.history_scores import HistoryForm
from streamd.runtime.accuracy.history_records import (
    Change,
    DroppedHistory,
    KeptForecast,
    ServerHistory,
    StoredServer,
)
from streamd.runtime.accuracy.history_store import HistoryStore

log = structlog.get_logger(__name__)

MAX_UNWRITTEN = 8_192
"""Changes that wait for a file that cannot be written; beyond it the oldest forecasts and truths are dropped."""

Job = Callable[[], None]
T = TypeVar("T")


class HistoryWriter:
    """The thread and its file, which is opened at the first job; `start` makes the thread."""

    def __init__(self, path: Path, form: HistoryForm, retention_steps: int) -> None:
        self.write_errors = 0
        """Times that changes could not be written."""
        self.dropped = 0
        """Forecasts that were never stored because the file could not be written for too long."""
        self.problem = ""
        """Why the file cannot be used; empty if it can."""
        self._path = path
        self._form = form
        self._retention_steps = retention_steps
        self._store: HistoryStore | None = None
        self._unwritten: list[Change] = []
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def has_unwritten(self) -> bool:
        """Whether there are changes that could not be written."""
        return bool(self._unwritten)

    @property
    def forecasts(self) -> int:
        """The number of stored forecasts."""
        return 0 if self._store is None else self._store.forecasts

    @property
    def scored(self) -> int:
        """The number of forecasts whose scores are stored."""
        return 0 if self._store is None else self._store.scored

    # ------------------------------------------------------------ called by the event loop
    def write_changes(self, changes: Sequence[Change]) -> None:
        """Write changes, and those that could not be written before; returns at once."""
        self._add_job(lambda: self._write(changes))

    async def read_servers(self) -> dict[str, StoredServer]:
        """Return all servers of the file by name; raises `sqlite3.Error` or `OSError` if it cannot be used."""
        return await self._run(lambda: self._open().read_servers())

    async def read_history(self, server: str, first: int, last: int, limit: int) -> ServerHistory:
        """Return the history of a server as `HistoryStore.read_history` does, and raise what `read_servers` raises."""
        return await self._run(lambda: self._open().read_history(server, first, last, limit))

    def close(self, seconds: float) -> None:
        """Wait up to so many seconds until all is written and the file is closed."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join(seconds)

    async def _run(self, make: Callable[[], T]) -> T:
        """Run `make` in the thread, and return its result or raise its error."""
        answered: Future[T] = Future()

        def run() -> None:
            if not answered.set_running_or_notify_cancel():
                return
            try:
                answered.set_result(make())
            except Exception as exc:
                answered.set_exception(exc)

        self._add_job(run)
        return await asyncio.wrap_future(answered)

    def _add_job(self, job: Job) -> None:
        self._jobs.put(job)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="history", daemon=True)
            self._thread.start()

    # ------------------------------------------------------------ in the thread
    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
        if self._store is not None:
            self._store.close()

    def _open(self) -> HistoryStore:
        if self._store is None:
            self._store = HistoryStore(self._path, self._form, self._retention_steps)
        return self._store

    def _write(self, changes: Sequence[Change]) -> None:
        self._unwritten += changes
        try:
            self._open().apply_changes(self._unwritten)
        except (sqlite3.Error, OSError) as exc:
            self._note_failure(exc)
        else:
            self._unwritten = []
            if self.problem:
                log.info("history_written", file=str(self._path))
            self.problem = ""

    def _note_failure(self, error: Exception) -> None:
        if not self.problem:
            log.error("history_not_written", file=str(self._path), reason=str(error))
        self.problem = str(error)
        self.write_errors += 1
        surplus = len(self._unwritten) - MAX_UNWRITTEN
        if surplus > 0:
            # What drops a history is kept: a server that was forgotten must not appear again.
            lost = [change for change in self._unwritten if not isinstance(change, DroppedHistory)][:surplus]
            self.dropped += sum(isinstance(change, KeptForecast) for change in lost)
            doomed = set(map(id, lost))
            self._unwritten = [change for change in self._unwritten if id(change) not in doomed]
