"""The alerts on the disk, in a database of SQLite: what is active, what was resolved, what was delivered, silences.

Used by the thread of the alerts, after it was opened; only `mark_delivered` and `read_marks` are called on the event
loop, and neither waits. What `write` has written survives the end of the process and a loss of power.
"""

import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from streamd.core.alerts.silences import Silence
from streamd.core.errors import StorageError
from streamd.regular_files import sync_folder
from streamd.runtime.alerts.alert import Alert, AlertChange, AlertKey, AlertState
from streamd.runtime.alerts.silence_table import (
    delete_silences,
    make_silence_table,
    read_silences,
    save_silence,
)
from streamd.runtime.state.database import finding_damage, make_damage_error, open_database, prepare_tables

ALERTS_FILE_NAME = "alerts.sqlite"

MAX_RESOLVED = 1_000
"""The resolved alerts that are remembered, the newest ones."""

TRIM_INTERVAL = 100
"""Older ones, and the marks of alerts that are not remembered, are removed each time that so many were resolved."""

_LAYOUT = 1
_TABLES = """
    CREATE TABLE IF NOT EXISTS active (
        rule TEXT NOT NULL, server TEXT NOT NULL, fingerprint TEXT NOT NULL, streak INTEGER NOT NULL,
        starts_at REAL, body BLOB NOT NULL, PRIMARY KEY (rule, server)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS resolved (
        number INTEGER PRIMARY KEY AUTOINCREMENT, rule TEXT NOT NULL, server TEXT NOT NULL, starts_at REAL NOT NULL,
        body BLOB NOT NULL
    );
    CREATE INDEX IF NOT EXISTS resolved_by_name ON resolved (rule, server, starts_at);
    CREATE TABLE IF NOT EXISTS marks (
        receiver TEXT NOT NULL, rule TEXT NOT NULL, server TEXT NOT NULL, starts_at REAL NOT NULL, state TEXT NOT NULL,
        PRIMARY KEY (receiver, rule, server, starts_at, state)
    ) WITHOUT ROWID;
"""
_SAVE = "INSERT OR REPLACE INTO active VALUES (?, ?, ?, ?, ?, ?)"
_DELETE = "DELETE FROM active WHERE rule = ? AND server = ?"
_RESOLVE = "INSERT INTO resolved (rule, server, starts_at, body) VALUES (?, ?, ?, ?)"
_TRIM = "DELETE FROM resolved WHERE number <= (SELECT max(number) FROM resolved) - ?"
_MARK = "INSERT OR IGNORE INTO marks VALUES (?, ?, ?, ?, ?)"
_TRIM_MARKS = """
    DELETE FROM marks WHERE NOT EXISTS (
        SELECT 1 FROM active WHERE rule = marks.rule AND server = marks.server AND starts_at = marks.starts_at
    ) AND NOT EXISTS (
        SELECT 1 FROM resolved WHERE rule = marks.rule AND server = marks.server AND starts_at = marks.starts_at
    )
"""


@dataclass(frozen=True)
class DeliveryMark:
    """The fact that a receiver has got an alert in one of its states."""

    receiver: str
    key: AlertKey
    starts_at: float
    state: AlertState


@dataclass(frozen=True)
class StoredChange:
    """A change of an alert with what a restart needs beside it."""

    change: AlertChange
    fingerprint: str
    """That of the rule's definition."""
    streak: int
    """How many forecasts in a row speak for its next state."""


@dataclass(frozen=True)
class StoredAlert:
    """An active alert of the former process."""

    alert: Alert
    fingerprint: str
    streak: int


