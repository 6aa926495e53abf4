"""Tests `streamd/tools/training/train.py`: a whole run from the command line, and what it draws from."""

import argparse
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

from streamd.tools.networks.weights import load_network  # noqa: E402
from streamd.tools.training import train  # noqa: E402
from streamd.tools.training.config import TrainingConfig  # noqa: E402
from streamd.tools.training.hours import add_refined_fleets  # noqa: E402

CPU = torch.device("cpu")
CONFIG = TrainingConfig(sources={"small": 0.5, "slow_5min": 0.2}, generated_servers=3, generated_length=600)


@pytest.fixture
def fleets(fleet: Any) -> Any:
    return add_refined_fleets([fleet, replace(fleet, name="slow", step_seconds=3600)])


def test_sources_are_those_of_the_configuration_and_generated_servers(fleets: Any) -> None:
    sources = train.make_sources(replace(CONFIG, leave_out_every=5, leave_out_from="small"), fleets, CPU)
    assert [(each.name, each.weight) for each in sources] == [("small", 0.5), ("slow_5min", 0.2), ("generated", 0.4)]
    assert [len(each.values) for each in sources] == [4, 5, 3]
    assert sources[2].values.shape == (3, 14, 600)
    assert sources[2].extents.tolist() == [[0, 600]] * 3
    assert sources[2].has_weekdays


def test_nothing_is_generated_if_nothing_is_drawn_from_it(fleets: Any) -> None:
    sources = train.make_sources(replace(CONFIG, generated_share=0.0), fleets, CPU)
    assert [each.name for each in sources] == ["small", "slow_5min"]


def test_interpolated_hours_get_noise_and_recorded_ones_do_not(fleets: Any) -> None:
    sources = train.make_sources(replace(CONFIG, sources={"slow": 0.1, "slow_5min": 0.1}), fleets, CPU)
    slow, fine, _ = sources
    assert slow.values.shape[2] * 12 == fine.values.shape[2]
    torch.testing.assert_close(
        slow.values, torch.from_numpy(fleets[1].values[:, :1152]).transpose(1, 2), equal_nan=True
    )
    assert fine.values[0, 0, :24].diff().abs().std() > 0


def test_a_source_that_is_no_fleet_is_named(fleets: Any) -> None:
    with pytest.raises(ValueError, match=r"sources \['smdd'\]: expected some of \['slow', 'slow_5min', 'small'\]"):
        train.make_sources(replace(CONFIG, sources={"smdd": 1.0}), fleets, CPU)


def test_a_run_leaves_weights_that_load_and_says_how_they_were_made(
    fleets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: list[list[str]] = []

    def load(folder: Path, names: list[str]) -> Any:
        wanted.append(names)
        return fleets[:2]

    monkeypatch.setattr(train, "load_fleets", load)
    monkeypatch.setattr(train, "make_validator", lambda *_: lambda model: {"score": 1.0})
    (tmp_path / "small.toml").write_text(
        'memory = true\nsteps = 2\nbatch = 4\nprecision = "fp32"\ngenerated_share = 0.0\n'
        "[model]\nwidth = 16\nlayers = 1\nheads = 2\n[sources]\nsmall = 0.5\nslow_5min = 0.5\n"
    )
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    flags = ["--config", str(tmp_path / "small.toml"), "--data", ".", "--output", str(tmp_path / "run"), "--quiet"]
    assert train.main(parser.parse_args([*flags, "--set", "seed=3", "--device", "cpu"])) == 0
    assert wanted == [["small", "slow"]]
    info = json.loads((tmp_path / "run/training_info.json").read_text())
    assert (info["seed"], info["steps"], info["device"]) == (3, 2, "CPU")
    assert sorted(info["data"]) == ["slow_5min", "small"]
    assert info["curves"][-1]["score"] == 1.0
    trained = load_network(tmp_path / "run")
    assert trained.contract.memory_length == 168
    assert train.main(parser.parse_args([*flags, "--set", "seed=3", "--device", "cpu", "--resume"])) == 0
