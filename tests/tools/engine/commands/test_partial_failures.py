"""Tests `streamd/tools/engine/commands` that fail half-way: files made before it can be used."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx

from streamd.cli import main
from streamd.core.errors import BackendUnavailableError
from streamd.engine import InferenceEngine
from streamd.inference.api.backends import OPENERS, OpenOptions, Runners
from streamd.inference.api.sources import EngineSource
from streamd.repository.conversion import read_verdicts
from streamd.repository.plans import Machine
from streamd.tools.engine import command
from streamd.tools.engine.output.folders import PlansFolder
from streamd.tools.engine.plan.parallel import BuildPool
from tests.support.graph_readers import model, node, raw_windows, scaled_network, value
from tests.support.made_graphs import SETTINGS, WHERE, make_plan, read_made_source
from tests.support.made_versions import add_plan
from tests.support.small_version import make_fleet, make_version
from tests.tools.engine.conftest import MakeLibrary

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture
def given(tmp_path: Path) -> list[str]:
    """Arguments for a network without products: float32 and half precision work, int8 has nothing to quantize."""
    nodes = [node("Mul", "x x", "square", "/Mul"), node("Relu", "square", "y", "/Relu")]
    onnx.save(model(nodes, [value("x", ["batch", 6, 8])], [value("y", ["batch", 6, 8])]), str(tmp_path / "any.onnx"))
    np.savez(tmp_path / "windows.npz", x=raw_windows(16)["x"] / 1e9)
    return ["--onnx", str(tmp_path / "any.onnx"), "--calibration-data", str(tmp_path / "windows.npz"), "--quiet"]


def build(given: list[str], plans: Path, precision: str, *more: str) -> int:
    return main(["engine", "build", *given, "--plans-only", str(plans), "--precision", precision, *more])


def record_of(plans: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((plans / "plans.json").read_text())
    return result


@pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt"])
def test_a_precision_made_before_another_failed_is_on_record(
    install: MakeLibrary, tmp_path: Path, given: list[str], capsys: pytest.CaptureFixture[str], backend: str
) -> None:
    install("10.16.0")
    plans = tmp_path / "plans"
    assert build(given, plans, "fp16,int8", "--backend", backend) == 1
    assert "int8: " in capsys.readouterr().err
    kind, suffix = ("graphs", "onnx") if backend == "onnxruntime" else ("plans", "engine")
    record = record_of(plans)
    assert record[kind].keys() == {"fp16"}
    assert {each.name for each in plans.iterdir()} == {f"model_fp16.{suffix}", "plans.json", "conversion_log.txt"}
    if backend == "onnxruntime":
        assert main(["engine", "validate", *given[:2], "--plans", str(plans), "--precision", "fp16", "--quiet"]) == 0
        with InferenceEngine.open(given[1], plans=plans, backend="onnxruntime-cpu", precision="fp16") as engine:
            assert engine({"x": np.full((2, 6, 8), 2, np.float32)})["y"] == pytest.approx(np.full((2, 6, 8), 4.0))


REFUSES_ONCE_THERE_IS_A_RECORD = """
import os, pathlib, runpy, sys, time
job = pathlib.Path(sys.argv[1], "job.json").read_text()
if "fp16" in job:
    while not os.path.exists({record!r}):
        time.sleep(0.01)
    sys.exit("no tactic fits")
