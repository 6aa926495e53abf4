"""Shared parts of the GPU benchmarks: versions and their plans, lanes of any backend, results that survive a crash."""

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from streamd.repository.versions import EngineVersion, load_version

BUCKETS = (1, 8, 32, 64, 128, 256)
PACKAGES = ("tensorrt", "tensorrt-lean", "cuda-python", "cuda-bindings", "onnxruntime", "numpy", "uvloop", "aiohttp")
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Suite:
    """The options of a run, the versions to measure, and the parts that failed."""

    arguments: argparse.Namespace
    versions: list[EngineVersion]
    failures: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """The time for which a cell is measured, all of its turns together."""
        seconds: float = self.arguments.seconds
        return seconds

    @property
    def buckets(self) -> tuple[int, ...]:
        """The batch sizes to measure."""
        buckets: tuple[int, ...] = self.arguments.buckets
        return buckets

    @contextmanager
    def run_part(self, name: str) -> Iterator[None]:
        """Run a part; an error that it raises is printed and recorded, and does not stop the other parts."""
        began = time.monotonic()
        try:
            yield
        except Exception as error:
            self.failures.append(f"{name}: {type(error).__name__}: {error}")
            traceback.print_exc(limit=-3, file=sys.stdout)
        print(f"[{name}: {time.monotonic() - began:.1f} s]", flush=True)


class ResultFile:
    """A result file that is written after every change, so that measurements survive a crash."""

    def __init__(self, suite: Suite, name: str, **facts: Any) -> None:
        self.path: Path = suite.arguments.out / f"{name}.json"
        self.content: dict[str, Any] = {"measured_on": describe_environment(), **facts}

    def put(self, key: str, value: Any) -> None:
        """Set one part and write the file."""
        self.content[key] = value
        self.write()

    def append(self, key: str, value: Any) -> None:
        """Add to a list of parts and write the file."""
        self.content.setdefault(key, []).append(value)
        self.write()

    def write(self) -> None:
        """Write the whole file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.content, indent=1, default=_to_plain) + "\n", encoding="utf-8")


# ---------------------------------------------------------------- environment
_ENVIRONMENT: dict[str, Any] = {}


def describe_environment() -> dict[str, Any]:
    """Describe the machine, the versions and the command of this run."""
    if not _ENVIRONMENT:
        _ENVIRONMENT.update(
            {
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "command": "python -m " + " ".join(_describe_command()),
                "python": platform.python_version(),
                "cores": len(os.sched_getaffinity(0)),
                "gpus": _list_gpus(),
                "packages": {name: version for name in PACKAGES if (version := find_package_version(name))},
            }
        )
    return dict(_ENVIRONMENT)


def find_package_version(name: str) -> str | None:
    """Return the installed version of a package, or `None` if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _describe_command() -> list[str]:
    module = sys.modules["__main__"].__spec__
    return [module.name if module is not None else sys.argv[0], *sys.argv[1:]]


def _list_gpus() -> list[dict[str, str]]:
    """List name, driver and memory of each GPU; empty if nvidia-smi is missing or finds no GPU."""
    if shutil.which("nvidia-smi") is None:
        return []
    fields = ("name", "driver_version", "memory.total", "compute_cap")
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    query = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    lines = [line.split(", ") for line in query.stdout.splitlines() if line.strip()]
    return [dict(zip(fields, line, strict=False)) for line in lines] if query.returncode == 0 else []


def _to_plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    return str(value)


# ---------------------------------------------------------------- versions, plans, lanes
def find_versions(engines: Path, only: Sequence[str]) -> list[EngineVersion]:
    """Load the versions to measure, by folder; `only` selects those whose names begin with one of its texts."""
    folders = sorted(path for path in engines.iterdir() if (path / "config.json").is_file())
    chosen = [path for path in folders if not only or any(path.name.startswith(each) for each in only)]
    return [load_version(path) for path in chosen]


def find_plan(suite: Suite, version: EngineVersion, precision: str) -> Path | None:
    """Find the plan of a version: `<plans>/<version>/model_<precision>.engine`, or beside its `model.onnx`."""
    name = f"model_{precision}.engine"
    places = [suite.arguments.plans / version.name / name, suite.arguments.plans / name, version.path / name]
    return next((place for place in places if place.is_file()), None)


def list_precisions(suite: Suite, version: EngineVersion) -> list[str]:
    """List the precisions to measure: the requested ones that have a plan; fp32 for backends without plans.

    It is recorded as a failure if no precision has a plan.
    """
    if suite.arguments.backend != "tensorrt":
        return ["fp32"]
    found = [each for each in suite.arguments.precisions if find_plan(suite, version, each) is not None]
    if not found:
        requested = ", ".join(f"model_{each}.engine" for each in suite.arguments.precisions)
        suite.failures.append(f"{version.name}: found no {requested} under {suite.arguments.plans}")
    return found


def make_backend(
    suite: Suite,
    version: EngineVersion,
    precision: str,
    *,
    graphs: bool = True,
    spin: bool = False,
    devices: tuple[int, ...] = (0,),
    lanes_per_device: int = 8,
    buckets: tuple[int, ...] | None = None,
    capacity: int = 0,
) -> Any:
    """Make a backend of the kind of `--backend`. Raises `FileNotFoundError` if a plan is missing."""
    buckets = buckets or suite.buckets
    kind = suite.arguments.backend
    if kind == "fake":
        from streamd.inference.fake import FakeBackend

        fake = FakeBackend(version.contract, buckets, pads=True)
        fake.script.latency_seconds = lambda count: 1e-4 + 1e-6 * count
        return fake
    if kind == "onnxruntime-cpu":
        from streamd.inference.onnxruntime.cpu_lane import OnnxRuntimeCpuBackend

        return OnnxRuntimeCpuBackend(version.onnx, version.contract, buckets, 1)
    from streamd.inference.tensorrt.engine import Plan
    from streamd.inference.tensorrt.lane import TensorRtBackend

    path = find_plan(suite, version, precision)
    if path is None:
        raise FileNotFoundError(f"{version.name}: no model_{precision}.engine under {suite.arguments.plans}")
    plan = Plan(path, precision)
    return TensorRtBackend(
        plan,
        version.contract,
        buckets,
        devices,
        lanes_per_device=lanes_per_device,
        graphs=graphs,
        spin=spin,
        capacity=capacity,
    )


@contextmanager
def open_lanes(backend: Any, count: int) -> Iterator[list[Any]]:
    """Open lanes 0 to `count` - 1 of a backend; close them at the end."""
    lanes: list[Any] = []
    try:
        for index in range(count):
            lanes.append(backend.make_lane(index))  # noqa: PERF401 - lanes made before one fails must be closed
        yield lanes
    finally:
        for lane in lanes:
            lane.close()


# ---------------------------------------------------------------- percentiles
def compute_percentiles_ms(seconds: Sequence[float] | np.ndarray[Any, Any]) -> dict[str, float]:
    """Compute p50, p95, p99 and the maximum, in ms."""
    if not len(seconds):
        return {}
    values = np.asarray(seconds, np.float64) * 1e3
    names = {"p50_ms": 50, "p95_ms": 95, "p99_ms": 99, "max_ms": 100}
    return {name: round(float(np.percentile(values, share)), 4) for name, share in names.items()}
