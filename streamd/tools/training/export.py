"""Writes a trained network into the folder of an engine version: ONNX with its manifest, compared with PyTorch.

This module never pickles: the weights are in `model.onnx` and, for later training, in safetensors.
"""

import importlib.metadata
import json
import warnings
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from safetensors.torch import save
from torch import Tensor, nn

from streamd.core.contract import CALENDAR_FEATURES, MEMORY_INPUT
from streamd.repository.conversion import hash_file
from streamd.repository.schema import VERSION_RECORD
from streamd.tools.engine.gate.scales import compute_least_scales
from streamd.tools.engine.graph.optional_inputs import add_default_input
from streamd.tools.engine.output.atomic_version import write_json
from streamd.tools.networks.contract import OUTPUT_NAME, NetworkContract

OPSET = 17

TOLERANCE = 1e-4
"""The largest difference from PyTorch, relative to the largest output of each window and target."""

COMPARED_WITHOUT_MEMORY = 50
"""The number of windows that are compared without the memory, in one batch."""

EXPORT_PACKAGES = ("torch", "onnx", "onnxruntime", "numpy")
"""The packages whose versions the record has."""


@dataclass
class VersionWriter:
    """Writes the files of one version into a folder."""

    folder: Path
    architecture: str
    contract: NetworkContract
    _: KW_ONLY
    name: str = ""
    """The name of the version; by default that of the folder."""

    default: bool = False
    """Whether this version serves if no other is chosen."""

    def write_version(
        self,
        model: nn.Module,
        training_info: dict[str, Any],
        windows: list[Tensor],
        batches: Iterable[int] = range(1, 257),
    ) -> Path:
        """Export `model`, compare ONNX Runtime with PyTorch on `windows` (the inputs), and write all files.

        Raises `ValueError` if the batch axis of the graph is not dynamic or the outputs differ by more than
        `TOLERANCE`.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        log = [f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC  exporting {self.architecture}, opset {OPSET}"]
        path = self.folder / "model.onnx"
        model = model.to("cpu").eval()
        export_graph(model, self.contract, path)
        log.append(f"wrote model.onnx, {path.stat().st_size:,} bytes, checked by onnx.checker")
        axis = check_dynamic_batch(path, self.contract)
        log.append(f"batch axis is dynamic: {axis!r} on every input and output")
        errors = compare_with_network(model, path, self.contract, windows, batches)
        worst = max(error for _, error in errors)
        log.append(f"ONNX Runtime against PyTorch on {len(windows[0])} windows, batch sizes {errors[0][0]} to "
                   f"{errors[-1][0]}, each: largest relative error {worst:.2e}")  # fmt: skip
        if self.contract.memory_length:
            alone = compare_without_memory(model, path, self.contract, windows)
            worst = max(worst, alone)
            log.append(f"{MEMORY_INPUT} may be left out, for a memory of which all is missing: {alone:.2e}")
        if worst > TOLERANCE:
            raise ValueError(f"{path}: differs from PyTorch by {worst:.2e}, expected at most {TOLERANCE}")
        weights = {k: v.contiguous() for k, v in model.state_dict().items()}
        (self.folder / "weights.safetensors").write_bytes(save(weights))
        write_json(self.folder / "config.json", self.make_manifest())
        write_json(self.folder / "training_info.json", training_info)
        write_json(self.folder / "server_mapping.json", {})
        (self.folder / "conversion_log.txt").write_text("\n".join(log) + "\n")
        self.write_record(worst)
        return self.folder

    def make_manifest(self) -> dict[str, Any]:
        """Return the manifest, from which the daemon reads the contract."""
        c = self.contract
        memory = {"length": c.memory_length, "step_seconds": c.memory_step_seconds}
        return {
            "name": self.name or self.folder.name,
            "architecture": self.architecture,
            "default": self.default,
            "features": list(c.features),
            "targets": list(c.targets),
            "units": {name: c.units.get(name, "1") for name in c.features},
            "quantiles": list(c.quantiles),
            "context_length": c.context_length,
            "horizon": c.horizon,
            "step_seconds": c.step_seconds,
            **({"memory": memory} if c.memory_length else {}),
            "categorical_cardinalities": {"server_id": c.servers, "status": c.statuses},
        }

    def write_record(self, worst: float | None = None) -> None:
        """Write `conversion_info.json`: versions, opset and the SHA-256 of every other file in the folder.

        Written again, it keeps the versions and, without `worst`, the largest relative error.
        """
        path = self.folder / VERSION_RECORD
        before = json.loads(path.read_text()) if path.exists() else {}
        error = before.get("largest_relative_error") if worst is None else worst
        info = {
            "opset": OPSET,
            "exporter": "torch.onnx.export(dynamo=False)",
            "versions": before.get("versions") or {p: importlib.metadata.version(p) for p in EXPORT_PACKAGES},
            "largest_relative_error": error,
            "tolerance": TOLERANCE,
            "plans": {},
            "sha256": {p.name: hash_file(p) for p in sorted(self.folder.iterdir()) if p != path and p.is_file()},
        }
        write_json(path, info)


def export_graph(model: nn.Module, contract: NetworkContract, path: Path) -> None:
    """Write `model` as ONNX with a dynamic batch axis; the example batch is 3, because 1 would become constant.

    A memory is an input that may be left out: then all of it is missing.
    """
    example = make_example_inputs(contract, 3)
    inputs = list(contract.input_shapes)
    with warnings.catch_warnings():
        # The exporter warns that it is deprecated, and of the LSTM's batch axis, which `check_dynamic_batch` checks.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            tuple(example),
            str(path),
            input_names=inputs,
            output_names=[OUTPUT_NAME],
            dynamic_axes={name: {0: "batch"} for name in (*inputs, OUTPUT_NAME)},
            opset_version=OPSET,
            do_constant_folding=True,
            dynamo=False,
        )
    graph = onnx.load(str(path))
    shape = (contract.horizon, len(contract.targets), len(contract.quantiles))
    for dim, size in zip(graph.graph.output[0].type.tensor_type.shape.dim[1:], shape, strict=True):
        dim.dim_value = size  # The exporter loses these sizes; the check below proves them.
    if contract.memory_length:
        nothing = np.full((1, *contract.input_shapes[MEMORY_INPUT]), np.nan, np.float32)
        graph = add_default_input(graph, MEMORY_INPUT, nothing, like="encoder_cat")
    onnx.save(graph, str(path))
    onnx.checker.check_model(str(path), full_check=True)


def make_example_inputs(contract: NetworkContract, batch: int) -> list[Tensor]:
    """Return random inputs of the right shapes, with missing rows."""
    cont = torch.rand(batch, contract.context_length, len(contract.features)) * 100
    cont[:, ::7] = float("nan")
    past = torch.zeros(batch, contract.context_length, 2, dtype=torch.int32)
    calendar = torch.rand(batch, contract.horizon, CALENDAR_FEATURES) * 2 - 1
    given = [cont, past, calendar, torch.zeros(batch, contract.horizon, 2, dtype=torch.int32)]
    if contract.memory_length:
        memory = torch.rand(batch, *contract.input_shapes[MEMORY_INPUT]) * 100
        memory[:, ::5] = float("nan")
        given.append(memory)
    return given


def check_dynamic_batch(path: Path, contract: NetworkContract) -> str:
    """Return the name of the batch axis; raises `ValueError` if it is fixed or an input or output has another name."""
    graph = onnx.load(str(path)).graph
    axes = {v.name: v.type.tensor_type.shape.dim[0].dim_param for v in [*graph.input, *graph.output]}
    fixed = [name for name, axis in axes.items() if not axis]
    expected = [*contract.input_shapes, OUTPUT_NAME]
    if fixed or set(axes) != set(expected):
        raise ValueError(
            f"{path}: batch axis of {fixed} is fixed, or names are {sorted(axes)}; expected dynamic axes of {expected}"
        )
    return str(next(iter(axes.values())))


def compare_with_network(
    model: nn.Module, path: Path, contract: NetworkContract, windows: list[Tensor], batches: Iterable[int]
) -> list[tuple[int, float]]:
    """Return each batch size with the largest relative difference between ONNX Runtime and PyTorch on `windows`.

    The reference is computed once. Each batch continues where the one before it ended, so that all windows are used.
    """
    session = _open_session(path)
    given = {name: t.numpy() for name, t in zip(contract.input_shapes, windows, strict=True)}
    least = compute_least_scales(given, contract)
    count = len(windows[0])
    reference = _run_network(model, windows)
    found, offset = [], 0
    for batch in batches:
        rows = (offset + np.arange(batch)) % count
        offset += batch
        feed = {name: values[rows] for name, values in given.items()}
        made = session.run([OUTPUT_NAME], feed)[0]
        found.append((batch, compute_relative_error(made, reference[rows], least[rows])))
    return found


def compare_without_memory(model: nn.Module, path: Path, contract: NetworkContract, windows: list[Tensor]) -> float:
    """Return the largest relative difference if the memory is left out and if PyTorch gets one without any value."""
    some = {name: t[:COMPARED_WITHOUT_MEMORY] for name, t in zip(contract.input_shapes, windows, strict=True)}
    nothing = torch.full_like(some[MEMORY_INPUT], torch.nan)
    expected = _run_network(model, list({**some, MEMORY_INPUT: nothing}.values()))
    feed = {name: t.numpy() for name, t in some.items() if name != MEMORY_INPUT}
    found = _open_session(path).run([OUTPUT_NAME], feed)[0]
    return compute_relative_error(found, expected, compute_least_scales(feed, contract))


def _open_session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # It warns of each input that has a default.
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _run_network(model: nn.Module, windows: list[Tensor]) -> np.ndarray:
    with torch.no_grad():
        chunks = [[t[i : i + 50] for t in windows] for i in range(0, len(windows[0]), 50)]
        return np.concatenate([model(*chunk).numpy() for chunk in chunks])


def compute_relative_error(actual: np.ndarray, expected: np.ndarray, least: np.ndarray | None = None) -> float:
    """Return the largest difference, relative to the largest magnitude of each window and target.

    Both are `(batch, horizon, target, quantile)`; `least (batch, target)` is what a difference is relative to if no
    expected value is larger. A result that is not finite has an infinite error.
    """
    floor = 1e-30 if least is None else np.maximum(least, 1e-30)[:, None, :, None]
    scale = np.maximum(np.abs(expected).max(axis=(1, 3), keepdims=True), floor)
    difference = np.abs(actual - expected) / scale
    return float(difference.max()) if np.isfinite(actual).all() else float("inf")
