"""Tests `streamd/tools/engine/commands` (list, inspect, promote, rollback, gc): output and exit statuses."""

import argparse
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from streamd.core.errors import RepositoryError
from streamd.repository.files import VersionHold
from streamd.repository.listing import inspect_version, list_versions
from streamd.repository.plans import Machine
from streamd.repository.record import read_promotion_record
from streamd.repository.versions import EngineRepository
from streamd.tools.engine.commands.tables import format_bytes
from tests.support.made_versions import add_plan, judge, make, tell

A, B, C, D = (f"{letter}_2025010{day}_000000" for day, letter in enumerate("abcd", 1))
COMMANDS = ("list", "inspect", "promote", "rollback", "gc")
H200 = Machine("NVIDIA H200", "9.0", "8.6.1")


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    for name in (A, B, C):
        make(tmp_path, name, default=name == B)
    return tmp_path


def module_of(command: str) -> ModuleType:
    return importlib.import_module(f"streamd.tools.engine.commands.{command}")


def run(command: str, *arguments: str, probe: Any = None) -> int:
    parser = argparse.ArgumentParser(prog=f"streamd engine {command}")
    module = module_of(command)
    module.add_arguments(parser)
    args = parser.parse_args(arguments)
    if probe is not None:
        args.probe = probe
    status: int = module.main(args)
    return status


