"""Networks to ONNX, with rows and what PyTorch makes of them beside: run by an interpreter that has PyTorch.

An export is opset 17 from a batch of 2, its first axis dynamic, and is checked by ONNX's own checker.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from benchmarks.networks.models import NETWORKS, make_network

OPSET = 17


def export_all(names: Iterable[str], out: Path) -> dict[str, Any]:
    """Export these networks into `out`; returns and writes what `networks.json` tells of them."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "networks.json"
    told = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for name in names:
        told[name] = export(name, out)
        print(f"{name}: {told[name]['parameters']:,} parameters, {told[name]['bytes']:,} bytes", flush=True)
        path.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return told


def export(name: str, out: Path) -> dict[str, Any]:
    """Write `<name>.onnx`, `<name>.inputs.npz` and `<name>.outputs.npz`, PyTorch's results in float32."""
    network = NETWORKS[name]
    model, rows = make_network(name)
    path = out / f"{name}.onnx"
    names = [network.input, *network.outputs]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer's, on branches that the fixed image size decides
        torch.onnx.export(
            model,
            (rows[:2],),
            str(path),
            opset_version=OPSET,
            dynamo=False,
            input_names=[network.input],
            output_names=list(network.outputs),
            dynamic_axes={each: {0: "batch"} for each in names},
        )
        results = [_results(model, part) for part in rows.split(4)]
    outputs = {
        each: np.concatenate(parts) for each, parts in zip(network.outputs, zip(*results, strict=True), strict=True)
    }
    _declare_rows(path, outputs)
    onnx.checker.check_model(str(path), full_check=True)
    np.savez(out / f"{name}.inputs.npz", **{network.input: rows.numpy()})
    np.savez(out / f"{name}.outputs.npz", **outputs)  # type: ignore[arg-type]
    return {
        "about": network.about,
        "parameters": sum(each.numel() for each in model.parameters()),
        "bytes": path.stat().st_size,
        "input": [network.input, *network.shape],
        "outputs": {each: list(values.shape[1:]) for each, values in outputs.items()},
        "opset": OPSET,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
    }


def _declare_rows(path: Path, outputs: dict[str, Any]) -> None:
    """Write the sizes of the outputs' rows into the file: the tracer leaves some open that only the batch varies."""
    model = onnx.load(str(path))
    for value in model.graph.output:
        dims = value.type.tensor_type.shape.dim
        for dim, size in zip(list(dims)[1:], outputs[value.name].shape[1:], strict=True):
            dim.dim_value = size
    onnx.save(model, str(path))


def _results(model: Any, rows: torch.Tensor) -> list[np.ndarray]:
    results = model(rows)
    return [each.numpy() for each in (results if isinstance(results, tuple) else (results,))]
