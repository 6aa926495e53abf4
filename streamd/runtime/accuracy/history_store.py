"""The kept forecasts, their truth and their scores in an SQLite file, by server and step.

Blocks: one thread uses a store, one call at a time. Times are steps of the grid; names are the bytes of their UTF-8.
"""

import math
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import structlog

from streamd.core.accuracy.history_scores import HistoryForm
from streamd.core.arrays import Float32
from streamd.core.state.window_columns import NO_STEP
from streamd.runtime.accuracy.history_records import (
    Change,
    DroppedHistory,
    KeptForecast,
    KnownTruth,
    ServerHistory,
    StoredForecast,
    StoredScores,
    StoredServer,
)
from streamd.runtime.state.database import (
    finding_damage,
    is_damage,
    open_database,
    prepare_tables,
    set_database_aside,
)

log = structlog.get_logger(__name__)

T = TypeVar("T")

_LAYOUT = 1

RETAINED_WINDOWS = 2
"""A forecast with its truth is deleted once it is so many windows older than the newest one of its server."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS form (identity BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS models (id INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS servers (id INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS forecasts (
    id INTEGER PRIMARY KEY, server INTEGER NOT NULL, step INTEGER NOT NULL, model INTEGER NOT NULL,
    is_complete INTEGER NOT NULL, quantiles BLOB NOT NULL, truth BLOB, UNIQUE (server, step)
);
CREATE TABLE IF NOT EXISTS scores (
    id INTEGER PRIMARY KEY, server INTEGER NOT NULL, step INTEGER NOT NULL, model INTEGER NOT NULL,
    sums BLOB NOT NULL, UNIQUE (server, step)
);
"""
# The blobs are float32, little-endian. `is_complete` stands before them: SQLite reads a row from its beginning.