runpy.run_module("tests.support.fake_build_worker", run_name="__main__")
"""


def test_with_jobs_a_precision_made_before_another_failed_is_on_record(
    install: MakeLibrary, tmp_path: Path, given: list[str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    install("10.16.0")
    plans = tmp_path / "plans"
    script = REFUSES_ONCE_THERE_IS_A_RECORD.format(record=str(plans / "plans.json"))
    defaults: Any = BuildPool.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "command", (sys.executable, "-c", script))
    monkeypatch.setenv("FAKE_TENSORRT", "10.16.0")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert build(given, plans, "fp32,fp16", "--jobs", "2", "--buckets", "1") == 1
    assert "no tactic fits" in capsys.readouterr().err
    assert record_of(plans)["plans"].keys() == {"fp32"}
    assert {each.name for each in plans.iterdir()} == {"model_fp32.engine", "plans.json", "conversion_log.txt"}


def test_a_build_that_made_nothing_leaves_nothing(tmp_path: Path, given: list[str]) -> None:
    assert build(given, tmp_path / "plans", "int8,fp16", "--backend", "onnxruntime") == 1
    assert not (tmp_path / "plans").exists()
    (tmp_path / "there").mkdir()
    assert build(given, tmp_path / "there", "int8", "--backend", "onnxruntime") == 1
    assert os.listdir(tmp_path / "there") == []


def test_an_earlier_plan_stays_on_record_until_it_is_replaced(tmp_path: Path, given: list[str]) -> None:
    plans, graphs = tmp_path / "plans", ("--backend", "onnxruntime")
    assert build(given, plans, "fp32,fp16", *graphs) == 0
    assert main(["engine", "validate", *given[:2], "--plans", str(plans), "--quiet"]) == 0
    first = record_of(plans)
    assert first["validation"].keys() == {"fp32", "fp16"}
    assert build(given, plans, "fp16,int8", *graphs) == 1
    second = record_of(plans)
    assert second["graphs"].keys() == {"fp32", "fp16"}
    assert second["graphs"]["fp32"] == first["graphs"]["fp32"]
    assert second["validation"] == {"fp32": first["validation"]["fp32"]}, "the new graph was not judged yet"
    log = (plans / "conversion_log.txt").read_text()
    assert log.count("model_fp16.onnx: ") >= 2


def test_plans_of_another_graph_are_removed_from_the_record(tmp_path: Path, given: list[str]) -> None:
    plans, graphs = tmp_path / "plans", ("--backend", "onnxruntime")
    assert build(given, plans, "fp16", *graphs) == 0
    onnx.save(scaled_network(), given[1])
    assert build(given, plans, "fp32", *graphs) == 0
    assert record_of(plans)["graphs"].keys() == {"fp32"}


def test_the_record_never_describes_another_content_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each write, a plan that the record lists is the plan on disk."""
    version = make_version(tmp_path / "engines")
    folder = tmp_path / "plans"
    seen: list[tuple[str, bytes]] = []
    replace = os.replace

    def check(*given: Any) -> None:
        replace(*given)
        if (folder / "plans.json").is_file() and record_of(folder)["plans"]:
            listed = record_of(folder)["plans"]["fp16"]["pinned_layers"]
            seen.append((str(listed), (folder / "model_fp16.engine").read_bytes()))

    monkeypatch.setattr(os, "replace", check)
    for content in (b"first", b"second"):
        with PlansFolder(folder, read_made_source(version), ["streamd"]) as plans:
            made = make_plan(content=content)
            object.__setattr__(made.plan, "pinned_layers", content.decode())
            plans.add_plan(made, SETTINGS, WHERE)
            plans.finish()
    assert set(seen) == {("first", b"first"), ("second", b"second")}


def test_a_precision_that_does_not_run_keeps_no_other_from_its_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    version = make_version(tmp_path / "engines")
    add_plan(version, "fp16")

    def refuse(source: EngineSource, options: OpenOptions) -> Runners:
        raise BackendUnavailableError("the device has no room")

    monkeypatch.setattr(command, "_probe", lambda: Machine("NVIDIA H200", "9.0", "8.6.1"))
    monkeypatch.setitem(OPENERS, "tensorrt", refuse)
    arguments = ["engine", "validate", str(version), "--data", str(make_fleet(tmp_path)), "--windows", "16", "--quiet"]
    assert main(arguments) == 1
    assert "fp16 does not run, so it has no new verdict: no backend can run" in capsys.readouterr().out
    assert {name: each.promotable for name, each in read_verdicts(version).items()} == {"fp32": True}
    assert main([*arguments, "--precision", "fp16"]) == 1
    assert "the device has no room" in capsys.readouterr().err
