"""Makes a small forecaster as a version, and a fleet to judge it on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from streamd.repository.conversion import hash_file
from tests.support.graph_readers import INT32, model, node, value, weight
from tests.support.made_versions import tell

NAME = "small_tensorrt_20250101_000000"
MANIFEST = {
    "features": ["cpu", "net", "idle"],
    "targets": ["net", "cpu"],
    "quantiles": [0.1, 0.5, 0.9],
    "units": {"cpu": "percent", "net": "bytes/s", "idle": "percent"},
    "context_length": 24,
    "horizon": 4,
    "step_seconds": 300,
}
HIDDEN = 48


def network() -> Any:
    """Make a graph that takes raw units and NaN through a scaler, two products and a restorer."""
    random = np.random.default_rng(4)
    nodes = [
        node("IsNaN", "encoder_cont", "missing", "/scaler/IsNaN"),
        node("Where", "missing zero encoder_cont", "filled", "/scaler/Where"),
        node("Abs", "filled", "size", "/scaler/Abs"),
        node("ReduceMax", "size", "largest", "/scaler/ReduceMax", axes=[1, 2], keepdims=1),
        node("Add", "largest one", "span", "/scaler/Add"),
        node("Div", "filled span", "unit", "/scaler/Div"),
        node("Flatten", "unit", "flat", "/Flatten"),
        node("MatMul", "flat first", "hidden", "/first/MatMul"),
        node("Relu", "hidden", "active", "/Relu"),
        node("MatMul", "active second", "out", "/second/MatMul"),
        node("Reshape", "out shape", "shaped", "/Reshape"),
        node("Reshape", "span broad", "spans", "/restorer/Reshape"),
        node("Mul", "shaped spans", "predictions", "/restorer/Mul"),
    ]
    weights = [
        weight("zero", np.float32(0)),
        weight("one", np.float32(1)),
        weight("first", random.standard_normal((72, HIDDEN)) / 8),
        weight("second", random.standard_normal((HIDDEN, 24)) / 6),
        numpy_helper.from_array(np.array([-1, 4, 2, 3]), "shape"),
        numpy_helper.from_array(np.array([-1, 1, 1, 1]), "broad"),
    ]
    inputs = [
        value("encoder_cont", ["batch", 24, 3]),
        value("encoder_cat", ["batch", 24, 2], INT32),
        value("decoder_cont", ["batch", 4, 4]),
        value("decoder_cat", ["batch", 4, 2], INT32),
    ]
    return model(nodes, inputs, [value("predictions", ["batch", 4, 2, 3])], weights)


def make_version(root: Path) -> Path:
    """Make a sound version whose record has the hash of its graph."""
    path = root / NAME
    path.mkdir(parents=True)
    onnx.save(network(), str(path / "model.onnx"))
    (path / "config.json").write_text(json.dumps({"name": NAME, **MANIFEST}))
    tell(path, plans={}, sha256={name: hash_file(path / name) for name in ("model.onnx", "config.json")})
    return path


def make_fleet(folder: Path, steps: int = 120) -> Path:
    """Write a fleet of three servers with a rhythm and some noise."""
    random = np.random.default_rng(6)
    lines = ["server,time,cpu,net,idle"]
    for step in range(steps):
        for server in range(3):
            cpu = 40 + 30 * np.sin(step / 7 + server) + random.standard_normal()
            net = 5 + 3 * np.cos(step / 9 - server) + 0.3 * random.standard_normal()
            lines.append(f"s{server},{300 * (1000 + step)},{cpu:.3f},{net:.4f},{100 - cpu:.3f}")
    path = folder / "fleet.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def ruin(graph: Path, tensor: str, by: float = 0.2) -> None:
    """Change a weight of a graph, and its hash in the record of its version, so that it is another valid network."""
    changed = onnx.load(str(graph))
    stored = next(each for each in changed.graph.initializer if each.name.startswith(tensor))
    array = numpy_helper.to_array(stored)
    noise = np.random.default_rng(8).standard_normal(array.shape) * by
    stored.CopyFrom(numpy_helper.from_array((array + noise).astype(array.dtype), stored.name))
    onnx.save(changed, str(graph))
    info = json.loads((graph.parent / "conversion_info.json").read_text())
    tell(graph.parent, sha256={**info["sha256"], graph.name: hash_file(graph)})
