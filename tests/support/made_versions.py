"""Engine versions on disk for tests: sound ones, and what makes them unsound."""

import hashlib
import json
from pathlib import Path
from typing import Any

from streamd.core.contract import ModelContract
from tests.support.onnx_bytes import identity_model, tensors_of

MANIFEST: dict[str, Any] = {
    "features": ["a", "b"],
    "targets": ["b"],
    "quantiles": [0.1, 0.5, 0.9],
    "context_length": 8,
    "horizon": 4,
    "step_seconds": 60,
    "units": {"a": "percent"},
    "architecture": "fake",
    "of_the_toolchain": {"anything": 1},
}

CONTRACT = ModelContract(("a", "b"), ("b",), (0.1, 0.5, 0.9), context_length=8, horizon=4, step_seconds=60)


def onnx_of(contract: ModelContract) -> bytes:
    """A graph with the contract's inputs and output."""
    *inputs, output = tensors_of(contract).values()
    return identity_model(inputs, [output], "decoder_cont", "predictions")


GRAPH = onnx_of(CONTRACT)


def state_contract(contract: ModelContract) -> dict[str, Any]:
    """Return the part of a manifest that states a contract; its units and its memory are left out."""
    return {
        "features": list(contract.features),
        "targets": list(contract.targets),
        "quantiles": list(contract.quantiles),
        "context_length": contract.context_length,
        "horizon": contract.horizon,
        "step_seconds": contract.step_seconds,
        "units": {},
    }


def make(root: Path, name: str, **manifest: Any) -> Path:
    """A sound version, but for what is given otherwise (None: the key is left out)."""
    path = root / name
    path.mkdir(parents=True)
    said = {key: value for key, value in {**MANIFEST, **manifest}.items() if value is not None}
    (path / "config.json").write_text(json.dumps(said))
    (path / "model.onnx").write_bytes(GRAPH)
    return path


def tell(path: Path, **info: Any) -> None:
    """Write `conversion_info.json`, over what it said of these keys."""
    place = path / "conversion_info.json"
    before = json.loads(place.read_text()) if place.exists() else {}
    place.write_text(json.dumps({"opset": 17, **before, **info}))


def pin(path: Path, hashes: dict[str, str]) -> None:
    tell(path, sha256=hashes)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def add_plan(path: Path, precision: str, content: bytes = b"a plan", **said: Any) -> Path:
    """A plan for the H200 and TensorRT 8.6.1, but for what is given otherwise."""
    file = path / f"model_{precision}.engine"
    file.write_bytes(content)
    place = path / "conversion_info.json"
    info = json.loads(place.read_text()) if place.exists() else {}
    plan = {
        "file": file.name,
        "gpu": "NVIDIA H200",
        "compute_capability": "9.0",
        "tensorrt": "8.6.1",
        "buckets": [1, 8],
        "bytes": len(content),
        **said,
    }
    tell(
        path,
        plans={**info.get("plans", {}), precision: plan},
        sha256={**info.get("sha256", {}), file.name: digest(file)},
    )
    return file


def judge(path: Path, precision: str, promotable: bool | None, *reasons: str) -> None:
    """Write the accuracy gate's verdict on one precision."""
    place = path / "conversion_info.json"
    info = json.loads(place.read_text()) if place.exists() else {}
    verdict = {"promotable": promotable, "reasons": list(reasons), "largest_error": 0.5}
    tell(path, validation={**info.get("validation", {}), precision: verdict})
