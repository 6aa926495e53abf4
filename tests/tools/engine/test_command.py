"""Tests `streamd/tools/engine/command.py` from the shell: help, usage, statuses, builds on a fake TensorRT."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import structlog

from streamd.cli import main
from streamd.repository.versions import load_version
from streamd.tools.engine.command import SUBCOMMANDS
from streamd.tools.engine.flags import parse_batch_sizes, parse_mebibytes, parse_precisions
from tests.tools.engine.conftest import MakeLibrary

ROOT = Path(__file__).parents[3]
PATCH = next(path for path in (ROOT / "engines").iterdir() if path.name.startswith("patch"))
HEAVY = ("numpy", "msgspec", "onnx", "onnxruntime", "tensorrt", "cuda", "tqdm", "aiohttp")


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name, _, _ in SUBCOMMANDS)])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = f"""
import sys
from streamd.cli import main
try:
    main(["engine", *{arguments!r}])
except SystemExit as ended:
    assert not ended.code, ended.code
print("LOADED", *sorted(set(sys.modules) & set({HEAVY!r})))
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == "LOADED"
    if arguments == ["--help"]:
        assert all(f"  {name} " in ran.stdout for name, _, _ in SUBCOMMANDS)
    else:
        assert "streamd engine" in ran.stdout.partition("examples:")[2]


def test_the_check_for_heavy_imports_can_fail() -> None:
    assert set(HEAVY) & set(sys.modules)


def usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run with wrong usage; return the last line of the error."""
    try:
        status = main(["engine", *arguments])
    except SystemExit as ended:
        status = int(str(ended.code))
    assert status == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND"),
        (["melt"], "no command 'melt'; there are: export, build"),
        (["build"], "one of the arguments --onnx --version is required"),
        (["build", "--onnx", "a", "--version", "b"], "not allowed with"),
        (["build", "--onnx", "a", "--precision", "fp32,fp8"], "'fp8': expected some of fp32"),
        (["build", "--onnx", "a", "--buckets", "0"], "expected sizes from 1 to"),
        (["build", "--onnx", "a", "--buckets", "many"], "expected numbers with commas"),
        (["build", "--onnx", "a", "--workspace-size", "0"], "expected a whole number of MiB"),
        (["build", "--onnx", "a", "--min-batch", "1"], "expected three rising sizes"),
        (["build", "--onnx", "a", "--min-batch", "4", "--opt-batch", "2", "--max-batch", "8"], "three rising"),
        (
            ["build", "--onnx", "a", "--buckets", "1", "--min-batch", "1", "--opt-batch", "2", "--max-batch", "8"],
            "give one kind",
        ),
        (["build", "--onnx", "none.onnx"], "a version needs a manifest"),
        (["build", "--version", str(PATCH), "--config", "c.json"], "--config goes with --onnx"),
    ],
)
def test_wrong_usage_is_reported_in_a_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in usage(arguments, capsys)


def test_int8_needs_windows(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnx")
    base = ["build", "--version", str(PATCH), "--precision"]
    assert "--precision int8 needs --calibration-data" in usage([*base, "int8"], capsys)
    assert "none.npz: no such file" in usage([*base, "fp16", "--calibration-data", "none.npz"], capsys)
    assert "expected 1 or more" in usage([*base, "fp16", "--num-calibration-samples", "0"], capsys)


def test_without_a_gpu_the_error_names_what_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx")
    monkeypatch.setattr("streamd.inference.cuda.count_devices", lambda: 0)
    monkeypatch.setattr("streamd.inference.cuda.explain_no_device", lambda: "no CUDA driver")
    assert main(["engine", "build", "--version", str(PATCH)]) == 1
    output = capsys.readouterr().err
    assert output.startswith("streamd engine build: building a plan needs a CUDA device and TensorRT: no CUDA driver; ")
    assert "pip install 'streamd[build,tensorrt]'" in output
    assert "--backend onnxruntime" in output


def test_without_onnx_the_error_names_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["engine", "build", "--version", str(PATCH)]) == 1
    assert "pip install 'streamd[build]'" in capsys.readouterr().err


def test_a_build_makes_a_version_and_prints_it(
    install: MakeLibrary, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = install("8.6.1")
    out, cache = tmp_path / "engines", tmp_path / "timing-cache"
    arguments = ["engine", "build", "--version", str(PATCH), "--precision", "fp32,fp16", "--buckets", "8,1"]
    arguments += ["--out", str(out), "--timing-cache", str(cache), "--workspace-size", "512", "--json"]
    arguments += ["--calibration-data", str(ROOT / "examples/fleet/servers.csv.gz"), "--num-calibration-samples", "4"]
    assert main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    path = Path(result["folder"])
    assert path.parent == out
    assert path.name.startswith("patch_tensorrt_")
    assert load_version(path).manifest.default is False
    plans = result["plans"]
    assert {name: plan["file"] for name, plan in plans.items()} == {p: f"model_{p}.engine" for p in ("fp32", "fp16")}
    assert plans["fp16"]["buckets"] == [1, 8]
    assert plans["fp16"]["gpu"] == "NVIDIA Fake"
    assert plans["fp32"]["kept_fp32"] == []
    assert {"/scaler/Div", "/restorer/Add"} <= set(plans["fp16"]["kept_fp32"])
    info = json.loads((path / "conversion_info.json").read_text())
    assert info["command"] == ["streamd", *arguments]
    assert info["plans"] == plans
    assert cache.is_file()
    assert module.recorder.config.pools == {module.MemoryPoolType.WORKSPACE: 512 * 2**20}
    assert "weights are subnormal" in (path / "conversion_log.txt").read_text()


def test_a_build_that_fails_reports_the_reason_and_leaves_nothing(
    install: MakeLibrary, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = install("10.16.0")
    module.recorder.build_errors = ["no implementation for node /output/MatMul"]
    arguments = ["engine", "build", "--version", str(PATCH), "--out", str(tmp_path / "engines")]
    assert main([*arguments, "--precision", "fp16"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "no implementation for node /output/MatMul" in captured.err
    assert os.listdir(tmp_path / "engines") == []


def test_an_interrupt_leaves_nothing(install: MakeLibrary, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    install("10.16.0").recorder.during_build = interrupt
    arguments = ["engine", "build", "--version", str(PATCH), "--out", str(tmp_path / "engines"), "--precision", "fp32"]
    assert main(arguments) == 130
    assert capsys.readouterr().err.endswith("streamd engine build: interrupted\n")
    assert os.listdir(tmp_path / "engines") == []


def test_any_graph_gives_plans_without_a_manifest(
    install: MakeLibrary, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import numpy as np
    import onnx

    from tests.support.graph_readers import raw_windows, scaled_network

    module = install("10.16.0")
    onnx.save(scaled_network(), str(tmp_path / "any.onnx"))
    np.savez(tmp_path / "windows.npz", x=raw_windows(16)["x"])
    arguments = ["engine", "build", "--onnx", str(tmp_path / "any.onnx"), "--plans-only", str(tmp_path / "plans")]
    arguments += ["--min-batch", "1", "--opt-batch", "4", "--max-batch", "16", "--keep-graphs", "--quiet"]
    arguments += ["--precision", "bf16,int8", "--calibration-data", str(tmp_path / "windows.npz")]
    arguments += ["--calibration", "minmax", "--per-tensor"]
    assert main(arguments) == 0
    output = capsys.readouterr()
    assert (output.out, output.err) == (f"{tmp_path / 'plans'}\n", "")
    assert sorted(path.name for path in (tmp_path / "plans").iterdir()) == [
        *("conversion_log.txt", "model_bf16.engine", "model_bf16.onnx", "model_int8.engine", "model_int8.onnx"),
        "plans.json",
    ]
    assert module.recorder.config.profiles[0].shapes == {"x": ((1, 6, 8), (4, 6, 8), (16, 6, 8))}
    onnx.checker.check_model(str(tmp_path / "plans" / "model_int8.onnx"), full_check=True)


def test_a_graph_that_does_not_match_its_manifest_is_refused(
    install: MakeLibrary, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnx

    from tests.support.graph_readers import scaled_network

    install("10.16.0")
    onnx.save(scaled_network(), str(tmp_path / "any.onnx"))
    arguments = ["engine", "build", "--onnx", str(tmp_path / "any.onnx"), "--config", str(PATCH / "config.json")]
    assert main(arguments) == 1
    assert "its inputs are {'x': (6, 8)}, its manifest expects" in capsys.readouterr().err


def test_values_of_flags() -> None:
    assert parse_precisions("fp16, fp32,fp16") == ("fp16", "fp32")
    assert parse_batch_sizes("32,1,8,1") == (1, 8, 32)
    assert parse_mebibytes("3") == 3 * 2**20


def test_subcommands_have_all_that_the_command_needs() -> None:
    import importlib

    for _, name, _ in SUBCOMMANDS:
        module: Any = importlib.import_module(name)
        assert module.DESCRIPTION.strip()
        assert "streamd engine" in module.EXAMPLES
        assert callable(module.add_arguments)
        assert callable(module.main)


def test_logs_of_libraries_stay_out_of_the_results(capsys: pytest.CaptureFixture[str]) -> None:
    before = structlog.get_config()
    try:
        assert main(["engine", "list", "--json"]) == 0
        structlog.get_logger().warning("tensorrt", message="weights are subnormal")
    finally:
        structlog.configure(**before)
    output = capsys.readouterr()
    json.loads(output.out)
    assert "weights are subnormal" in output.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--jobs", "0"], "--jobs 0: expected 1 or more"),
        (["--jobs", "2", "--buckets", ",".join(map(str, range(1, 18)))], "17 batch sizes, expected at most 16"),
    ],
)
def test_jobs_out_of_bounds_are_reported(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    (version,) = (Path(__file__).resolve().parents[3] / "engines").glob("patch_*")
    assert main(["engine", "build", "--version", str(version), *flags]) == 2
    assert message in capsys.readouterr().err
