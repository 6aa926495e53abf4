"""Tests `streamd/tools/engine/command.py` on a version with a memory: its graphs can be run without one, as before."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx

from streamd.cli import main
from streamd.core.contract import MEMORY_INPUT
from streamd.repository.versions import load_version
from streamd.tools.engine.gate.runners import run_graph
from streamd.tools.engine.gate.truth import cut_with_truth
from streamd.tools.engine.gate.windows import read_fleet_on_grid
from streamd.tools.engine.graph.optional_inputs import read_defaults
from streamd.tools.engine.graph.source import read_source
from tests.support.graph_readers import node, weight
from tests.support.memory_version import make_memory_contract, make_memory_version

NAME = "memory_tensorrt_20260101_000000"
CONTRACT = make_memory_contract()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a fleet of two servers and 150 steps, with the features of the contract."""
    random = np.random.default_rng(3)
    lines = ["server,time," + ",".join(CONTRACT.features)]
    for step in range(150):
        for server in "ab":
            values = random.uniform(1, 9, len(CONTRACT.features))
            lines.append(f"{server},{300 * (5_000_000 + step)}," + ",".join(f"{value:.3f}" for value in values))
    path = tmp_path_factory.mktemp("fleet") / "fleet.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, fleet: Path) -> Path:
    """Build a graph for each precision from a version with a memory and a product."""
    source = make_memory_version(tmp_path_factory.mktemp("engines"), NAME, CONTRACT)
    graph = onnx.load(str(source / "model.onnx"))
    place = next(index for index, each in enumerate(graph.graph.node) if each.name == "/Gather_1")
    size = len(CONTRACT.features)
    graph.graph.node[place].input[0] = "mixed"
    graph.graph.node.insert(place, node("MatMul", "levels mix", "mixed", "/mix/MatMul"))
    graph.graph.initializer.append(weight("mix", np.eye(size) + np.random.default_rng(1).uniform(0, 0.1, (size, size))))
    onnx.save(graph, str(source / "model.onnx"))
    arguments = ["engine", "build", "--version", str(source), "--backend", "onnxruntime", "--quiet", "--calibration"]
    arguments += ["minmax", "--largest-move", "1", "--precision", "fp32,fp16,int8", "--calibration-data", str(fleet)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(source.parent)
        assert main(arguments) == 0
    return next(path for path in source.parent.iterdir() if path.is_dir() and path.name > NAME)


def test_the_graph_of_each_precision_keeps_the_default(built: Path) -> None:
    assert load_version(built).contract.memory_length == 168
    for name in ("model.onnx", "model_fp16.onnx", "model_int8.onnx"):
        graph = onnx.load(str(built / name))
        (default,) = read_defaults(graph).values()
        assert default.shape == (1, 168, len(CONTRACT.features))
        assert np.isnan(default).all()
        assert default.dtype == np.float32


@pytest.mark.parametrize("name", ["model_fp16.onnx", "model_int8.onnx"])
def test_lower_precision_reads_the_memory(built: Path, fleet: Path, name: str) -> None:
    windows = cut_with_truth(read_fleet_on_grid(fleet, CONTRACT), CONTRACT, 40).windows
    assert np.isfinite(windows[MEMORY_INPUT]).any()
    expected, found = (run_graph(built / each, windows)["predictions"] for each in ("model.onnx", name))
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.999
    forgotten = {key: values for key, values in windows.items() if key != MEMORY_INPUT}
    without = run_graph(built / name, forgotten)["predictions"]
    nothing = run_graph(built / name, {**windows, MEMORY_INPUT: np.full_like(windows[MEMORY_INPUT], np.nan)})
    np.testing.assert_array_equal(without, nothing["predictions"])
    assert np.abs(without - found).max() > 100, "the forecast depends on its memory"


def test_the_gate_judges_with_a_memory(built: Path, fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["engine", "validate", str(built), "--data", str(fleet), "--windows", "24", "--json", "--quiet"]
    main([*arguments, "--no-record"])
    found: Any = json.loads(capsys.readouterr().out)
    assert found["failed"] == {}
    assert found["validation"]["fp32"]["promotable"]
    assert found["validation"]["fp16"]["largest_relative_error"] < 0.01
    assert "int8" in found["validation"]


def test_measurements_take_a_memory(built: Path, fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["engine", "bench", str(built), "--data", str(fleet), "--batches", "2", "--lanes", "1", "--json"]
    assert main([*arguments, "--quiet", "--seconds", "0.01", "--turns", "1"]) == 0
    variants = {each["variant"] for each in json.loads(capsys.readouterr().out)["results"]}
    assert {"onnxruntime-cpu fp32", "onnxruntime-cpu fp16", "onnxruntime-cpu int8"} <= variants


def test_a_manifest_without_a_memory_leaves_the_default_in_the_graph(tmp_path: Path) -> None:
    version = make_memory_version(tmp_path, NAME, CONTRACT)
    manifest = json.loads((version / "config.json").read_text())
    del manifest["memory"]
    (version / "config.json").write_text(json.dumps(manifest))
    source = read_source(None, version, None, manifest_needed=True)
    assert [spec.name for spec in source.signature.inputs] == list(replace(CONTRACT, memory_length=0).input_shapes)
    assert list(read_defaults(source.model)) == [MEMORY_INPUT]
