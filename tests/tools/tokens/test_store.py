"""Tests `streamd/tools/tokens/store.py`: edits are whole, one after the other, and keep who may read the file."""

import os
import threading
from pathlib import Path

import pytest

from streamd.core.access.records import TokenRecord
from streamd.core.access.scopes import Scope
from streamd.core.errors import ConfigError
from streamd.tools.tokens.errors import TokenCommandError
from streamd.tools.tokens.store import Records, TokenStore


def make_record(name: str) -> TokenRecord:
    return TokenRecord(name=name, certificate=name, scopes={Scope.READ: ("*",)})


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    made = TokenStore(tmp_path / "tokens.json")
    made.edit(lambda records: [make_record("first")], may_create=True)
    return made


def names(store: TokenStore) -> list[str]:
    return [record.name for record in store.read()]


def test_edits_at_the_same_time_are_all_there(store: TokenStore) -> None:
    barrier = threading.Barrier(4)

    def add(name: str) -> None:
        barrier.wait()
        TokenStore(store.path).edit(lambda records: [*records, make_record(name)])

    threads = [threading.Thread(target=add, args=(f"t{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(names(store)) == ["first", "t0", "t1", "t2", "t3"]


def test_an_edit_waits_for_the_one_before(store: TokenStore) -> None:
    inside, proceed, done = threading.Event(), threading.Event(), threading.Event()

    def slow(records: Records) -> Records:
        inside.set()
        proceed.wait()
        return [*records, make_record("slow")]

    def edit_quickly() -> None:
        TokenStore(store.path).edit(lambda records: [*records, make_record("quick")])
        done.set()

    first = threading.Thread(target=lambda: store.edit(slow))
    first.start()
    inside.wait()
    second = threading.Thread(target=edit_quickly)
    second.start()
    assert not done.is_set()
    proceed.set()
    first.join()
    second.join()
    assert names(store) == ["first", "slow", "quick"]


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_an_edit_that_fails_leaves_the_file_and_nothing_else(
    store: TokenStore, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(TokenCommandError, match=r"tokens.json: cannot be written: No space left"):
        store.edit(lambda records: [])
    assert names(store) == ["first"]
    assert [entry.name for entry in store.path.parent.iterdir()] == ["tokens.json"]


def test_what_the_daemon_could_not_read_is_not_written(store: TokenStore) -> None:
    with pytest.raises(ConfigError, match="occurs twice"):
        store.edit(lambda records: [*records, *records])
    assert names(store) == ["first"]


@pytest.mark.parametrize(("mode", "kept"), [(0o600, 0o600), (0o640, 0o640), (0o664, 0o640), (0o666, 0o640)])
def test_a_group_may_keep_reading_and_others_lose_their_rights(store: TokenStore, mode: int, kept: int) -> None:
    store.path.chmod(mode)
    store.edit(lambda records: records)
    assert store.path.stat().st_mode & 0o777 == kept


@pytest.mark.parametrize(("is_first", "user", "is_changed"), [(False, 1, True), (True, 0, True), (True, 1, False)])
def test_the_owner_stays_and_root_gives_the_first_file_that_of_its_folder(
    store: TokenStore, monkeypatch: pytest.MonkeyPatch, is_first: bool, user: int, is_changed: bool
) -> None:
    changed: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "fchown", lambda descriptor, user, group: changed.append((user, group)))
    monkeypatch.setattr(os, "geteuid", lambda: user)
    model = store.path.parent if is_first else store.path
    if is_first:
        store.path.unlink()
    stat, owned = Path.stat, list(model.stat())
    owned[4:6] = [4_711, 4_712]
    monkeypatch.setattr(Path, "stat", lambda path, **_: os.stat_result(owned) if path == model else stat(path))
    store.edit(lambda records: [make_record("first")], may_create=True)
    assert names(store) == ["first"]
    assert changed == ([(4_711, 4_712)] if is_changed else [])


def test_a_link_stays_a_link(store: TokenStore, tmp_path: Path) -> None:
    link = tmp_path / "link.json"
    link.symlink_to(store.path.name)
    TokenStore(link).edit(lambda records: [])
    assert link.is_symlink()
    assert names(store) == []
