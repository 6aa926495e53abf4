"""Tests `streamd/tools/engine/commands/bench.py`: measurements of real runs, and files that leave a version sound."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("onnx")

from streamd.cli import main
from streamd.inference.api.backends import OPENERS, OpenOptions, Runners
from streamd.inference.api.sources import EngineSource, find_source
from streamd.repository.plans import Machine
from streamd.repository.versions import load_version
from streamd.tools.engine import command
from tests.support.graph_readers import scaled_network
from tests.support.made_versions import add_plan
from tests.support.small_version import make_fleet, make_version


def test_a_version_is_measured_and_stays_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    version = make_version(tmp_path / "engines")
    fleet = make_fleet(tmp_path)
    build = ["engine", "build", "--version", str(version), "--backend", "onnxruntime", "--precision", "fp32,fp16"]
    assert main([*build, "--calibration-data", str(fleet), "--quiet"]) == 0
    built = Path(capsys.readouterr().out.strip())
    arguments = ["engine", "bench", str(built), "--data", str(fleet), "--batches", "1,4", "--lanes", "1,2"]
    arguments += ["--seconds", "0.001", "--turns", "2", "--quiet", "--json"]
    for _ in range(2):
        assert main(arguments) == 0
        result = json.loads(capsys.readouterr().out)
        load_version(built)
    assert json.loads((built / "benchmark_results.json").read_text()) == result
    assert {(cell["variant"], cell["batch"], cell["lanes"]) for cell in result["results"]} == {
        (f"onnxruntime-cpu {precision}", batch, lanes)
        for precision in ("fp32", "fp16")
        for batch in (1, 4)
        for lanes in (1, 2)
    }
    assert {"pytorch", "onnxruntime-cuda fp32"} <= set(result["left_out"])
    assert result["hardware"]["cores"] >= 1
    assert result["versions"]["onnxruntime"]
    assert result["command"] == ["streamd", *arguments]
    assert all(cell["windows_per_second"] > 0 and cell["runs"] >= 2 for cell in result["results"])
    assert any("accuracy" in text for text in result["not_measured"])
    ElementTree.fromstring((built / "benchmark.svg").read_text())
    assert "| batch | lanes | variant |" in (built / "benchmark.md").read_text()


def test_a_plan_is_measured_at_its_own_batch_sizes_with_all_lanes_on_one_engine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    version = make_version(tmp_path / "engines")
    add_plan(version, "fp16", version_compatible=True)
    asked: list[OpenOptions] = []

    def open_plan(source: EngineSource, options: OpenOptions) -> Runners:
        asked.append(options)
        graph = find_source(version / "model.onnx")
        return Runners(OPENERS["onnxruntime-cpu"](graph, options).runners, "fp16")

    monkeypatch.setattr(command, "_probe", lambda: Machine("NVIDIA H200", "9.0", "8.6.1"))
    monkeypatch.setitem(OPENERS, "tensorrt", open_plan)
    arguments = ["engine", "bench", str(version), "--data", str(make_fleet(tmp_path)), "--batches", "4,8"]
    arguments += ["--lanes", "1,2", "--seconds", "0.001", "--turns", "1", "--quiet", "--json"]
    assert main([*arguments, "--lean-runtime", "libnvinfer_lean.so.8"]) == 0
    cells = json.loads(capsys.readouterr().out)["results"]
    assert [(each["batch"], each["lanes"]) for each in cells if each["variant"] == "tensorrt fp16"] == [(8, 1), (8, 2)]
    (options,) = asked
    assert (options.buckets, options.lanes, options.lean_runtime) == ((8,), 2, Path("libnvinfer_lean.so.8"))


def test_results_for_any_network_are_written_into_the_given_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnx

    onnx.save(scaled_network(), str(tmp_path / "any.onnx"))
    arguments = ["engine", "bench", "--onnx", str(tmp_path / "any.onnx"), "--batches", "2", "--lanes", "1"]
    arguments += ["--seconds", "0.001", "--turns", "1", "--quiet"]
    assert main(arguments) == 0
    assert list(tmp_path.iterdir()) == [tmp_path / "any.onnx"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert {each.name for each in (tmp_path / "out").iterdir()} == {
        "benchmark_results.json",
        "benchmark.md",
        "benchmark.svg",
    }
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "any.onnx"
    assert lines[2].split()[:4] == ["2", "1", "onnxruntime-cpu", "fp32"]


@pytest.mark.parametrize("flags", [["--turns", "0"], ["--seconds", "0"], ["--threads", "0"]])
def test_wrong_usage_is_reported(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["engine", "bench", "--onnx", "a", *flags]) == 2
    assert "expected" in capsys.readouterr().err