class AlertStore:
    """The database of one state folder; `open_alert_store` makes it. Raises `StorageError` if it cannot be written."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._resolved_since_trim = 0
        self._waiting_marks: deque[DeliveryMark] = deque()
        self._marks = _read_marks(self._connection)

    # ------------------------------------------------------------ marks
    def mark_delivered(self, receiver: str, key: AlertKey, starts_at: float, state: AlertState) -> None:
        """Note that a receiver has got an alert; it is on the disk about a second later.

        So after a kill in between, the receiver gets the alert again.
        """
        mark = DeliveryMark(receiver, key, starts_at, state)
        if mark not in self._marks:
            self._marks.add(mark)
            self._waiting_marks.append(mark)

    @property
    def has_waiting_marks(self) -> bool:
        """Whether marks are not on the disk yet."""
        return bool(self._waiting_marks)

    def read_marks(self) -> frozenset[DeliveryMark]:
        """Return the marks of all alerts that are active or remembered."""
        return frozenset(self._marks)

    # ------------------------------------------------------------ alerts
    def read_active(self) -> list[StoredAlert]:
        """Return the alerts that were pending or firing."""
        return _read_active(self._connection)

    def read_resolved(self) -> list[Alert]:
        """Return the resolved alerts that are remembered, the newest one first."""
        return _read_resolved(self._connection)

    def write(self, changes: Sequence[StoredChange] = ()) -> None:
        """Write changes in their order, and the marks that wait, through to the disk: all of them, or none.

        Raises `StorageError` if that fails; the marks wait on.
        """
        marks = list(self._waiting_marks)
        if not changes and not marks:
            return
        with self._translating(), self._connection as connection:  # commits, or undoes all if there is an error
            connection.execute("BEGIN IMMEDIATE")
            for each in changes:
                self._write_change(connection, each)
            connection.executemany(
                _MARK, [(mark.receiver, *mark.key, mark.starts_at, mark.state.value) for mark in marks]
            )
            is_trimmed = self._trim(connection)
        for _ in marks:
            self._waiting_marks.popleft()
        if is_trimmed:
            self._marks = _read_marks(self._connection) | set(self._waiting_marks)

    def _write_change(self, connection: sqlite3.Connection, stored: StoredChange) -> None:
        alert = stored.change.alert
        if stored.change.kind not in ("resolved", "dropped"):
            body = msgspec.json.encode(alert)
            connection.execute(_SAVE, (*alert.key, stored.fingerprint, stored.streak, alert.starts_at, body))
            return
        connection.execute(_DELETE, alert.key)
        if stored.change.kind == "resolved":
            connection.execute(_RESOLVE, (*alert.key, alert.starts_at, msgspec.json.encode(alert)))
            self._resolved_since_trim += 1

    def _trim(self, connection: sqlite3.Connection) -> bool:
        if self._resolved_since_trim < TRIM_INTERVAL:
            return False
        self._resolved_since_trim = 0
        connection.execute(_TRIM, (MAX_RESOLVED,))
        connection.execute(_TRIM_MARKS)
        return True

    # ------------------------------------------------------------ silences
    def read_silences(self) -> list[Silence]:
        """Return the silences that were not removed, those that have ended meanwhile too."""
        return read_silences(self._connection)

    def add_silence(self, silence: Silence) -> None:
        """Write a silence through to the disk; raises `StorageError` if that fails."""
        with self._translating():
            save_silence(self._connection, silence)

    def remove_silences(self, silence_ids: Iterable[str]) -> None:
        """Remove silences from the disk, all of them or none; raises `StorageError` if that fails."""
        with self._translating():
            delete_silences(self._connection, silence_ids)

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as exc:
            raise StorageError(f"{self.path}: cannot be written: {exc}") from exc

    def trace(self, function: Callable[[str], None] | None) -> None:
        """Call a function before each statement from now on, with its text; `None` ends it (for tests)."""
        self._connection.set_trace_callback(function)

    def close(self) -> None:
        """Close the database."""
        self._connection.close()


def open_alert_store(folder: Path) -> AlertStore:
    """Open the database of a state folder, which the daemon has locked, or make it.

    A damaged one is set aside, and a new one is made. Raises `StorageError` if the file cannot be used.
    """
    path = folder / ALERTS_FILE_NAME
    try:
        connection = open_database(path, _prepare, synchronous="FULL")
        sync_folder(folder)
        return AlertStore(path, connection)
    except (OSError, sqlite3.Error) as exc:
        raise StorageError(f"{path}: cannot be opened: {exc}") from exc


def _prepare(connection: sqlite3.Connection) -> None:
    """Make the tables; raises an error of SQLite for a file that has anything but alerts."""
    (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise make_damage_error(found)
    prepare_tables(connection, _LAYOUT, _TABLES)
    make_silence_table(connection)
    with finding_damage():
        read_silences(connection)
        _read_active(connection)
        _read_resolved(connection)
        _read_marks(connection)


def _read_active(connection: sqlite3.Connection) -> list[StoredAlert]:
    rows = connection.execute("SELECT body, fingerprint, streak FROM active ORDER BY rule, server")
    return [StoredAlert(_decode_alert(body), str(fingerprint), int(streak)) for body, fingerprint, streak in rows]


def _read_resolved(connection: sqlite3.Connection) -> list[Alert]:
    rows = connection.execute("SELECT body FROM resolved ORDER BY number DESC LIMIT ?", (MAX_RESOLVED,))
    return [_decode_alert(body) for (body,) in rows]


def _read_marks(connection: sqlite3.Connection) -> set[DeliveryMark]:
    rows = connection.execute("SELECT receiver, rule, server, starts_at, state FROM marks")
    return {
        DeliveryMark(receiver, (rule, server), starts_at, AlertState(state))
        for receiver, rule, server, starts_at, state in rows
    }


def _decode_alert(body: bytes) -> Alert:
    return msgspec.json.decode(body, type=Alert)
