"""Tests `streamd/runtime/alerts/store.py`: what is read again after an end, a kill at any statement, and damage."""

import os
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.core.errors import StorageError
from streamd.runtime.alerts.alert import Alert, AlertChange, AlertState, ChangeKind
from streamd.runtime.alerts.store import (
    ALERTS_FILE_NAME,
    AlertStore,
    DeliveryMark,
    StoredAlert,
    StoredChange,
    open_alert_store,
)
from tests.support.kill_alert_store import change_until_killed, write_until_killed
from tests.support.kill_points import choose_kills
from tests.support.made_alerts import make_alert
from tests.support.silence_rig import make_silence

FIRING, PENDING, RESOLVED = AlertState.FIRING, AlertState.PENDING, AlertState.RESOLVED


def fired(server: str = "db-1", starts_at: float = 5.0) -> StoredChange:
    """Return the change of an alert that fired."""
    alert = make_alert(server=server, state=FIRING, starts_at=starts_at)
    return StoredChange(AlertChange(alert, "fired"), "f1", 0)


def resolved(server: str = "db-1", starts_at: float = 5.0) -> StoredChange:
    """Return the change of an alert that was resolved."""
    alert = make_alert(server=server, state=RESOLVED, starts_at=starts_at, ends_at=9.0, reason="cleared")
    return StoredChange(AlertChange(alert, "resolved"), "f1", 0)


def pending(server: str = "db-1", streak: int = 1, kind: ChangeKind = "pending") -> StoredChange:
    """Return the change of an alert that is pending, or that is dropped."""
    alert = make_alert(server=server, state=PENDING, starts_at=None)
    return StoredChange(AlertChange(alert, kind), "f1", streak)


def read_again(store: AlertStore, folder: Path) -> AlertStore:
    """Close a store and open it again."""
    store.close()
    return open_alert_store(folder)


def names(alerts: list[Alert]) -> list[str]:
    """Return the names of the servers."""
    return [alert.server for alert in alerts]


def test_a_new_store_is_empty_and_only_for_its_user_and_group(tmp_path: Path) -> None:
    store = open_alert_store(tmp_path)
    assert (store.read_active(), store.read_resolved(), store.read_marks()) == ([], [], frozenset())
    assert {path.stat().st_mode & 0o027 for path in tmp_path.iterdir()} == {0}
    store.close()


def test_active_alerts_are_read_again_as_they_were(tmp_path: Path) -> None:
    store = open_alert_store(tmp_path)
    changes = [fired("db-1"), pending("db-2", streak=3)]
    store.write(changes)
    store = read_again(store, tmp_path)
    assert store.read_active() == [StoredAlert(each.change.alert, "f1", each.streak) for each in changes]
    store.close()


def test_an_alert_that_ended_is_not_active_any_more(tmp_path: Path) -> None:
    store = open_alert_store(tmp_path)
    store.write([fired("db-1"), pending("db-2")])
    store.write([resolved("db-1"), pending("db-2", kind="dropped")])
    store = read_again(store, tmp_path)
    assert store.read_active() == []
    assert store.read_resolved() == [resolved("db-1").change.alert]
    store.close()


def test_changes_of_one_alert_are_written_in_their_order(tmp_path: Path) -> None:
    store = open_alert_store(tmp_path)
    store.write([fired(), resolved(), pending()])
    assert [each.alert.state for each in store.read_active()] == [PENDING]
    store.close()


def test_resolved_alerts_are_read_newest_first_and_the_oldest_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamd.runtime.alerts.store.MAX_RESOLVED", 3)
    monkeypatch.setattr("streamd.runtime.alerts.store.TRIM_INTERVAL", 1)
    store = open_alert_store(tmp_path)
    for number in range(5):
        store.mark_delivered("r", ("disk_fills", f"db-{number}"), 5.0, RESOLVED)
        store.write([resolved(f"db-{number}")])
    assert names(store.read_resolved()) == ["db-4", "db-3", "db-2"]
    expected = {DeliveryMark("r", ("disk_fills", f"db-{number}"), 5.0, RESOLVED) for number in (2, 3, 4)}
    assert store.read_marks() == expected
    store = read_again(store, tmp_path)
    assert store.read_marks() == expected
    store.close()


def test_marks_are_read_again_after_they_were_written(tmp_path: Path) -> None:
    store = open_alert_store(tmp_path)
    store.write([fired()])
    store.mark_delivered("hook", ("disk_fills", "db-1"), 5.0, FIRING)
    mark = DeliveryMark("hook", ("disk_fills", "db-1"), 5.0, FIRING)
    assert store.read_marks() == {mark}
    store.write()
    store.mark_delivered("hook", ("disk_fills", "db-1"), 5.0, FIRING)
    assert not store.has_waiting_marks, "it is there"
    store = read_again(store, tmp_path)
    assert store.read_marks() == {mark}
    store.close()


def test_a_write_that_fails_writes_nothing_and_its_marks_wait(tmp_path: Path) -> None:
    store = open_alert_store(tmp_path)
    store.write([fired("db-1")])
    store.mark_delivered("hook", ("disk_fills", "db-1"), 5.0, FIRING)

    refused = resolved("db-1")
    refused = replace(refused, change=replace(refused.change, alert=replace(refused.change.alert, starts_at=None)))
    with pytest.raises(StorageError, match=rf"{ALERTS_FILE_NAME}: cannot be written: .*starts_at"):
        store.write([fired("db-2"), refused, fired("db-3")])
    assert names([each.alert for each in store.read_active()]) == ["db-1"]
    assert store.has_waiting_marks
    store.write([fired("db-2")])
    assert names([each.alert for each in store.read_active()]) == ["db-1", "db-2"]
    store.close()


