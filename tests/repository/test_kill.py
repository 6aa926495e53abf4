"""Tests `streamd/repository`.

`kill -9` at every step of a promotion, a rollback and a collection: the old state or the new one, never another.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from streamd.core.errors import RepositoryError
from streamd.repository.collection import collect_garbage
from streamd.repository.promotion import Promoter
from streamd.repository.record import PromotionRecord, read_promotion_record
from streamd.repository.versions import EngineRepository, load_version
from tests.support.made_versions import make

ROOT = Path(__file__).parents[2]
NAMES = ["a_20250101_000000", "b_20250102_000000", "c_20250103_000000"]


def killed_copies(folder: Path, change: str, promoted: list[str]) -> tuple[Path, list[str], list[Path]]:
    """The folder before the change, the call at which each process was killed, and what each left."""
    source = folder / "engines"
    for name in NAMES:
        make(source, name)
    for when, name in enumerate(promoted):
        Promoter(EngineRepository(source)).promote(name, "ann", "", float(when))
    command = [sys.executable, "-m", "tests.support.kill_repository", str(source), str(folder / "copies"), change]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    calls = json.loads(ran.stdout)
    assert calls[-1] == "", "the last was not killed"
    return source, calls, [folder / "copies" / str(step) for step in range(len(calls))]


@pytest.mark.parametrize(("change", "promoted"), [("promote", []), ("promote", NAMES[:2]), ("rollback", NAMES[:2])])
def test_the_record_is_the_old_one_or_the_new_one(tmp_path: Path, change: str, promoted: list[str]) -> None:
    source, calls, copies = killed_copies(tmp_path, change, promoted)
    old, new = read_promotion_record(source), read_promotion_record(copies[-1])
    assert old != new
    # What is on disk before the new record takes its place, and after it, by the order of the calls.
    assert [name for name in calls if name in ("write", "fsync", "replace")] == ["write", "fsync", "replace", "fsync"]
    replaced = calls.index("replace")
    for step, copy in enumerate(copies):
        assert read_promotion_record(copy) == (old if step <= replaced else new), f"killed at {step}, {calls[step]}"
        repository = EngineRepository(copy)
        assert repository.choose().name == EngineRepository(source if step <= replaced else copies[-1]).choose().name
        # Nothing that the dead process held stands in the way of the next change.
        Promoter(repository).promote("a_20250101_000000", "bob", "", 2.0)
        Promoter(repository).promote("c_20250103_000000", "bob", "", 3.0)
        assert repository.choose().name == "c_20250103_000000"
        assert {path.name for path in copy.iterdir()} == {*NAMES, "promoted.json", ".promoted.lock"}


def test_a_version_is_whole_or_gone(tmp_path: Path) -> None:
    _, calls, copies = killed_copies(tmp_path, "gc", [])
    assert len([name for name in calls if name == "rename"]) == 2
    there = []
    for copy in copies:
        names = [path.name for path in EngineRepository(copy).list_folders()]
        for name in names:
            load_version(copy / name)
        there.append(len(names))
        # The next collection finishes what this one began.
        collect_garbage(EngineRepository(copy), 1, now=1e12)
        assert {path.name for path in copy.iterdir()} == {NAMES[-1], ".promoted.lock"}
    assert sorted(there, reverse=True) == there
    assert {*there} == {3, 2, 1}


def test_a_failed_write_leaves_the_old_record_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in NAMES:
        make(tmp_path, name)
    repository = EngineRepository(tmp_path)
    Promoter(repository).promote(NAMES[0], "ann", "", 0.0)
    before = (tmp_path / "promoted.json").read_bytes()

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    for call in ("write", "fsync", "replace"):
        with monkeypatch.context() as patched:
            patched.setattr(f"streamd.repository.files.os.{call}", full)
            with pytest.raises(RepositoryError, match=r"promoted\.json: cannot be written: No space left"):
                Promoter(repository).promote(NAMES[1], "ann", "", 1.0)
        assert (tmp_path / "promoted.json").read_bytes() == before
        assert {path.name for path in tmp_path.iterdir()} == {*NAMES, "promoted.json", ".promoted.lock"}
    assert read_promotion_record(tmp_path) != PromotionRecord()
