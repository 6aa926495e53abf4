"""A trained network into an engine version's folder: ONNX with its manifest, checked before it is kept.

Nothing pickled is written: the weights are in `model.onnx` and, for later training, in safetensors.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from safetensors.torch import save
from torch import Tensor, nn

from streamd.tools.networks.contract import FEATURE_UNITS, INPUT_NAMES, OUTPUT_NAME, NetworkContract

OPSET = 17
TOLERANCE = 1e-4
EXPORT_PACKAGES = ("torch", "onnx", "onnxruntime", "numpy")


@dataclass
class VersionWriter:
    """Writes one folder `engines/<name>_<YYYYMMDD>_<HHMMSS>` and keeps the log of how.

    `architecture` and `options` rebuild the network; `default` says whether this version serves when
    nothing else is said.
    """

    folder: Path
    architecture: str
    contract: NetworkContract
    default: bool = False

    def write(
        self,
        model: nn.Module,
        training_info: dict[str, Any],
        windows: list[Tensor],
        batches: Iterable[int] = range(1, 257),
    ) -> Path:
        """Export `model`, compare ONNX Runtime with PyTorch on `windows` (the four inputs), write all files.

        Raises ValueError when the graph's batch axis is not dynamic or the outputs differ by more than
        `TOLERANCE`, relative to the largest output of each window and target.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        log = [f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC  exporting {self.architecture}, opset {OPSET}"]
        path = self.folder / "model.onnx"
        model = model.to("cpu").eval()
        export_graph(model, self.contract, path)
        log.append(f"wrote model.onnx, {path.stat().st_size:,} bytes, checked by onnx.checker")
        axis = check_dynamic_batch(path)
        log.append(f"batch axis is dynamic: {axis!r} on every input and output")
        errors = compare_with_network(model, path, windows, batches)
        worst = max(error for _, error in errors)
        log.append(f"ONNX Runtime against PyTorch on {len(windows[0])} windows, batch sizes {errors[0][0]} to "
                   f"{errors[-1][0]}, each: largest relative error {worst:.2e}")  # fmt: skip
        if worst > TOLERANCE:
            raise ValueError(f"{path}: differs from PyTorch by {worst:.2e}, expected at most {TOLERANCE}")
        weights = {k: v.contiguous() for k, v in model.state_dict().items()}
        (self.folder / "weights.safetensors").write_bytes(save(weights))
        write_json(self.folder / "config.json", self.config())
        write_json(self.folder / "training_info.json", training_info)
        write_json(self.folder / "server_mapping.json", {})
        (self.folder / "conversion_log.txt").write_text("\n".join(log) + "\n")
        self.seal(worst)
        return self.folder

    def config(self) -> dict[str, Any]:
        """The manifest that the daemon reads its contract from."""
        c = self.contract
        return {
            "name": self.folder.name,
            "architecture": self.architecture,
            "default": self.default,
            "features": list(c.features),
            "targets": list(c.targets),
            "units": {name: FEATURE_UNITS.get(name, "1") for name in c.features},
            "quantiles": list(c.quantiles),
            "context_length": c.context_length,
            "horizon": c.horizon,
            "step_seconds": c.step_seconds,
            "categorical_cardinalities": {"server_id": c.servers, "status": c.statuses},
        }

    def seal(self, worst: float | None = None) -> None:
        """Write `conversion_info.json`: versions, opset and the SHA-256 of every other file in the folder."""
        path = self.folder / "conversion_info.json"
        before = json.loads(path.read_text()) if path.exists() else {}
        error = before.get("largest_relative_error") if worst is None else worst
        info = {
            "opset": OPSET,
            "exporter": "torch.onnx.export(dynamo=False)",
            "versions": before.get("versions") or {p: importlib.metadata.version(p) for p in EXPORT_PACKAGES},
            "largest_relative_error": error,
            "tolerance": TOLERANCE,
            "plans": {},
            "sha256": {p.name: sha256(p) for p in sorted(self.folder.iterdir()) if p != path and p.is_file()},
        }
        write_json(path, info)


def export_graph(model: nn.Module, contract: NetworkContract, path: Path) -> None:
    """`model` to ONNX with a dynamic batch axis; the example batch is 3, since 1 would be taken as constant."""
    example = make_example_inputs(contract, 3)
    names = [*INPUT_NAMES, OUTPUT_NAME]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of itself, and of the LSTM's batch, which is asserted
        torch.onnx.export(
            model,
            tuple(example),
            str(path),
            input_names=list(INPUT_NAMES),
            output_names=[OUTPUT_NAME],
            dynamic_axes={name: {0: "batch"} for name in names},
            opset_version=OPSET,
            do_constant_folding=True,
            dynamo=False,
        )
    graph = onnx.load(str(path))
    shape = (contract.horizon, len(contract.targets), len(contract.quantiles))
    for dim, size in zip(graph.graph.output[0].type.tensor_type.shape.dim[1:], shape, strict=True):
        dim.dim_value = size  # the exporter lost them, and the check below proves them
    onnx.save(graph, str(path))
    onnx.checker.check_model(str(path), full_check=True)


def make_example_inputs(contract: NetworkContract, batch: int) -> list[Tensor]:
    """Inputs of the right shapes, NaN among them."""
    cont = torch.rand(batch, contract.context_length, len(contract.features)) * 100
    cont[:, ::7] = float("nan")
    past = torch.zeros(batch, contract.context_length, 2, dtype=torch.int32)
    calendar = torch.rand(batch, contract.horizon, contract.calendar) * 2 - 1
    return [cont, past, calendar, torch.zeros(batch, contract.horizon, 2, dtype=torch.int32)]


def check_dynamic_batch(path: Path) -> str:
    """The name of the batch axis; ValueError when an input or the output has a fixed one."""
    graph = onnx.load(str(path)).graph
    axes = {v.name: v.type.tensor_type.shape.dim[0].dim_param for v in [*graph.input, *graph.output]}
    fixed = [name for name, axis in axes.items() if not axis]
    if fixed or set(axes) != {*INPUT_NAMES, OUTPUT_NAME}:
        raise ValueError(f"{path}: batch axis of {fixed or sorted(axes)} is fixed or a name is off; axes {axes}")
    return str(next(iter(axes.values())))


def compare_with_network(
    model: nn.Module, path: Path, windows: list[Tensor], batches: Iterable[int]
) -> list[tuple[int, float]]:
    """Largest relative difference between ONNX Runtime and PyTorch on `windows`, for each batch size.

    The reference is computed once; batch sizes take turns through the windows, so that all are used.
    """
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    count = len(windows[0])
    with torch.no_grad():
        chunks = [[t[i : i + 50] for t in windows] for i in range(0, count, 50)]
        reference = np.concatenate([model(*chunk).numpy() for chunk in chunks])
    found, offset = [], 0
    for batch in batches:
        rows = (offset + np.arange(batch)) % count
        offset += batch
        feed = {name: t[rows].numpy() for name, t in zip(INPUT_NAMES, windows, strict=True)}
        found.append((batch, compute_relative_error(session.run([OUTPUT_NAME], feed)[0], reference[rows])))
    return found


def compute_relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Largest absolute difference over the largest magnitude, per window and target (batch, horizon, K, 7)."""
    scale = np.abs(expected).max(axis=(1, 3), keepdims=True)
    difference = np.abs(actual - expected) / np.maximum(scale, 1e-30)
    return float(difference.max()) if np.isfinite(actual).all() else float("inf")


def sha256(path: Path) -> str:
    """The file's digest in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Indented, with a newline at the end."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