# ---------------------------------------------------------------- silences
def test_silences_are_read_again_in_the_order_in_which_they_began(tmp_path: Path) -> None:
    silences = [make_silence(name, starts_at=at) for name, at in (("b", 1.0), ("a", 3.0), ("c", 2.0))]
    store = open_alert_store(tmp_path)
    for silence in silences:
        store.add_silence(silence)
    store = read_again(store, tmp_path)
    assert store.read_silences() == [silences[0], silences[2], silences[1]]
    store.remove_silences(["a", "gone", "b"])
    store = read_again(store, tmp_path)
    assert store.read_silences() == [silences[2]]
    store.close()


def test_a_silence_that_cannot_be_written_is_not_there(tmp_path: Path) -> None:
    store = open_alert_store(tmp_path)
    store.add_silence(make_silence(why="first"))
    with pytest.raises(StorageError, match=rf"{ALERTS_FILE_NAME}: cannot be written"):
        store.add_silence(make_silence(why="the id is taken"))
    assert [each.why for each in store.read_silences()] == ["first"]
    store.close()


def test_a_file_of_an_older_version_keeps_its_alerts_and_takes_silences(tmp_path: Path) -> None:
    store = open_alert_store(tmp_path)
    store.write([fired()])
    store.close()
    connection = sqlite3.connect(tmp_path / ALERTS_FILE_NAME)
    connection.execute("DROP TABLE silences")
    connection.execute("UPDATE active SET body = json_remove(CAST(body AS TEXT), '$.silenced_until', '$.is_withheld')")
    connection.commit()
    connection.close()
    store = open_alert_store(tmp_path)
    assert [each.alert for each in store.read_active()] == [fired().change.alert]
    store.add_silence(make_silence())
    store.close()
    assert not list(tmp_path.glob("*.old"))


def test_a_process_that_is_killed_leaves_each_silence_whole(tmp_path_factory: pytest.TempPathFactory) -> None:
    silences = [make_silence("a"), make_silence("b")]

    def change(store: AlertStore, done: Callable[[], None]) -> None:
        for silence in silences:
            store.add_silence(silence)
            done()
        store.remove_silences(["a", "b"])
        done()

    expected = [[], silences[:1], silences, []]
    _, statements = change_until_killed(tmp_path_factory.mktemp("whole"), change, None)
    for kill_at in range(statements):
        folder = tmp_path_factory.mktemp("killed")
        changed, _ = change_until_killed(folder, change, kill_at)
        store = open_alert_store(folder)
        found = store.read_silences()
        store.close()
        assert found in expected[changed : changed + 2]


# ---------------------------------------------------------------- damage
@pytest.mark.parametrize(
    "damage", ["no database", "cut off", "later layout", "other tables", "no alert", "no count", "no silence"]
)
def test_a_damaged_file_is_set_aside_and_a_new_one_is_made(tmp_path: Path, damage: str) -> None:
    store = open_alert_store(tmp_path)
    store.write([fired()])
    store.close()
    path = tmp_path / ALERTS_FILE_NAME
    if damage == "no database":
        path.write_bytes(b"x" * 8_192)
    elif damage == "cut off":
        os.truncate(path, path.stat().st_size // 2 + 100)
    else:
        connection = sqlite3.connect(path)
        statement = {
            "later layout": "PRAGMA user_version = 2",
            "other tables": "ALTER TABLE active RENAME COLUMN body TO text",
            "no alert": "UPDATE active SET body = '{}'",
            "no count": "UPDATE active SET streak = 'x'",
            "no silence": "INSERT INTO silences VALUES ('s', 1.0, '{}')",
        }[damage]
        connection.execute(statement)
        connection.commit()
        connection.close()
    before = path.read_bytes()
    store = open_alert_store(tmp_path)
    assert store.read_active() == []
    store.write([fired("db-2")])
    assert (tmp_path / f"{ALERTS_FILE_NAME}.1.old").read_bytes() == before
    store = read_again(store, tmp_path)
    assert names([each.alert for each in store.read_active()]) == ["db-2"]
    store.close()


def test_a_pipe_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ALERTS_FILE_NAME)
    with pytest.raises(StorageError, match="it is a pipe"):
        open_alert_store(tmp_path)


# ---------------------------------------------------------------- kills
CHANGES = st.builds(
    lambda make, server: make(server), st.sampled_from([fired, pending, resolved]), st.sampled_from(["db-1", "db-2"])
)


@settings(max_examples=4)
@given(batches=st.lists(st.lists(CHANGES, min_size=1, max_size=3), min_size=1, max_size=3))
def test_a_process_that_is_killed_leaves_whole_batches(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[StoredChange]]
) -> None:
    _, statements = write_until_killed(tmp_path_factory.mktemp("whole"), batches, None)
    assert statements >= len(batches) * 3, "begin, a change, commit"
    for kill_at in choose_kills(range(statements), repr(batches).encode(), count=5):
        folder = tmp_path_factory.mktemp("killed")
        written, begun = write_until_killed(folder, batches, kill_at)
        assert begun == kill_at
        store = open_alert_store(folder)
        found = {each.alert.server: each.alert.state for each in store.read_active()}
        count = len(store.read_resolved())
        store.close()
        assert (found, count) in [expect_after(batches[:done]) for done in (written, written + 1)]


def expect_after(batches: list[list[StoredChange]]) -> tuple[dict[str, AlertState], int]:
    """Return the active alerts after batches, and the number of resolved ones."""
    active: dict[str, AlertState] = {}
    count = 0
    for each in (change for batch in batches for change in batch):
        alert = each.change.alert
        active.pop(alert.server, None)
        if each.change.kind == "resolved":
            count += 1
        else:
            active[alert.server] = alert.state
    return active, count
