"""Tests `streamd/tools/engine/output/folders.py`: content, readers, and builds that leave nothing."""

import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from streamd.core.errors import ConfigError, RepositoryError
from streamd.repository.collection import collect_garbage
from streamd.repository.files import BUILDING_PREFIX
from streamd.repository.plans import choose_plan
from streamd.repository.versions import EngineRepository, load_version
from streamd.tools.engine.output.folders import PlansFolder, VersionFolder
from streamd.tools.engine.plan.builder import BuildSettings, Profile
from tests.support.made_graphs import SETTINGS, WHERE, FakeGraph, make_plan, read_made_source
from tests.support.made_versions import make

ROOT = Path(__file__).parents[4]
NAME = "tft_tensorrt_20250101_000000"


def noon() -> datetime:
    return datetime(2026, 1, 2, 12, tzinfo=UTC)


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """A sound version with every file that a version can have."""
    path = tmp_path / "engines" / NAME
    make(path.parent, NAME)
    for name in ("training_info.json", "server_mapping.json"):
        (path / name).write_text("{}\n")
    (path / "MODEL_CARD.md").write_text("# A card\n")
    (path / "weights.safetensors").write_bytes(b"weights")
    (path / "conversion_log.txt").write_text("exported\n")
    info = json.loads((path / "conversion_info.json").read_text()) if (path / "conversion_info.json").exists() else {}
    result: dict[str, Any] = {
        **info,
        "opset": 17,
        "plans": {},
        "sha256": {},
        "validation": {"fp32": {"promotable": True}},
    }
    (path / "conversion_info.json").write_text(json.dumps(result))
    return path


def write(version: Path, **options: Any) -> Path:
    with VersionFolder(read_made_source(version), None, None, ["streamd", "engine"], now=noon, **options) as folder:
        folder.log_line("TensorRT info: all is well")
        folder.add_plan(make_plan("fp32", b"one plan"), SETTINGS, WHERE)
        folder.add_plan(make_plan("fp16"), SETTINGS, WHERE, keep_graph=True)
        return Path(folder.finish()["folder"])


def test_a_version_is_whole_and_readers_take_it(version: Path) -> None:
    path = write(version)
    assert path == version.parent / "tft_tensorrt_20260102_120000"
    loaded = load_version(path)
    assert loaded.manifest.default is False
    plan = choose_plan(loaded, "fp16", "NVIDIA Fake", "9.0", "8.6.1")
    assert (plan.path.read_bytes(), plan.buckets, plan.promotable) == (b"a plan", (1, 8), False)
    assert choose_plan(loaded, "auto", "NVIDIA Fake", "9.0", "8.6.1").precision == "fp32", "no gate judged fp16"
    names = {each.name for each in path.iterdir()}
    assert names == {
        *("model.onnx", "model_fp32.engine", "model_fp16.engine", "model_fp16.onnx", "config.json", "MODEL_CARD.md"),
        *("training_info.json", "server_mapping.json", "weights.safetensors"),
        *("conversion_info.json", "conversion_log.txt"),
    }
    for name in ("model.onnx", "weights.safetensors"):
        assert (path / name).read_bytes() == (version / name).read_bytes()
    assert (path / "MODEL_CARD.md").read_text() == f"# {path.name}\n", "a card bears its version's name"
    assert json.loads((path / "config.json").read_text())["name"] == path.name
    assert path.stat().st_mode & 0o777 == 0o755


def test_the_record_describes_the_build_and_has_a_hash_of_every_file(version: Path) -> None:
    path = write(version)
    info = json.loads((path / "conversion_info.json").read_text())
    assert set(info["sha256"]) == {each.name for each in path.iterdir()} - {"conversion_info.json"}
    assert info["opset"] == 17
    assert "validation" not in info, "the verdicts were on other plans"
    assert info["command"] == ["streamd", "engine"]
    entry = info["plans"]["fp16"]
    assert entry["kept_fp32"] == ["/scaler/Div"]
    assert entry["source_onnx"] == info["source"]["sha256"] == info["sha256"]["model.onnx"]
    assert (entry["buckets"], entry["seconds"], entry["warnings"]) == ([1, 8], 12.3, ["one"])
    log = (path / "conversion_log.txt").read_text().splitlines()
    assert log[0] == "exported"
    assert any("TensorRT info: all is well" in line for line in log)


