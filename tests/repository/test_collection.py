"""Tests `streamd/repository/collection.py`.

What a collection removes, what it never touches, and what it tells.
"""

import os
from pathlib import Path

import pytest

from streamd.core.errors import RepositoryError
from streamd.repository.collection import collect_garbage
from streamd.repository.files import VersionHold, claim_folder, is_held
from streamd.repository.promotion import Promoter
from streamd.repository.versions import EngineRepository
from tests.support.made_versions import make

A, B, C, D, E, F = (f"{letter}_2025010{day}_000000" for day, letter in enumerate("abcdef", 1))
FUTURE = 1e12
"""Long after anything on disk was changed."""


@pytest.fixture
def repository(tmp_path: Path) -> EngineRepository:
    for name in (A, B, C, D, E, F):
        make(tmp_path, name)
    return EngineRepository(tmp_path)


def there(repository: EngineRepository) -> set[str]:
    return {path.name for path in repository.root.iterdir()} - {".promoted.lock", "promoted.json"}


def test_the_newest_stay(repository: EngineRepository) -> None:
    size = sum(file.stat().st_size for name in (A, B, C, D) for file in (repository.root / name).iterdir())
    done = collect_garbage(repository, 2, now=FUTURE)
    assert there(repository) == {E, F}
    assert {*done.removed} == {A, B, C, D}
    assert done.freed_bytes == size > 0
    assert done.kept == {E: ("among the newest 2",), F: ("would serve", "among the newest 2")}
    assert (done.failed, done.leftovers, done.unjudged) == ({}, {}, {})


def test_what_is_spoken_for_stays_with_its_reasons(repository: EngineRepository) -> None:
    make(repository.root, "default_20240101_000000", default=True)
    promoter = Promoter(repository)
    for name in (A, B, C):
        promoter.promote(name, "ann", "", 0.0)
    done = collect_garbage(repository, 1, now=FUTURE, in_use=[D])
    assert done.kept == {
        "default_20240101_000000": ("default", "would serve"),
        B: ("previous", "would serve"),
        C: ("promoted", "would serve"),
        D: ("in use",),
        F: ("among the newest 1",),
    }
    assert {*done.removed} == {A, E}
    # 2. What a rollback goes to is still there.
    assert promoter.rollback("ann", "", 1.0).current == B
    assert promoter.rollback("ann", "", 2.0).current is None, "A is gone, and passed over"
    assert repository.choose().name == "default_20240101_000000"


def test_what_a_rollback_would_reach_past_a_broken_one_stays(repository: EngineRepository) -> None:
    promoter = Promoter(repository)
    for name in (A, B, C):
        promoter.promote(name, "ann", "", 0.0)
    (repository.root / B / "model.onnx").unlink()
    done = collect_garbage(repository, 1, now=FUTURE)
    assert {*done.kept} == {A, C, F}
    assert "model.onnx" in done.unjudged[B]
    assert promoter.rollback("ann", "", 1.0).current == A


def test_a_dry_run_says_the_same_and_does_nothing(repository: EngineRepository) -> None:
    (repository.root / ".removing-x-1234").mkdir()
    before = there(repository)
    dry = collect_garbage(repository, 3, now=FUTURE, dry_run=True)
    assert there(repository) == before
    assert not (repository.root / ".promoted.lock").exists()
    done = collect_garbage(repository, 3, now=FUTURE)
    assert (dry.removed, dry.kept, dry.leftovers) == (done.removed, done.kept, done.leftovers)
    assert (dry.freed_bytes, dry.dry_run, done.dry_run) == (done.freed_bytes, True, False)


def test_what_is_no_sound_version_is_left_to_its_owner(repository: EngineRepository, tmp_path: Path) -> None:
    (repository.root / A / "model.onnx").write_bytes(b"broken")
    (repository.root / B / "model.pt").write_bytes(b"a checkpoint that someone may still need")
    for name in (".git", "notes", "g_20259999_000000"):
        (repository.root / name).mkdir()
    outside = make(tmp_path / "elsewhere", "h_20250101_000000")
    (repository.root / "h_20250101_000000").symlink_to(outside)
    done = collect_garbage(repository, 1, now=FUTURE)
    assert {*done.unjudged} == {A, B, "g_20259999_000000", "h_20250101_000000"}
    assert there(repository) == {A, B, F, ".git", "notes", "g_20259999_000000", "h_20250101_000000", "elsewhere"}
    assert (outside / "model.onnx").is_file()


