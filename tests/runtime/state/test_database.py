"""Tests `streamd/runtime/state/database.py`: a damaged file is replaced, and one that cannot be used is not."""

import sqlite3
from pathlib import Path

import pytest

from streamd.runtime.state.database import finding_damage, is_damage, open_database, prepare_tables


def prepare(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE IF NOT EXISTS numbers (number INTEGER)")
    connection.execute("SELECT count(*) FROM numbers").fetchone()


def add_number(path: Path) -> None:
    connection = open_database(path, prepare)
    connection.execute("INSERT INTO numbers VALUES (7)")
    connection.close()


def read_numbers(path: Path) -> list[int]:
    connection = open_database(path, prepare)
    found = [number for (number,) in connection.execute("SELECT number FROM numbers")]
    connection.close()
    return found


def test_what_was_written_is_there_after_the_next_opening(tmp_path: Path) -> None:
    add_number(tmp_path / "x.sqlite")
    assert read_numbers(tmp_path / "x.sqlite") == [7]


@pytest.mark.parametrize("content", [b"no database" * 1_000, b"SQLite format 3\x00" + bytes(4_080)])
def test_a_damaged_file_is_set_aside(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.sqlite"
    path.write_bytes(content)
    assert read_numbers(path) == []
    (aside,) = tmp_path.glob("*.old")
    assert aside.read_bytes() == content


def test_a_damaged_page_is_noticed_where_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    add_number(path)
    path.write_bytes(path.read_bytes()[:4_096] + b"\xff" * 4_096)
    assert read_numbers(path) == []
    assert len(list(tmp_path.glob("*.old"))) == 1


def test_a_file_that_cannot_be_used_is_no_damage(tmp_path: Path) -> None:
    (tmp_path / "x.sqlite").mkdir()
    with pytest.raises(sqlite3.OperationalError) as caught:
        open_database(tmp_path / "x.sqlite", prepare)
    assert not is_damage(caught.value)
    assert list(tmp_path.iterdir()) == [tmp_path / "x.sqlite"]


def prepare_names(connection: sqlite3.Connection) -> None:
    prepare_tables(connection, 1, "CREATE TABLE names (name TEXT);")
    with finding_damage():
        connection.execute("SELECT name FROM names").fetchall()


@pytest.mark.parametrize(
    "spoil",
    [
        "PRAGMA user_version = 2",
        "ALTER TABLE names RENAME COLUMN name TO other",
        "INSERT INTO names VALUES (CAST(x'ff' AS TEXT))",  # not UTF-8
    ],
)
def test_tables_that_hold_something_else_are_set_aside(tmp_path: Path, spoil: str) -> None:
    path = tmp_path / "x.sqlite"
    connection = open_database(path, prepare_names)
    connection.execute(spoil)
    connection.close()
    open_database(path, prepare_names).close()
    assert len(list(tmp_path.glob("*.old"))) == 1


def test_tables_are_made_once(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    connection = open_database(path, prepare_names)
    connection.execute("INSERT INTO names VALUES ('a')")
    connection.close()
    connection = open_database(path, prepare_names)
    assert connection.execute("SELECT name FROM names").fetchall() == [("a",)]
    connection.close()
