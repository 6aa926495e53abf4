"""Builds each exported network's plans, compares them with ONNX Runtime on the CPU, and times them.

Each build and each comparison is a process of its own with a time limit, so a crash does not affect the others. Not
measured: the effect of a precision on a trained network's accuracy; PyTorch; other batch sizes than the bucket.
"""

import argparse
import importlib.metadata
import json
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PACKAGES = ("streamd", "tensorrt", "onnx", "onnxruntime", "numpy", "cuda-python")
ROOT = Path(__file__).resolve().parents[2]
ERROR_LINES = 12


def check_all(args: argparse.Namespace) -> int:
    """Check the exported networks, and write `networks.json`; returns the exit status."""
    exported = json.loads((args.models / "networks.json").read_text(encoding="utf-8"))
    names = args.networks or list(exported)
    path = args.out / "networks.json"
    args.out.mkdir(parents=True, exist_ok=True)
    report = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"networks": {}}
    report.update(
        about=__doc__.splitlines()[0] if __doc__ else "", environment=describe_environment(), command=sys.argv
    )
    failed = []
    for name in names:
        entry = report["networks"].setdefault(name, dict(exported[name]))
        for precision in args.precisions:
            result = check(name, precision, args)
            entry[precision] = result
            path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
            print(f"{name:8} {precision}  {format_result(result)}", flush=True)
            if not result.get("passed"):
                failed.append(f"{name} {precision}")
    print(f"{len(failed)} failed: {', '.join(failed)}" if failed else "all passed")
    return 1 if failed else 0


def check(name: str, precision: str, args: argparse.Namespace) -> dict[str, Any]:
    """Build one plan and judge it; a failure is in `error`."""
    onnx, plans = args.models / f"{name}.onnx", args.out / "plans" / name / precision
    result: dict[str, Any] = {"passed": False}
    if args.backend == "tensorrt":
        command = make_build_command(onnx, plans, precision, args)
        built = run(command, args.build_seconds)
        result["build"] = {"command": command, **{key: built[key] for key in ("seconds", "status")}}
        if built["status"] != 0:
            return {**result, "error": built["error"]}
        plan = json.loads(built["output"])["plans"][precision]
        keys = ("bytes", "seconds", "layers", "pinned_layers", "strongly_typed", "typed_graph", "tensorrt", "gpu")
        result["plan"] = {**{key: plan.get(key) for key in keys}, "kept_fp32": len(plan["kept_fp32"])}
    judge = [sys.executable, "-m", "benchmarks.networks", "judge", name, "--models", str(args.models)]
    judge += ["--backend", args.backend, "--precision", precision, "--bucket", str(args.bucket)]
    judge += ["--plans", str(plans)] if args.backend == "tensorrt" else []
    judged = run(judge, args.judge_seconds)
    if judged["status"] != 0:
        return {**result, "error": judged["error"]}
    return {**result, **json.loads(judged["output"])}


def make_build_command(onnx: Path, plans: Path, precision: str, args: argparse.Namespace) -> list[str]:
    """Make the command that builds one plan; half precision is compared on a few of the network's own rows."""
    command = [sys.executable, "-m", "streamd", "engine", "build", "--onnx", str(onnx), "--precision", precision]
    command += ["--buckets", str(args.bucket), "--plans-only", str(plans), "--json"]
    command += ["--timing-cache", str(args.out / "timing-cache")]
    if args.windows and precision != "fp32":
        command += ["--calibration-data", str(onnx.with_suffix(".inputs.npz"))]
        command += ["--num-calibration-samples", str(args.windows)]
    if args.optimization_level is not None:
        command += ["--optimization-level", str(args.optimization_level)]
    return command


def run(command: Sequence[str], limit_seconds: float) -> dict[str, Any]:
    """Run a command within a time limit; `status` is `None` if it took longer."""
    began = time.monotonic()
    try:
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit_seconds, check=False)
    except subprocess.TimeoutExpired:
        return {"status": None, "seconds": limit_seconds, "output": "", "error": f"took over {limit_seconds:.0f} s"}
    error = "\n".join(ran.stderr.splitlines()[-ERROR_LINES:])
    seconds = round(time.monotonic() - began, 1)
    return {"status": ran.returncode, "seconds": seconds, "output": ran.stdout, "error": error or "no error output"}


def format_result(result: dict[str, Any]) -> str:
    """Format a result as one line."""
    if "error" in result:
        return f"FAILED  {result['error'].splitlines()[-1]}"
    least = min(each["correlation"] for each in result["outputs"].values())
    most = max(each["relative_error"] for each in result["outputs"].values())
    verdict = "passed" if result["passed"] else "REFUSED"
    return (
        f"{verdict}  correlation {least:.6f}  relative error {most:.1e}  batch {result['latency_ms']['p50']:.2f} ms  "
        f"{result['rows_per_second']:,.0f} rows/s"
    )


def describe_environment() -> dict[str, Any]:
    """Describe the machine and the packages of this run."""
    packages = {}
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            packages[package] = importlib.metadata.version(package)
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        gpus = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False).stdout.splitlines()
    except (OSError, subprocess.TimeoutExpired):
        gpus = []
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"date": now, "gpus": gpus, "python": platform.python_version(), "packages": packages}