@pytest.fixture
def call(engines: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command; return its status and its output, decoded if that is JSON."""

    def run_and_read(command: str, *arguments: str, probe: Any = None) -> tuple[int, Any]:
        status = run(command, *arguments, "--engines", str(engines), probe=probe)
        text = capsys.readouterr().out
        return status, json.loads(text) if "--json" in arguments else text

    return run_and_read


# ---------------------------------------------------------------- help
@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_and_loads_nothing_heavy(command: str) -> None:
    code = (
        "import argparse, sys\n"
        f"from streamd.tools.engine.commands import {command} as module\n"
        "module.add_arguments(argparse.ArgumentParser())\n"
        "print(module.DESCRIPTION, module.EXAMPLES)\n"
        "print(sorted({'numpy', 'msgspec', 'onnxruntime'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *text, loaded = ran.stdout.splitlines()
    assert loaded == "[]"
    assert any(line.strip().startswith(f"streamd engine {command}") for line in text), "an example"
    assert max(map(len, text)) <= 120


def test_examples_are_valid_command_lines() -> None:
    import shlex

    for command in COMMANDS:
        parser = argparse.ArgumentParser()
        module_of(command).add_arguments(parser)
        for line in module_of(command).EXAMPLES.splitlines()[1:]:
            parser.parse_args(shlex.split(line)[3:])


def test_the_folder_is_a_flag_or_a_variable(engines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMD_ENGINES", str(engines))
    assert run("list") == 0
    with pytest.raises(RepositoryError, match="nowhere: no such folder"):
        run("list", "--engines", str(engines / "nowhere"))


# ---------------------------------------------------------------- list and inspect
def test_the_list_marks_the_serving_version_and_shows_refused_ones(call: Any, engines: Path) -> None:
    (engines / C / "model.onnx").unlink()
    status, text = call("list")
    lines = text.splitlines()
    assert status == 0
    assert [line.split()[0] for line in lines[1:4]] == [C, "*", A]
    assert "refused" in lines[1]
    assert "sound, default, serves" in lines[2]
    assert f"{C}: {engines / C}: has no model.onnx" in text
    assert lines[-1] == "* serves unless another is pinned (default)"


def test_the_list_is_available_as_json(call: Any, engines: Path) -> None:
    add_plan(engines / A, "fp16")
    judge(engines / A, "fp16", True)
    with VersionHold(engines / A):
        assert call("promote", A)[0] == 0
        status, found = call("list", "--json", probe=lambda: H200)
    newest, *_, oldest = found["versions"]
    assert (status, newest["name"], oldest["name"]) == (0, C, A)
    assert oldest["promoted"] is oldest["held"] is True
    assert (oldest["serves"], oldest["stamp"], oldest["architecture"]) == ("promoted", "20250101_000000", "fake")
    assert oldest["size_bytes"] == sum(file.stat().st_size for file in (engines / A).iterdir())
    assert [(each["plan"]["precision"], each["fits"]) for each in oldest["plans"]] == [("fp16", True)]
    assert found["record"]["current"] == A


def test_the_list_fails_if_no_version_can_serve(call: Any, engines: Path) -> None:
    for name in (A, B, C):
        (engines / name / "model.onnx").unlink()
    status, text = call("list")
    assert status == 1
    assert text.endswith("no version can serve\n")


def test_an_empty_folder_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "--engines", str(tmp_path)) == 1
    assert "holds no folder named" in capsys.readouterr().out


def test_a_version_is_inspected(call: Any, engines: Path) -> None:
    add_plan(engines / A, "fp16")
    judge(engines / A, "fp16", False, "coverage off by 7 %")
    add_plan(engines / A, "fp32").write_bytes(b"changed")
    (engines / A / "model_int8.engine").write_bytes(b"unlisted")
    status, text = call("inspect", A, probe=lambda: H200)
    assert status == 0
    for part in (
        "does not run here: the accuracy gate did not let it through: coverage off by 7 %",
        "does not run here: model_fp32.engine changed since it was built",
        "model_int8.engine: never loaded",
        "gate fp16",
        "refused; coverage off by 7 %",
    ):
        assert part in text
    # 2. Without a machine to compare with, what is not known is not claimed.
    (engines / A / "model_int8.engine").unlink()
    add_plan(engines / A, "fp32")
    entry = call("inspect", A, "--json")[1]
    assert [each["fits"] for each in entry["plans"]] == [None, None]
    assert "no GPU here to compare with" in call("inspect", A)[1]


def test_a_refused_version_is_inspected_with_its_reason(call: Any, engines: Path) -> None:
    (engines / A / "model.onnx").write_bytes(b"")
    status, text = call("inspect", A)
    assert status == 1
    assert "not an ONNX model" in text
    with pytest.raises(RepositoryError, match="no engine version 'z_20250101_000000'"):
        call("inspect", "z_20250101_000000")


def test_plans_that_cannot_be_read_do_not_hide_the_version(call: Any, engines: Path) -> None:
    tell(engines / B, plans=[])
    entry = inspect_version(EngineRepository(engines), B)
    assert (entry.refused, entry.serves) == (None, "default")
    assert "plans" in str(entry.plans_refused)
    assert "plans refused" in call("inspect", B)[1]
    listing = list_versions(EngineRepository(engines), H200)
    assert listing.serving is not None
    assert listing.serving.plans_refused == entry.plans_refused


# ---------------------------------------------------------------- promote, rollback, gc
def test_promote_and_roll_back(call: Any, engines: Path) -> None:
    status, text = call("promote", A, "--why", "better", "--who", "ann")
    assert (status, text) == (0, f"promoted {A}; {A} serves from the daemon's next start or reload (promoted)\n")
    status, found = call("promote", str(engines / C), "--json")
    assert (found["current"], found["previous"], found["serves"]) == (C, A, C)
    assert (found["history"][0]["who"], found["history"][0]["why"]) == ("ann", "better")
    assert "@" in found["history"][1]["who"]
    (engines / A / "model.onnx").unlink()
    status, text = call("rollback")
    assert status == 0
    assert f"rolled back from {C}; {B} serves from the daemon's next start or reload (default)" in text
    assert f"passed over, since it cannot serve: {A}" in text
    with pytest.raises(RepositoryError, match="nothing to roll back"):
        call("rollback")
    with pytest.raises(RepositoryError, match=r"has no model\.onnx"):
        call("promote", A)


@pytest.mark.parametrize("command", ["promote", "inspect"])
def test_a_version_is_given_by_its_name_or_by_any_path_of_its_folder(
    call: Any, engines: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(engines / B)
    for given in (A, str(engines / A), f"{engines / A}/", f"../{A}", f"{engines}/../{engines.name}/{A}"):
        status, found = call(command, given, "--json")
        assert (status, found["current"] if command == "promote" else found["name"]) == (0, A)
    assert call(command, ".", "--json")[0] == 0
    with pytest.raises(RepositoryError, match="no engine version"):
        run(command, "nowhere_20250101_000000", "--engines", str(engines))


def test_a_version_in_another_folder_is_promoted_there_unless_a_folder_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("STREAMD_ENGINES", raising=False)
    other, here = tmp_path / "other", tmp_path / "here"
    make(other, A)
    make(here / "engines", B)
    monkeypatch.chdir(here)
    for given in (str(other / A), f"../other/{A}"):
        (other / "promoted.json").unlink(missing_ok=True)
        assert run("promote", given) == 0
        assert f"promoted {A} in {other.resolve()}; {A} serves" in capsys.readouterr().out
        assert read_promotion_record(other).current == A
        assert read_promotion_record(here / "engines").current is None
    # 2. Within the folder itself a name is enough.
    monkeypatch.chdir(other)
    assert run("inspect", A) == 0
    # 3. A folder that was named is not left.
    monkeypatch.chdir(here)
    refusal = f"{other / A}: lies in {other.resolve()}, and --engines or STREAMD_ENGINES says"
    for command in ("promote", "inspect"):
        with pytest.raises(RepositoryError, match=refusal):
            run(command, str(other / A), "--engines", "engines")
        with monkeypatch.context() as patched:
            patched.setenv("STREAMD_ENGINES", "engines")
            with pytest.raises(RepositoryError, match=refusal):
                run(command, str(other / A))
    assert read_promotion_record(here / "engines").current is None


def test_a_rollback_reports_why_the_default_version_is_passed_over(call: Any, engines: Path) -> None:
    assert call("promote", A)[0] == 0
    (engines / B / "model.onnx").unlink()
    status, text = call("rollback")
    assert status == 0
    assert f"passed over: {engines / B}: has no model.onnx" in text
    assert f"{C} serves" in text


def test_the_author_is_a_number_without_a_user_database(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_no_user() -> str:
        raise KeyError("no such uid")

    monkeypatch.setattr("getpass.getuser", raise_no_user)
    assert call("promote", A, "--json")[1]["history"][0]["who"].startswith(f"{os.getuid()}@")


def test_gc_reports_removed_and_kept_versions(call: Any, engines: Path) -> None:
    status, text = call("gc", "--keep", "1", "--dry-run")
    assert status == 0
    assert f"would remove {A} (" in text
    assert f"kept {B}: default, would serve" in text
    assert "would free" in text
    assert (engines / A).is_dir()
    status, found = call("gc", "--keep", "1", "--json")
    assert ({*found["removed"]}, found["dry_run"]) == ({A}, False)
    assert found["freed_bytes"] == found["removed"][A] > 0
    assert not (engines / A).exists()


@pytest.mark.parametrize("keep", ["0", "-1", "x", "1.5", ""])
def test_gc_keeps_at_least_one(engines: Path, keep: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run("gc", "--keep", keep, "--engines", str(engines))
    assert caught.value.code == 2
    assert "at least 1" in capsys.readouterr().err or keep == "-1"


def test_gc_fails_if_a_removal_fails(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("streamd.repository.files.os.rename", refuse)
    status, text = call("gc", "--keep", "1")
    assert status == 1
    assert "failed: " in text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (3_334_717, "3.2 MiB"), (2**50, "1024.0 TiB")]
)
def test_sizes_are_formatted_for_people(size: int, text: str) -> None:
    assert format_bytes(size) == text
