"""The silences in the database of the alerts: a table of its own. Blocks; the store of the alerts calls it."""

import sqlite3
from collections.abc import Iterable

import msgspec

from streamd.core.alerts.silences import Silence

# Beside the layout of the other tables: a file that an older version made gets the table too, and loses nothing.
_TABLE = """
    CREATE TABLE IF NOT EXISTS silences (
        id TEXT NOT NULL PRIMARY KEY, ends_at REAL NOT NULL, body BLOB NOT NULL
    ) WITHOUT ROWID
"""
_SAVE = "INSERT INTO silences VALUES (?, ?, ?)"
_DELETE = "DELETE FROM silences WHERE id = ?"
_READ = "SELECT body FROM silences ORDER BY id"


def make_silence_table(connection: sqlite3.Connection) -> None:
    """Make the table, unless the file has it."""
    connection.execute(_TABLE)


def read_silences(connection: sqlite3.Connection) -> list[Silence]:
    """Return the silences that are stored, those that have ended too, in the order in which they began."""
    silences = [msgspec.json.decode(body, type=Silence) for (body,) in connection.execute(_READ)]
    return sorted(silences, key=lambda silence: silence.starts_at)


def save_silence(connection: sqlite3.Connection, silence: Silence) -> None:
    """Save a new silence, in a transaction of its own."""
    connection.execute(_SAVE, (silence.id, silence.ends_at, msgspec.json.encode(silence)))


def delete_silences(connection: sqlite3.Connection, silence_ids: Iterable[str]) -> None:
    """Delete silences; one that is not there is passed over."""
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(_DELETE, [(each,) for each in silence_ids])
