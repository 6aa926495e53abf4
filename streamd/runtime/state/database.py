"""SQLite files of the state folder: opened so that they survive `kill -9`, and replaced if they are damaged.

Blocks: call it in a thread. What a file holds is up to its owner.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import structlog

from streamd.regular_files import require_regular
from streamd.runtime.state.folder import find_free_name

log = structlog.get_logger(__name__)

BUSY_SECONDS = 10.0
"""How long a statement waits for another connection to the same file, such as that of a person who reads it."""

_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_SIDE_FILES = ("-wal", "-shm")


def open_database(
    path: Path, prepare: Callable[[sqlite3.Connection], None], *, synchronous: Literal["NORMAL", "FULL"] = "NORMAL"
) -> sqlite3.Connection:
    """Open a file, or make it; `prepare` makes the tables and reads what shows damage. Transactions are explicit.

    A damaged file is set aside with a line in the log, and a new one is made. A transaction that ended survives the
    end of the process, with `FULL` also that of the machine. Raises `sqlite3.Error` if the file cannot be used.
    """
    try:
        return _open(path, prepare, synchronous)
    except sqlite3.DatabaseError as exc:
        if not is_damage(exc):
            raise
        set_database_aside(path, str(exc))
        return _open(path, prepare, synchronous)


def _open(path: Path, prepare: Callable[[sqlite3.Connection], None], synchronous: str) -> sqlite3.Connection:
    _make_file(path)
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _make_file(path: Path) -> None:
    """Make the file with the permissions of the other state files; SQLite gives its side files the same ones."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o640)
        try:
            require_regular(descriptor, path)
        finally:
            os.close(descriptor)
    except OSError as exc:
        raise sqlite3.OperationalError(str(exc)) from exc


def prepare_tables(connection: sqlite3.Connection, layout: int, tables: str) -> None:
    """Make the tables of a new file by the statements `tables`, all of them or none.

    Raises an error that says that the file is damaged if it has another layout.
    """
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found not in (0, layout):
        raise make_damage_error(f"it has layout {found}, expected {layout}")
    if not found:
        connection.executescript(f"BEGIN; {tables} PRAGMA user_version = {layout}; COMMIT;")


@contextmanager
def finding_damage() -> Iterator[None]:
    """Turn what shows that tables hold something else into an error that says that the file is damaged."""
    try:
        yield
    except ValueError as exc:  # of what decodes their content
        raise make_damage_error(str(exc)) from exc
    except sqlite3.OperationalError as exc:
        # The tables are other ones, or, without a code, a text of theirs is not UTF-8.
        if getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR) == sqlite3.SQLITE_ERROR:
            raise make_damage_error(str(exc)) from exc
        raise


def make_damage_error(reason: str) -> sqlite3.DatabaseError:
    """Return an error that says that a file is damaged, for what SQLite itself does not find."""
    error = sqlite3.DatabaseError(reason)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def is_damage(error: sqlite3.Error) -> bool:
    """Whether an error says that the file is damaged, or is none of SQLite; others, such as a full disk, may pass."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _DAMAGE


def set_database_aside(path: Path, reason: str) -> Path:
    """Rename a damaged file, which is closed, and the files of its last transactions; returns the new name."""
    aside = find_free_name(path)
    for suffix in _SIDE_FILES:  # first: after a kill in between, a new file must not find them
        side = path.with_name(path.name + suffix)
        if side.exists():
            side.replace(aside.with_name(aside.name + suffix))
    path.replace(aside)
    log.warning("state_set_aside", file=str(aside), reason=reason)
    return aside