def test_unsound_versions_do_not_count_among_the_newest(repository: EngineRepository) -> None:
    for name in (E, F):
        (repository.root / name / "config.json").unlink()
    assert {*collect_garbage(repository, 2, now=FUTURE).kept} == {C, D}


def test_what_is_held_stays(repository: EngineRepository) -> None:
    with VersionHold(repository.root / A), VersionHold(repository.root / A):
        assert collect_garbage(repository, 1, now=FUTURE, dry_run=True).kept[A] == ("held",)
        assert collect_garbage(repository, 1, now=FUTURE).kept[A] == ("held",)
        assert there(repository) == {A, F}
    assert {*collect_garbage(repository, 1, now=FUTURE).removed} == {A}


def test_a_hold_is_of_a_folder_that_is_there(repository: EngineRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RepositoryError, match="cannot be held"):
        VersionHold(repository.root / "gone_20250101_000000")
    # 2. Nor of one that was removed while it was being taken.
    place = repository.root / A
    opened = os.open

    def open_then_move(path: Path, *rest: int) -> int:
        fd = opened(path, *rest)
        place.rename(repository.root / ".removing-a")
        return fd

    monkeypatch.setattr("streamd.repository.files.os.open", open_then_move)
    with pytest.raises(RepositoryError, match="was removed just now"):
        VersionHold(place)


def test_a_hold_ends_once(repository: EngineRepository) -> None:
    hold = VersionHold(repository.root / A)
    assert is_held(repository.root / A)
    hold.close()
    hold.close()
    assert not is_held(repository.root / A)
    with claim_folder(repository.root / A) as free, claim_folder(repository.root / A) as second:
        assert (free, second) == (True, False)


def test_leftovers_of_killed_builds_and_removals_go(repository: EngineRepository) -> None:
    names = (".building-g_20250107_000000-1", ".building-h_20250107_000000-2", ".removing-a_20250101_000000-3")
    for name in names:
        (repository.root / name / "inner").mkdir(parents=True)
        (repository.root / name / "inner" / "file").write_bytes(b"12345")
    (repository.root / ".building-file").write_text("no folder")
    changed = (repository.root / names[0] / "inner" / "file").stat().st_mtime
    # 1. A build that may be under way stays, by its last change; a removal is nobody's any more.
    done = collect_garbage(repository, 6, now=changed + 50, leftover_age_seconds=60)
    assert done.leftovers == {names[2]: 5}
    # 2. One that is held stays however old it is.
    with VersionHold(repository.root / names[0]):
        done = collect_garbage(repository, 6, now=changed + 3600, leftover_age_seconds=60)
    assert (done.leftovers, done.kept[names[0]]) == ({names[1]: 5}, ("held",))
    assert (done.freed_bytes, done.removed) == (5, {})
    assert names[0] in there(repository)
    assert {A, F, ".building-file"} <= there(repository)


def test_one_that_resists_is_told_and_the_others_go(
    repository: EngineRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def refuse_b(old: Path, new: Path) -> None:
        if Path(old).name == B:
            raise PermissionError(13, "Permission denied")
        rename(old, new)

    monkeypatch.setattr("streamd.repository.files.os.rename", refuse_b)
    done = collect_garbage(repository, 1, now=FUTURE)
    assert {*done.removed} == {A, C, D, E}
    assert "Permission denied" in done.failed[B]
    assert there(repository) == {B, F}


def test_senseless_orders_are_refused(repository: EngineRepository) -> None:
    before = there(repository)
    with pytest.raises(RepositoryError, match="at least 1"):
        collect_garbage(repository, 0, now=FUTURE)
    with pytest.raises(RepositoryError, match="no engine version 'a_20250101_00000'"):
        collect_garbage(repository, 1, now=FUTURE, in_use=["a_20250101_00000"])
    with pytest.raises(RepositoryError, match="no such folder"):
        collect_garbage(EngineRepository(repository.root / "nowhere"), 1, now=FUTURE)
    (repository.root / "promoted.json").write_text("{")
    with pytest.raises(RepositoryError, match=r"promoted\.json"):
        collect_garbage(repository, 1, now=FUTURE)
    assert there(repository) == before
