"""Tests `streamd/tools/training/release.py`: a version appears whole under its name, or not at all."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pandas")
pytest.importorskip("safetensors")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from safetensors.torch import save_file  # noqa: E402

from streamd.core.errors import ConfigError  # noqa: E402
from streamd.repository.conversion import hash_file  # noqa: E402
from streamd.repository.manifest import read_manifest  # noqa: E402
from streamd.tools.networks.registry import build_network  # noqa: E402
from streamd.tools.training import release as release_module  # noqa: E402
from streamd.tools.training.export import VersionWriter  # noqa: E402
from streamd.tools.training.release import find_seen, prepare_fleets, release, sample_windows  # noqa: E402

SMALL = {"width": 16, "layers": 1, "heads": 2}
NAME = "small_tensorrt_20260101_000000"


def write_run(folder: Path, contract: Any, **config: Any) -> Path:
    """Write the folder of a finished run; return it."""
    folder.mkdir()
    memory = bool(config.get("memory"))
    network = build_network("patch_forecaster", replace(contract, memory_length=168 * memory), **SMALL)
    save_file(network.state_dict(), str(folder / "weights.safetensors"))
    described = {"architecture": "patch_forecaster", "model": SMALL, "steps": 4, "sources": {"small": 1.0}} | config
    info = {"architecture": "patch_forecaster", "steps": 4, "seed": 2, "config": described}
    (folder / "training_info.json").write_text(json.dumps(info))
    return folder


@pytest.fixture
def run(contract: Any, tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", contract)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare two batch sizes instead of 256, score nothing, and write a card of one line."""
    write_version = VersionWriter.write_version

    def write_few(self: VersionWriter, model: Any, info: Any, windows: Any) -> Path:
        return write_version(self, model, info, windows, batches=(1, 3))

    monkeypatch.setattr(VersionWriter, "write_version", write_few)
    monkeypatch.setattr(release_module, "COMPARED_WINDOW_COUNT", 8)
    monkeypatch.setattr(release_module, "judge_fleets", lambda *_, **__: {"small": {"nPL": 0.1}})
    monkeypatch.setattr(release_module, "format_model_card", lambda name, *_: f"# {name}\n")


def test_a_release_writes_a_whole_version_that_describes_itself(
    run: Path, fleet: Any, tmp_path: Path, quick: None
) -> None:
    engine = tmp_path / "engines" / NAME
    assert release(run, engine, [fleet], default=True) == engine
    assert [path.name for path in engine.parent.iterdir()] == [NAME]
    assert read_manifest(engine / "config.json").make_contract() is not None
    manifest = json.loads((engine / "config.json").read_text())
    assert (manifest["name"], manifest["default"]) == (NAME, True)
    assert (engine / "MODEL_CARD.md").read_text() == f"# {NAME}\n"
    info = json.loads((engine / "training_info.json").read_text())
    assert info["figures"] == {"small": {"nPL": 0.1}}
    assert {len(info["calibration"][side]) for side in ("below", "above")} == {4}
    record = json.loads((engine / "conversion_info.json").read_text())
    files = {path.name for path in engine.iterdir()} - {"conversion_info.json"}
    assert record["sha256"] == {name: hash_file(engine / name) for name in files}


def test_a_release_that_fails_half_way_leaves_nothing_and_no_earlier_version_is_touched(
    run: Path, fleet: Any, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = tmp_path / "engines" / NAME

    def fail(*_: Any, **__: Any) -> Any:
        assert not engine.exists(), "nothing is there before all of it is"
        raise ValueError("no scores")

    def fail_card(*_: Any) -> str:
        raise ValueError("no card")

    with monkeypatch.context() as failing:
        failing.setattr(release_module, "judge_fleets", fail)
        with pytest.raises(ValueError, match="no scores"):
            release(run, engine, [fleet])
    assert list(engine.parent.iterdir()) == []
    release(run, engine, [fleet])
    before = (engine / "conversion_info.json").read_bytes()
    monkeypatch.setattr(release_module, "format_model_card", fail_card)
    with pytest.raises(ValueError, match="no card"):
        release(run, engine, [fleet])
    assert [path.name for path in engine.parent.iterdir()] == [NAME]
    assert (engine / "conversion_info.json").read_bytes() == before


def test_a_memory_is_released_with_the_network_that_asks_for_it(
    contract: Any, fleet: Any, tmp_path: Path, quick: None
) -> None:
    engine = release(write_run(tmp_path / "run", contract, memory=True), tmp_path / NAME, [fleet])
    assert json.loads((engine / "config.json").read_text())["memory"] == {"length": 168, "step_seconds": 3600}


def test_other_seeds_and_runs_on_less_data_are_scored_beside(
    run: Path, contract: Any, fleet: Any, tmp_path: Path, quick: None
) -> None:
    less = write_run(
        tmp_path / "less", contract, sources={"other": 1.0}, leave_out_every=5, leave_out_from="small", memory=True
    )
    engine = release(run, tmp_path / NAME, [fleet], ablations={"without it": less}, seeds=[run])
    info = json.loads((engine / "training_info.json").read_text())
    assert info["seeds"] == {"2": {"small": {"nPL": 0.1}}}
    ablation = info["ablations"]["without it"]
    assert ablation["unseen"] == ["small", "small_left_out"]
    assert {"nPL", "ratio_24h"} <= set(ablation["figures"]["small_left_out"])


def test_a_set_of_a_fleet_that_was_seen_is_no_unseen_one() -> None:
    assert find_seen("asd", {"jumpstarter": 0.2, "smd": 0.5}) == ["jumpstarter"]
    assert find_seen("asd", {"jumpstarter": 0.0, "smd": 0.5}) == []
    assert find_seen("mscloud_hourly_5min", {"mscloud": 0.2}) == ["mscloud"]


def test_hourly_fleets_are_judged_at_five_minutes_once(fleet: Any) -> None:
    hourly = replace(fleet, name="slow", step_seconds=3600)
    refined = prepare_fleets([fleet, hourly])
    assert [f.name for f in refined] == ["small", "slow_5min"]
    assert prepare_fleets([hourly, *refined]) == refined


def test_windows_to_compare_on_have_all_units_and_missing_rows(fleet: Any, contract: Any) -> None:
    past, _, _, _, memory = sample_windows([fleet], replace(contract, memory_length=168), 40)
    assert len(past) == len(memory) == 40
    known = past[~past.isnan()].abs()
    assert known.max() > 1e5
    assert known.min() < 0.1
    assert past.isnan().all(dim=2).any(dim=1).all()


def test_a_run_that_cannot_be_read_is_named(fleet: Any, run: Path, tmp_path: Path) -> None:
    (run / "training_info.json").unlink()
    with pytest.raises(ConfigError, match=r"training_info\.json: .* expected the file beside the weights"):
        release(run, tmp_path / NAME, [fleet])
    assert not (tmp_path / NAME).exists()
