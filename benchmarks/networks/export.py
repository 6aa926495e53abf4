"""Exports networks to ONNX, with some rows and PyTorch's results for them. Needs an interpreter that has PyTorch.

An export has opset 17 and a dynamic first axis, is traced with a batch of 2, and passes ONNX's own checker.
"""

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
    """Export these networks into `out`; writes the content of `networks.json` and returns it."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "networks.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for name in names:
        content[name] = export(name, out)
        print(f"{name}: {content[name]['parameters']:,} parameters, {content[name]['bytes']:,} bytes", flush=True)
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return content


def export(name: str, out: Path) -> dict[str, Any]:
    """Write `<name>.onnx`, `<name>.inputs.npz` and `<name>.outputs.npz`, PyTorch's results in float32."""
    network = NETWORKS[name]
    model, rows = make_network(name)
    path = out / f"{name}.onnx"
    names = [network.input, *network.outputs]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # The tracer warns of branches that depend on the image size, which is fixed.
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
        results = [_run_model(model, part) for part in rows.split(4)]
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
    """Write the fixed sizes of the outputs into the file, because the tracer leaves some of them open."""
    model = onnx.load(str(path))
    for value in model.graph.output:
        dims = value.type.tensor_type.shape.dim
        for dim, size in zip(list(dims)[1:], outputs[value.name].shape[1:], strict=True):
            dim.dim_value = size
    onnx.save(model, str(path))


def _run_model(model: Any, rows: torch.Tensor) -> list[np.ndarray]:
    results = model(rows)
    return [each.numpy() for each in (results if isinstance(results, tuple) else (results,))]
