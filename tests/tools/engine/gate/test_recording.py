"""Tests `streamd/tools/engine/gate/recording.py`: a version is sound after a kill at any step."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from streamd.core.errors import RepositoryError
from streamd.repository.conversion import read_verdicts
from streamd.repository.files import BUILDING_PREFIX, lock_repository
from streamd.repository.schema import VERSION_RECORD
from streamd.repository.versions import load_version
from streamd.tools.engine.gate.recording import record_verdicts, write_unlisted_file
from tests.support.kill_writes import CHANGES, NAME, VERDICT
from tests.support.made_versions import digest, make, pin, tell

ROOT = Path(__file__).parents[4]
FILES = ("model.onnx", "weights.safetensors", "conversion_log.txt", "benchmark_results.json")


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    """A folder with one version whose record has the hash of every file, an earlier benchmark among them."""
    root = tmp_path / "engines"
    path = make(root, NAME)
    (path / "weights.safetensors").write_bytes(b"weights")
    (path / "conversion_log.txt").write_text("exported\n")
    (path / "benchmark_results.json").write_text("old figures")
    pin(path, {name: digest(path / name) for name in FILES})
    tell(path, validation={"fp16": {"promotable": True}})
    return root


def record_of(path: Path) -> Any:
    return json.loads((path / VERSION_RECORD).read_text())


def test_a_verdict_is_added_to_the_others_and_to_the_log(engines: Path) -> None:
    path = engines / NAME
    record_verdicts(path / VERSION_RECORD, VERDICT, ["refused"])
    verdicts = read_verdicts(load_version(path).path)
    assert {name: each.promotable for name, each in verdicts.items()} == {"fp16": True, "int8": False}
    assert record_of(path)["opset"] == 17
    log = (path / "conversion_log.txt").read_text().splitlines()
    assert log[0] == "exported"
    assert log[1].endswith("UTC  refused")
    assert record_of(path)["sha256"]["conversion_log.txt"] == digest(path / "conversion_log.txt")


def test_a_missing_record_and_a_missing_log_are_created(tmp_path: Path) -> None:
    path = make(tmp_path, NAME)
    record_verdicts(path / VERSION_RECORD, VERDICT, ["refused"])
    load_version(path)
    assert set(record_of(path)["sha256"]) == {"conversion_log.txt"}
    (path / "conversion_log.txt").write_text("changed")
    with pytest.raises(RepositoryError, match="changed since it was made"):
        load_version(path)


def test_measurements_have_no_hash_in_the_record(engines: Path) -> None:
    path = engines / NAME
    for content in (b"first", b"second"):
        write_unlisted_file(path, "benchmark_results.json", content)
        load_version(path)
        assert (path / "benchmark_results.json").read_bytes() == content
    assert set(record_of(path)["sha256"]) == set(FILES) - {"benchmark_results.json"}


def test_only_one_writer_changes_a_version_at_a_time(engines: Path) -> None:
    with lock_repository(engines), pytest.raises(RepositoryError, match="in progress"):
        record_verdicts(engines / NAME / VERSION_RECORD, VERDICT, [])


@pytest.mark.parametrize("change", CHANGES)
def test_a_version_is_sound_after_a_kill_at_any_step(engines: Path, tmp_path: Path, change: str) -> None:
    command = [sys.executable, "-m", "tests.support.kill_writes", str(engines), str(tmp_path / "copies"), change]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    calls = json.loads(ran.stdout)
    assert calls[-1] == "", "the last was not killed"
    assert {"write", "fsync", "replace"} <= set(calls)
    seen = []
    for step in range(len(calls)):
        copy = tmp_path / "copies" / str(step)
        seen.append(outcome(copy, change))
        CHANGES[change](copy)  # nothing that the dead process left stands in the way
        assert outcome(copy, change) is True, f"killed at {step}, {calls[step]}"
    assert sorted(seen) == seen
    assert set(seen) == {False, True}


def outcome(root: Path, change: str) -> bool:
    """Whether the change was made; checks that the version is sound in any case."""
    path = root / NAME
    load_version(path)
    if change == "validate":
        verdict = read_verdicts(path).get("int8")
        assert verdict is None or verdict.reasons
        return verdict is not None
    if change == "bench":
        result = (path / "benchmark_results.json").read_bytes()
        assert result in (b"old figures", b"new figures")
        return result == b"new figures"
    new = [each for each in root.iterdir() if each.name.startswith("new_")]
    assert all(each.name.startswith((BUILDING_PREFIX, "new_", ".promoted", NAME)) for each in root.iterdir())
    for each in new:
        assert set(record_of(load_version(each).path)["sha256"]) == {"model.onnx", "weights.safetensors", "config.json"}
    return bool(new)


@pytest.mark.parametrize("call", ["write", "fsync"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_full_disk_at_any_step_is_reported_and_leaves_a_sound_version(
    engines: Path, monkeypatch: pytest.MonkeyPatch, change: str, call: str
) -> None:
    failures = 0
    while True:
        with monkeypatch.context() as patched:
            fails_after(patched, call, failures)
            output = attempt(change, engines)
        if output is None:
            break
        assert "No space left on device" in output
        outcome(engines, change)
        assert not [each for each in engines.rglob("*") if each.name.startswith(BUILDING_PREFIX)]
        assert not list(engines.rglob(".*.new"))
        failures += 1
    assert failures > 1
    assert outcome(engines, change)


def attempt(change: str, engines: Path) -> str | None:
    """Return the reason why a change failed, or None."""
    try:
        CHANGES[change](engines)
    except RepositoryError as exc:
        return str(exc)
    return None


def fails_after(patched: pytest.MonkeyPatch, name: str, count: int) -> None:
    """Let a system call fail with a full disk after this many calls."""
    left, call = [count], getattr(os, name)

    def full(*given: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        return call(*given)

    patched.setattr(f"streamd.repository.files.os.{name}", full)