class HistoryStore:
    """The file of the history. Raises `sqlite3.Error` if it cannot be used; a damaged one is replaced by an empty one.

    `retention_steps` is the age at which scores are deleted, by the newest forecast of their server.
    """

    def __init__(self, path: Path, form: HistoryForm, retention_steps: int) -> None:
        self._path = path
        self._form = form
        self._retention_steps = retention_steps
        self._connection = open_database(path, self._prepare)
        self.forecasts = self._count("forecasts")
        """The number of stored forecasts."""
        self.scored = self._count("scores")
        """The number of forecasts whose scores are stored."""

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA secure_delete = ON")  # nothing of a server that was forgotten stays in the file
        prepare_tables(connection, _LAYOUT, _SCHEMA)
        contract = self._form.contract
        identity = repr((contract.targets, contract.horizon, contract.step_seconds, self._form.quantiles)).encode()
        with finding_damage():
            found = connection.execute("SELECT identity FROM form").fetchone()
            connection.execute("SELECT server, step, model, is_complete, quantiles, truth FROM forecasts LIMIT 0")
            connection.execute("SELECT server, step, model, sums FROM scores LIMIT 0")
        if found == (identity,):
            return
        if found is not None:
            log.info(
                "history_restarted", reason="the model has other targets, quantiles or steps", file=str(self._path)
            )
        tables = ("form", "models", "servers", "forecasts", "scores")
        deletions = " ".join(f"DELETE FROM {table};" for table in tables)
        connection.executescript(f"BEGIN; {deletions} INSERT INTO form VALUES (x'{identity.hex()}'); COMMIT;")

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _count(self, table: str) -> int:
        return int(self._connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    # ------------------------------------------------------------ writing
    def apply_changes(self, changes: Iterable[Change]) -> None:
        """Apply changes in their order; if it raises `sqlite3.Error`, none was applied."""
        self._retry_after_damage(lambda: self._apply_changes(changes))

    def _retry_after_damage(self, work: Callable[[], T]) -> T:
        """Return what `work` returns; if it finds damage, it is done again with an empty file."""
        try:
            return work()
        except sqlite3.DatabaseError as exc:
            if not is_damage(exc):
                raise
            self._connection.close()
            set_database_aside(self._path, str(exc))
            self._connection = open_database(self._path, self._prepare)
            return work()

    def _apply_changes(self, changes: Iterable[Change]) -> None:
        with self._transaction():
            for change in changes:
                if isinstance(change, KeptForecast):
                    self._add_forecast(change)
                elif isinstance(change, KnownTruth):
                    self._add_truth(change)
                else:
                    self._drop_history(change)
        self.forecasts, self.scored = self._count("forecasts"), self._count("scores")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def _find_or_add(self, table: str, name: str) -> int:
        self._connection.execute(f"INSERT OR IGNORE INTO {table} (name) VALUES (?)", (name.encode(),))
        found = self._find(table, name)
        assert found is not None, "it was added"
        return found

    def _find(self, table: str, name: str) -> int | None:
        found = self._connection.execute(f"SELECT id FROM {table} WHERE name = ?", (name.encode(),)).fetchone()
        return None if found is None else int(found[0])

    def _add_forecast(self, kept: KeptForecast) -> None:
        server, model = self._find_or_add("servers", kept.server), self._find_or_add("models", kept.model)
        self._connection.execute(
            "INSERT OR REPLACE INTO forecasts (server, step, model, is_complete, quantiles) VALUES (?, ?, ?, 0, ?)",
            (server, kept.step, model, _to_blob(kept.values)),
        )
        retained = RETAINED_WINDOWS * self._form.contract.context_length
        for table, steps in (("forecasts", retained), ("scores", self._retention_steps)):
            self._connection.execute(f"DELETE FROM {table} WHERE server = ? AND step < ?", (server, kept.step - steps))

    def _add_truth(self, known: KnownTruth) -> None:
        server = self._find("servers", known.server)
        row = self._connection.execute(
            "SELECT model, quantiles FROM forecasts WHERE server = ? AND step = ?", (server, known.step)
        ).fetchone()
        if row is None:
            return  # it was deleted, because of its age or because its server was forgotten
        model, blob = row
        self._connection.execute(
            "UPDATE forecasts SET is_complete = 1, truth = ? WHERE server = ? AND step = ?",
            (_to_blob(known.truth), server, known.step),
        )
        values = _from_blob(blob, self._form.values_shape)
        if values is None or not np.isfinite(known.truth).any():
            return
        self._connection.execute(
            "INSERT OR REPLACE INTO scores (server, step, model, sums) VALUES (?, ?, ?, ?)",
            (server, known.step, model, _to_blob(self._form.compute_sums(values, known.truth))),
        )

    def _drop_history(self, dropped: DroppedHistory) -> None:
        server = self._find("servers", dropped.server)
        if server is None:
            return
        if dropped.after is None:
            for table, column in (("forecasts", "server"), ("scores", "server"), ("servers", "id")):
                self._connection.execute(f"DELETE FROM {table} WHERE {column} = ?", (server,))
            return
        # What is scored has its whole horizon in rows; a forecast without truth has rows up to its own step only.
        whole = dropped.after - self._form.contract.horizon
        self._connection.execute("DELETE FROM scores WHERE server = ? AND step > ?", (server, whole))
        self._connection.execute(
            "DELETE FROM forecasts WHERE server = ? AND (step > ? OR is_complete AND step > ?)",
            (server, dropped.after, whole),
        )

    # ------------------------------------------------------------ reading
    def read_servers(self) -> dict[str, StoredServer]:
        """Return all servers of the file by name."""
        return self._retry_after_damage(self._read_servers)

    def _read_servers(self) -> dict[str, StoredServer]:
        names: dict[int, bytes] = dict(self._connection.execute("SELECT id, name FROM servers"))
        newest: dict[int, int] = defaultdict(lambda: NO_STEP)
        newest.update(self._connection.execute("SELECT server, max(step) FROM scores GROUP BY server"))
        pending: dict[int, list[int]] = defaultdict(list)
        for server, step, is_complete in self._connection.execute("SELECT server, step, is_complete FROM forecasts"):
            newest[server] = max(newest[server], step)
            if not is_complete:
                pending[server].append(step)
        return {
            name.decode(errors="replace"): StoredServer(newest[server], sorted(pending[server]))
            for server, name in names.items()
        }

    def read_history(self, server: str, first: int, last: int, limit: int) -> ServerHistory:
        """Return the history of one server from step `first` to `last`, with the newest `limit` forecasts."""
        return self._retry_after_damage(lambda: self._read_history(server, first, last, limit))

    def _read_history(self, server: str, first: int, last: int, limit: int) -> ServerHistory:
        between = (self._find("servers", server), first, last)
        models = {
            number: name.decode(errors="replace")
            for number, name in self._connection.execute("SELECT id, name FROM models")
        }
        shape, scores, forecasts = self._form.values_shape, list[StoredScores](), list[StoredForecast]()
        columns = "model, is_complete, quantiles, truth"
        for step, model, is_complete, blob, known in self._read_newest(columns, "forecasts", between, limit):
            if (values := _from_blob(blob, shape)) is not None:
                truth = _from_blob(known, shape[:2])
                truth = np.full(shape[:2], np.nan, np.float32) if truth is None else truth
                forecasts.append(
                    StoredForecast(
                        step=step,
                        model=models.get(model, ""),
                        values=values,
                        truth=truth,
                        is_complete=bool(is_complete),
                    )
                )
        total, count = np.zeros(self._form.sums_shape), 0
        for step, model, blob in self._read_newest("model, sums", "scores", between, -1):
            sums = _from_blob(blob, self._form.sums_shape)
            if sums is not None:
                total += sums
                count += 1
                if count <= limit:
                    scores.append(StoredScores(step, models.get(model, ""), sums))
        return ServerHistory(forecasts[::-1], scores[::-1], total, count)

    def _read_newest(self, columns: str, table: str, between: Sequence[object], limit: int) -> Iterator[Any]:
        return self._connection.execute(
            f"SELECT step, {columns} FROM {table} WHERE server = ? AND step BETWEEN ? AND ? ORDER BY step DESC LIMIT ?",
            (*between, limit),
        )


def _to_blob(values: Float32) -> bytes:
    return np.ascontiguousarray(values, "<f4").tobytes()


def _from_blob(blob: object, shape: tuple[int, ...]) -> Float32 | None:
    """Return an array of a blob; `None` if it has another size, because the file is damaged."""
    if not isinstance(blob, bytes) or len(blob) != math.prod(shape) * 4:
        return None
    return np.frombuffer(blob, "<f4").reshape(shape).astype(np.float32)