def test_the_record_counts_stages_and_the_graph_of_each_is_kept(version: Path) -> None:
    with VersionFolder(read_made_source(version), None, None, [], now=noon) as folder:
        entry = folder.add_plan(make_plan(stages=3), SETTINGS, WHERE, keep_graph=True)
        kept = sorted(each.name for each in folder.folder.iterdir() if each.suffix == ".onnx")
        assert kept == [f"model_fp16.stage{number}.onnx" for number in (1, 2, 3)]
        assert folder.add_plan(make_plan("fp32"), SETTINGS, WHERE)["stages"] == 1
        folder.add_plan(replace(make_plan("int8", stages=3), uncut_model=FakeGraph()), SETTINGS, WHERE, keep_graph=True)
        assert (folder.folder / "model_int8.onnx").is_file(), "quantized, the whole runs as it is: for blame"
    assert (entry["stages"], entry["strongly_typed"], entry["kept_fp32"]) == (3, False, ["/scaler/Div"])


def test_the_record_lists_batch_sizes_to_run_a_dynamic_plan_with(version: Path) -> None:
    with VersionFolder(read_made_source(version), None, None, [], now=noon) as folder:
        entry = folder.add_plan(make_plan(), BuildSettings(profiles=(Profile(2, 48, 130),)), WHERE)
    assert entry["profiles"] == [[2, 48, 130]]
    assert entry["buckets"] == [2, 8, 32, 48, 64, 128, 130]


def test_the_name_is_the_next_that_is_free(version: Path) -> None:
    stamps = [write(version).name[-6:], write(version, default=True).name[-6:]]
    assert stamps == ["120000", "120001"]
    assert EngineRepository(version.parent).choose().name.endswith("120001"), "the newest that is marked as default"


@pytest.mark.parametrize("name", ["", "a/b", "../up", "pytorch", "TorchScript_x", ".hidden", "a b"])
def test_a_bad_name_is_refused(version: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="--name"):
        VersionFolder(read_made_source(version), None, name or "-", [])


def test_a_build_that_fails_leaves_nothing(version: Path) -> None:
    def fail() -> None:
        with VersionFolder(read_made_source(version), None, None, []) as folder:
            folder.add_plan(make_plan(), SETTINGS, WHERE)
            assert folder.folder.name.startswith(BUILDING_PREFIX)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [each.name for each in version.parent.iterdir()] == [NAME]


def test_gc_keeps_a_version_that_is_being_built(version: Path) -> None:
    with VersionFolder(read_made_source(version), None, None, []) as folder:
        folder.add_plan(make_plan(), SETTINGS, WHERE)
        collect_garbage(EngineRepository(version.parent), 1, now=1e12)
        assert (folder.folder / "model_fp16.engine").is_file()
        assert load_version(Path(folder.finish()["folder"])).contract.horizon == 4


def test_a_kill_at_any_step_leaves_no_version_or_a_whole_one(version: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.support.kill_toolchain", str(version), str(tmp_path / "roots")]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    calls = json.loads(ran.stdout)
    assert calls[-1] == "", "the last was not killed"
    assert {"write", "fsync", "replace", "rename"} <= set(calls)
    renamed = calls.index("rename")
    for step in range(len(calls)):
        root = tmp_path / "roots" / str(step)
        seen = [each for each in root.iterdir() if not each.name.startswith(BUILDING_PREFIX)] if root.exists() else []
        assert len(seen) == (step > renamed), f"killed at {step}, {calls[step]}"
        for path in seen:
            assert choose_plan(load_version(path), "fp16", "NVIDIA Fake", "9.0", "8.6.1").path.is_file()


def test_plans_alone_are_no_version(version: Path, tmp_path: Path) -> None:
    folder = tmp_path / "plans"
    for content in (b"first", b"second"):
        with PlansFolder(folder, read_made_source(version), ["streamd"]) as plans:
            plans.add_plan(make_plan(content=content), SETTINGS, WHERE)
            plans.finish()
    assert sorted(each.name for each in folder.iterdir()) == ["conversion_log.txt", "model_fp16.engine", "plans.json"]
    assert (folder / "model_fp16.engine").read_bytes() == b"second"
    assert json.loads((folder / "plans.json").read_text())["plans"]["fp16"]["gpu"] == "NVIDIA Fake"


def test_a_place_that_cannot_be_written_is_named(version: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(RepositoryError, match=r"file/engines: cannot be written"),
        VersionFolder(read_made_source(version), tmp_path / "file" / "engines", None, []),
    ):
        pass
