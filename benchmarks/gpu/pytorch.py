"""The same networks in PyTorch, eagerly and as a CUDA graph: forecasts a second from pinned memory back to it.

Needs an interpreter that has PyTorch: `python3 -m benchmarks.gpu.pytorch --engines DIR --out DIR`. Inputs are real
windows in pinned host memory, and results are copied to pinned host memory; the latency of a batch is from the first
copy until its forecasts are there. As ceilings, the rates of a large matrix product and of copies are measured too. Not
measured: several streams, gathering windows, torch.compile, TorchScript; float16 is autocast's choice of operators.
"""

import argparse
import itertools
import json
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from streamd.tools.fleets.readers import read_fleet
from streamd.tools.networks.contract import INPUT_NAMES, NetworkContract
from streamd.tools.networks.registry import build_network

ROOT = Path(__file__).resolve().parents[2]
FLEET = ROOT / "examples" / "fleet" / "servers.csv.gz"
BUCKETS = (32, 64, 256)
PRECISIONS = ("fp32", "tf32", "fp16")
WARM_UP = 5
BYTES_PER_UNIT = 3e6
MATRIX = 8192
COPY_BYTES = 256 * 2**20
Tensors = dict[str, torch.Tensor]


class Network:
    """The network of a version on a device, with pinned inputs and output for batches of one size."""

    def __init__(self, folder: Path, device: str, bucket: int, precision: str) -> None:
        self.device = device
        self.precision = precision
        self.model, self.contract = load_network(folder, device)
        pin = device != "cpu"
        self.host = {name: _pin(tensor, pin) for name, tensor in make_inputs(self.contract, bucket).items()}
        self.inputs = {name: tensor.to(device) for name, tensor in self.host.items()}
        shape = (bucket, self.contract.horizon, len(self.contract.targets), len(self.contract.quantiles))
        self.result = _pin(torch.empty(shape), pin)

    def step(self) -> None:
        """Enqueue the copies of the inputs, the network and the copy of the result; does not wait."""
        for name, tensor in self.host.items():
            self.inputs[name].copy_(tensor, non_blocking=True)
        self.result.copy_(self.forward(), non_blocking=True)

    def forward(self) -> torch.Tensor:
        """Forecast the windows in `inputs`; returns a tensor on the device."""
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.precision == "tf32"
        arguments = [self.inputs[name] for name in INPUT_NAMES]
        kind = self.device.partition(":")[0]
        with torch.inference_mode(), torch.autocast(kind, torch.float16, enabled=self.precision == "fp16"):
            forecasts: torch.Tensor = self.model(*arguments).float()
        return forecasts

    def capture_graph(self) -> Callable[[], None]:
        """Capture the step as a CUDA graph; returns the graph's replay."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        return graph.replay  # type: ignore[no-any-return, unused-ignore]


def load_network(folder: Path, device: str) -> tuple[Any, NetworkContract]:
    """Load the network of a version with its weights, ready to run."""
    manifest = json.loads((folder / "config.json").read_text())
    training = json.loads((folder / "training_info.json").read_text())
    cardinalities = manifest["categorical_cardinalities"]
    contract = NetworkContract(
        features=tuple(manifest["features"]),
        targets=tuple(manifest["targets"]),
        quantiles=tuple(manifest["quantiles"]),
        context_length=manifest["context_length"],
        horizon=manifest["horizon"],
        step_seconds=manifest["step_seconds"],
        servers=cardinalities["server_id"],
        statuses=cardinalities["status"],
    )
    model = build_network(manifest["architecture"], contract, **training["config"]["model"])
    model.load_state_dict(load_file(str(folder / "weights.safetensors")))
    return model.to(device).eval(), contract


def make_inputs(contract: NetworkContract, count: int) -> Tensors:
    """Make `count` windows of the example fleet; network rates are in bytes/s."""
    fleet = read_fleet(FLEET, contract.step_seconds)
    windows = np.full((count, contract.context_length, len(contract.features)), np.nan, np.float32)
    begins = np.linspace(0, fleet.steps - contract.context_length, count).astype(int)
    for place, begin in enumerate(begins):
        rows = fleet.series[place % len(fleet.servers), begin : begin + contract.context_length]
        for column, name in enumerate(fleet.features):
            if name in contract.features:
                factor = BYTES_PER_UNIT if name.startswith("net_") else 1.0
                windows[place, :, contract.features.index(name)] = rows[:, column] * np.float32(factor)
    angle = 2 * np.pi * np.arange(contract.horizon) / contract.steps_per_day
    calendar = np.stack([np.sin(angle), np.cos(angle), np.sin(angle / 7), np.cos(angle / 7)], -1).astype(np.float32)
    return {
        "encoder_cont": torch.from_numpy(windows),
        "encoder_cat": torch.zeros(count, contract.context_length, 2, dtype=torch.int32),
        "decoder_cont": torch.from_numpy(np.repeat(calendar[None], count, 0)),
        "decoder_cat": torch.zeros(count, contract.horizon, 2, dtype=torch.int32),
    }


def _pin(tensor: torch.Tensor, pin: bool) -> torch.Tensor:
    return tensor.pin_memory() if pin else tensor


def measure(step: Callable[[], None], seconds: float, device: str) -> list[float]:
    """Run batches one after the other, and wait for each; returns the seconds of each batch."""
    wait: Callable[[], None] = torch.cuda.synchronize if device != "cpu" else (lambda: None)
    for _ in range(WARM_UP):
        step()
    wait()
    took: list[float] = []
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends or len(took) < 3:
        began = time.perf_counter()
        step()
        wait()
        took.append(time.perf_counter() - began)
    return took


def measure_cell(folder: Path, device: str, precision: str, bucket: int, seconds: float) -> list[dict[str, Any]]:
    """Measure one precision and bucket, eagerly and as a graph in turns."""
    network = Network(folder, device, bucket, precision)
    reference = Network(folder, device, bucket, "fp32").forward().double()
    error = float((network.forward().double() - reference).norm() / reference.norm())
    steps: dict[str, Callable[[], None]] = {"eager": network.step}
    if device != "cpu":
        steps["cuda graph"] = network.capture_graph()
    took: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(2):
        for name, step in steps.items():
            took[name] += measure(step, seconds / 2, device)
    head = {"engine": folder.name, "precision": precision, "bucket": bucket, "relative_error_to_fp32": error}
    return [{**head, "how": name, **_summarize(each, bucket)} for name, each in took.items()]


def _summarize(took: list[float], bucket: int) -> dict[str, float]:
    milliseconds = np.array(took) * 1e3
    return {
        "forecasts_per_second": round(bucket / float(np.median(took)), 1),
        "p50_ms": round(float(np.percentile(milliseconds, 50)), 4),
        "p99_ms": round(float(np.percentile(milliseconds, 99)), 4),
        "batches": len(took),
    }


# ---------------------------------------------------------------- ceilings
def measure_ceilings() -> dict[str, float]:
    """Measure the rates of this card for a large matrix product on random data, and for copies."""
    found = {}
    for name, dtype, tf32 in (("fp16", torch.float16, False), ("tf32", torch.float32, True)):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        left, right = (torch.randn(MATRIX, MATRIX, device="cuda", dtype=dtype) for _ in range(2))
        seconds = _measure_seconds(lambda a=left, b=right: torch.matmul(a, b))  # type: ignore[misc]
        found[f"matmul_{name}_tflops"] = round(2 * MATRIX**3 / seconds / 1e12, 1)
    one, two = (torch.randint(0, 255, (COPY_BYTES,), dtype=torch.uint8, device="cuda") for _ in range(2))
    found["device_copy_gb_per_second"] = round(2 * COPY_BYTES / _measure_seconds(lambda: one.copy_(two)) / 1e9, 1)
    return found


def _measure_seconds(work: Callable[[], Any], repeats: int = 20) -> float:
    for _ in range(3):
        work()
    took = []
    for _ in range(repeats):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        work()
        ended.record()
        ended.synchronize()
        took.append(began.elapsed_time(ended) / 1e3)
    return float(np.median(took))


# ---------------------------------------------------------------- the script
def main() -> int:
    """Measure, write `pytorch.json` and print a table; returns 1 if a part failed."""
    parser = argparse.ArgumentParser(prog="python3 -m benchmarks.gpu.pytorch", description=__doc__)
    parser.add_argument(
        "--engines", type=Path, default=ROOT / "engines", help="folder of engine versions [default: engines]"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the result")
    parser.add_argument("--only", default="", help="versions whose names begin so, such as patch,tft [default: all]")
    parser.add_argument(
        "--buckets", default=",".join(map(str, BUCKETS)), help="batch sizes to measure [default: %(default)s]"
    )
    parser.add_argument(
        "--seconds", type=float, default=0.6, help="time for each cell, both turns together [default: %(default)g]"
    )
    parser.add_argument("--device", default="cuda", help="device; cpu is a dry run [default: %(default)s]")
    args = parser.parse_args()
    only = tuple(name for name in args.only.split(",") if name)
    folders = sorted(path.parent for path in args.engines.glob("*/weights.safetensors"))
    result: dict[str, Any] = {"measured_on": describe_environment(args.device), "not_measured": __doc__, "cells": []}
    buckets = tuple(map(int, args.buckets.split(",")))
    failed = 0
    chosen = [folder for folder in folders if not only or folder.name.startswith(only)]
    precisions = PRECISIONS if args.device != "cpu" else PRECISIONS[:1]
    for folder, precision, bucket in itertools.product(chosen, precisions, buckets):
        try:
            result["cells"] += measure_cell(folder, args.device, precision, bucket, args.seconds)
        except Exception:
            failed += 1
            traceback.print_exc(file=sys.stdout)
        _write(args.out, result)
    if args.device != "cpu":
        result["ceilings"] = measure_ceilings()
    _write(args.out, result)
    _print(result)
    return 1 if failed else 0


def describe_environment(device: str) -> dict[str, Any]:
    """Describe the machine, the versions and the command of this run."""
    driver = subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
        capture_output=True, text=True, check=False,
    ).stdout.split() if device != "cpu" else []  # fmt: skip
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),  # noqa: UP017 - any Python 3.10 or later
        "command": "python3 -m benchmarks.gpu.pytorch " + " ".join(sys.argv[1:]),
        "gpu": torch.cuda.get_device_name(0) if device != "cpu" else None,
        "driver": driver[0] if driver else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }


def _write(folder: Path, result: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pytorch.json").write_text(json.dumps(result, indent=1) + "\n")


def _print(result: dict[str, Any]) -> None:
    print(f"\nPyTorch {result['measured_on']['torch']} on {result['measured_on']['gpu']}")
    for cell in result["cells"]:
        print(
            f"  {cell['engine'].split('_')[0]:<6}{cell['precision']:<6}{cell['how']:<12}{cell['bucket']:>5}"
            f"{cell['forecasts_per_second']:>14,.0f}/s  p50 {cell['p50_ms']:8.3f} ms  p99 {cell['p99_ms']:8.3f} ms"
            f"  error {cell['relative_error_to_fp32']:.1e}"
        )
    for name, value in result.get("ceilings", {}).items():
        print(f"  {name}: {value}")


if __name__ == "__main__":
    sys.exit(main())
