"""Tests `streamd/tools/engine/commands/validate.py`: right verdicts, recorded and obeyed, for any network."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx

from streamd.cli import main
from streamd.core.errors import RepositoryError
from streamd.inference.api.backends import OPENERS, OpenOptions, Runners
from streamd.inference.api.sources import EngineSource
from streamd.inference.runner import Array, Arrays
from streamd.repository.conversion import choose_graph, read_verdicts
from streamd.repository.plans import Machine
from streamd.repository.versions import load_version
from streamd.tools.engine import command
from streamd.tools.engine.gate.runners import open_graph
from tests.support.graph_readers import raw_windows, scaled_network
from tests.support.made_versions import add_plan, judge
from tests.support.small_version import make_fleet, make_version, ruin

H200 = Machine("NVIDIA H200", "9.0", "8.6.1")


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    return make_fleet(tmp_path)


@pytest.fixture
def built(tmp_path: Path, fleet: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A version with a graph for each precision, made by the command."""
    source = make_version(tmp_path / "engines")
    arguments = ["engine", "build", "--version", str(source), "--backend", "onnxruntime", "--quiet"]
    arguments += ["--precision", "fp32,fp16,int8", "--calibration-data", str(fleet), "--calibration", "minmax"]
    assert main([*arguments, "--largest-move", "1"]) == 0
    return Path(capsys.readouterr().out.strip())


def validate(version: Path, fleet: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, Any]:
    capsys.readouterr()
    arguments = [str(version), "--data", str(fleet), "--windows", "48", "--json", "--quiet", *more]
    status = main(["engine", "validate", *arguments])
    output = capsys.readouterr()
    return status, json.loads(output.out) if output.out else output.err


def test_graphs_are_built_validated_recorded_and_served(
    built: Path, fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    info = json.loads((built / "conversion_info.json").read_text())
    assert {name: each["file"] for name, each in info["graphs"].items()} == {
        "fp32": "model.onnx",
        "fp16": "model_fp16.onnx",
        "int8": "model_int8.onnx",
    }
    assert info["plans"] == {}
    assert set(info["sha256"]) == {each.name for each in built.iterdir()} - {"conversion_info.json"}
    assert "/scaler/Div" in info["graphs"]["fp16"]["kept_fp32"]
    with pytest.raises(RepositoryError, match="never validated"):
        choose_graph(built, "fp16")
    status, result = validate(built, fleet, capsys, "--precision", "fp32,fp16")
    assert status == 0
    assert set(result["validation"]) == {"fp32", "fp16"}
    for verdict in result["validation"].values():
        assert verdict["promotable"]
        assert verdict["pinball"] == pytest.approx(verdict["pinball_fp32"], rel=1e-3)
        assert set(verdict["parts"]) == {"net", "cpu"}
        assert verdict["backend"] == "onnxruntime-cpu"
    assert 0 < result["validation"]["fp16"]["relative_error"] < 1e-2
    load_version(built)
    assert {name: each.promotable for name, each in read_verdicts(built).items()} == {"fp32": True, "fp16": True}
    assert choose_graph(built, "fp16") == built / "model_fp16.onnx"
    assert "accuracy gate, model_fp16.onnx" in (built / "conversion_log.txt").read_text()
    onnx.checker.check_model(str(built / "model_int8.onnx"), full_check=True)


def test_a_precision_that_is_wrong_is_refused_blamed_and_never_chosen(
    built: Path, fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ruin(built / "model_fp16.onnx", "second")
    status, result = validate(built, fleet, capsys, "--precision", "fp32,fp16")
    assert status == 1
    verdict = result["validation"]["fp16"]
    assert verdict["promotable"] is False
    assert any("correlation" in reason for reason in verdict["reasons"])
    assert verdict["blame"]["first"].startswith("/second/MatMul (MatMul)")
    assert verdict["blame"]["worst"][0].startswith("/second/MatMul (MatMul)")
    assert result["validation"]["fp32"]["promotable"]
    assert "blame" not in result["validation"]["fp32"]
    with pytest.raises(RepositoryError, match="did not let it through"):
        choose_graph(built, "fp16")
    load_version(built)
    # fp32 passed: the version itself may serve.
    assert main(["engine", "promote", built.name, "--engines", str(built.parent)]) == 0


def test_refused_float32_is_never_promoted(built: Path, fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judge(built, "fp32", False, "made up")
    assert main(["engine", "promote", built.name, "--engines", str(built.parent)]) == 1
    assert validate(built, fleet, capsys, "--precision", "fp32")[0] == 0, "it is judged again, whatever the record says"
    assert main(["engine", "promote", built.name, "--engines", str(built.parent)]) == 0


def test_without_a_record_nothing_is_written(built: Path, fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {each.name: each.read_bytes() for each in built.iterdir()}
    assert validate(built, fleet, capsys, "--no-record", "--precision", "fp32")[0] == 0
    assert {each.name: each.read_bytes() for each in built.iterdir()} == before


def test_the_table_shows_verdicts_blame_and_what_was_passed_over(
    built: Path, fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ruin(built / "model_fp16.onnx", "first", 1.0)
    add_plan(built, "bf16")
    capsys.readouterr()
    assert main(["engine", "validate", built.name, "--engines", str(built.parent), "--data", str(fleet)]) == 1
    output = capsys.readouterr()
    lines = output.out.splitlines()
    assert lines[0] == built.name
    assert [line.split()[:3] for line in lines[2:4]] == [
        ["fp32", "onnxruntime-cpu", "passed"],
        ["fp16", "onnxruntime-cpu", "refused"],
    ]
    assert any(line.startswith("fp16: adds most: /first/MatMul") for line in lines)
    assert "passed over bf16: no GPU with a TensorRT to run it here" in lines
    assert "windows of 3 servers" in output.err


class FakePlan:
    """A plan that runs the version's graph, and gives wrong values at one batch size."""

    name, device = "fake", "none"
    pads = True

    def __init__(self, graph: Path, buckets: tuple[int, ...], wrong: int | None = None) -> None:
        self._graph, self.buckets, self._wrong = open_graph(graph).runners[0], buckets, wrong
        self.inputs, self.outputs = self._graph.inputs, self._graph.outputs
        self.sizes: list[int] = []

    def run(self, feeds: Mapping[str, Array]) -> Arrays:
        self.sizes.append(len(feeds["encoder_cont"]))
        factor = 1.5 if self.sizes[-1] == self._wrong else 1.0
        return {name: values * factor for name, values in self._graph.run(feeds).items()}

    def close(self) -> None:
        self._graph.close()


@pytest.mark.parametrize("wrong", [None, 8])
def test_a_plan_is_judged_at_every_bucket(
    tmp_path: Path, fleet: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, wrong: int | None
) -> None:
    version = make_version(tmp_path / "engines")
    add_plan(version, "fp16")
    judge(version, "fp16", False, "an earlier one")
    opened: list[FakePlan] = []

    def open_plan(source: EngineSource, options: OpenOptions) -> Runners:
        assert (source.plans, options.lanes, options.devices) == (version / "model_fp16.engine", 1, (0,))
        assert options.lean_runtime is None, "the plan is of this TensorRT alone"
        assert options.buckets is not None
        opened.append(FakePlan(version / "model.onnx", options.buckets, wrong))
        return Runners([opened[-1]], "fp16")

    monkeypatch.setattr(command, "_probe", lambda: H200)
    monkeypatch.setitem(OPENERS, "tensorrt", open_plan)
    status, result = validate(version, fleet, capsys, "--lean-runtime", "libnvinfer_lean.so.8")
    assert set(result["validation"]) == {"fp16", "fp32"}
    verdict = result["validation"]["fp16"]
    assert (status, verdict["promotable"]) == (int(wrong is not None), wrong is None)
    assert (verdict["backend"], verdict["batch_sizes"]) == ("tensorrt", [1, 8])
    assert verdict["failed_batch_sizes"] == ([8] if wrong else [])
    assert opened[0].sizes == [1] * 48 + [8] * 6
    # Its graph was not kept, but what was kept in float32 is on record: the nodes can be compared.
    blame = verdict.get("blame", {})
    assert ("how the plan was built" in blame.get("plan", "")) is (wrong is not None)
    assert read_verdicts(version)["fp16"].promotable is (wrong is None)


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        (None, "no GPU with a TensorRT"),
        (Machine("NVIDIA A100", "8.0", "8.6.1"), "built for NVIDIA H200"),
        (Machine("NVIDIA H200", "9.0", "10.1"), "built by TensorRT 8.6.1"),
    ],
)
def test_a_plan_of_another_machine_is_passed_over_with_the_reason(
    tmp_path: Path, fleet: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    machine: Machine | None, message: str,
) -> None:  # fmt: skip
    version = make_version(tmp_path / "engines")
    add_plan(version, "fp16")
    monkeypatch.setattr(command, "_probe", lambda: machine)
    status, error = validate(version, fleet, capsys, "--precision", "fp16")
    assert status == 1
    assert message in error
    assert validate(version, fleet, capsys)[1]["passed_over"]["fp16"].startswith(message)


def test_any_network_is_validated_without_a_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(scaled_network(), str(tmp_path / "any.onnx"))
    np.savez(tmp_path / "windows.npz", x=raw_windows(40)["x"])
    arguments = ["--onnx", str(tmp_path / "any.onnx"), "--quiet"]
    build = ["engine", "build", *arguments, "--backend", "onnxruntime", "--plans-only", str(tmp_path / "graphs")]
    assert main([*build, "--precision", "fp32,fp16", "--calibration-data", str(tmp_path / "windows.npz")]) == 0
    capsys.readouterr()
    validate_it = ["engine", "validate", *arguments, "--plans", str(tmp_path / "graphs"), "--json"]
    assert main([*validate_it, "--data", str(tmp_path / "windows.npz")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["validation"]) == {"fp32", "fp16"}
    assert result["validation"]["fp16"]["parts"].keys() == {"y"}
    assert result["validation"]["fp16"]["pinball_change"] is None
    assert json.loads((tmp_path / "graphs" / "plans.json").read_text())["validation"] == result["validation"]
    ruin_graph = onnx.load(str(tmp_path / "graphs" / "model_fp16.onnx"))
    ruin_graph.graph.initializer[0].raw_data = bytes(len(ruin_graph.graph.initializer[0].raw_data))
    onnx.save(ruin_graph, str(tmp_path / "graphs" / "model_fp16.onnx"))
    assert main(validate_it) == 1, "on random inputs"
    assert main(["engine", "validate", *arguments]) == 0, "the graph alone, against itself as it is written"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one of VERSION and --onnx"),
        (["a", "--onnx", "b"], "give one of VERSION and --onnx"),
        (["a", "--plans", "b"], "--plans and --config belong to --onnx"),
        (["none_20250101_000000"], "no such engine version"),
        (["a", "--windows", "0"], "--windows 0: expected 1 or more"),
        (["a", "--precision", "fp8"], "'fp8': expected some of"),
    ],
)
def test_wrong_usage_is_reported(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main(["engine", "validate", *arguments])
    except SystemExit as ended:
        status = int(str(ended.code))
    assert status == 2
    assert message in capsys.readouterr().err


def test_a_missing_precision_is_reported(built: Path, fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, error = validate(built, fleet, capsys, "--precision", "bf16")
    assert status == 1
    assert "no bf16 to run: it has fp16, fp32, int8" in error
