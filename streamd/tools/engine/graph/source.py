"""What plans are built from: any ONNX file, with a manifest or without, or an engine version."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from streamd.core.contract import ModelContract
from streamd.core.errors import BuildError, ConfigError, RepositoryError
from streamd.regular_files import read_regular
from streamd.repository.manifest import read_manifest
from streamd.repository.versions import load_version
from streamd.tools.engine.graph.onnx_graph import TOO_LARGE, OnnxModel, Signature, extract_signature, load_graph

_STAMPED = re.compile(r"(_tensorrt)?_\d{8}_\d{6}$")


@dataclass(frozen=True)
class GraphSource:
    """A checked graph; `folder` is what further files of its version are copied from.

    `whole` is false where the weights are too many for one protobuf, so that `model` leaves them in their files.
    """

    onnx: Path
    model: OnnxModel
    signature: Signature
    folder: Path | None
    manifest: dict[str, Any] | None
    contract: ModelContract | None
    whole: bool = True

    def require_whole(self) -> None:
        """Raise `BuildError` where the graph is too large to be changed."""
        if not self.whole:
            raise BuildError(f"{self.onnx}: {TOO_LARGE}")

    @property
    def name(self) -> str:
        """What versions made of it are called, without `_tensorrt_<stamp>`."""
        said = self.folder.name if self.folder else (self.manifest or {}).get("name") or self.onnx.stem
        return _STAMPED.sub("", str(said))


def read_source(onnx: Path | None, version: Path | None, config: Path | None, *, manifest_needed: bool) -> GraphSource:
    """Read an ONNX file or a version (one of them is given); raises `StreamdError`.

    The manifest of an ONNX file is `config`, or `config.json` beside it.
    """
    if version is not None:
        if config is not None:
            raise ConfigError("--config goes with --onnx; --version has a manifest of its own")
        checked = load_version(version)
        return _source(checked.onnx, checked.path, checked.path / "config.json")
    assert onnx is not None
    beside = onnx.with_name("config.json")
    chosen = config or (beside if beside.is_file() else None)
    if chosen is None and manifest_needed:
        raise ConfigError(
            f"{onnx}: a version needs a manifest: give --config FILE, or --plans-only DIR for plans alone"
        )
    return _source(onnx, None, chosen)


def _source(onnx: Path, folder: Path | None, config: Path | None) -> GraphSource:
    loaded = load_graph(onnx)
    model, signature = loaded.model, extract_signature(loaded.model, onnx)
    if config is None:
        return GraphSource(onnx, model, signature, folder, None, None, loaded.whole)
    contract = read_manifest(config).contract()
    check_model_inputs(signature, contract, onnx)
    manifest: dict[str, Any] = msgspec.json.decode(read_regular(config), type=dict[str, Any])
    return GraphSource(onnx, model, signature, folder, manifest, contract, loaded.whole)


def check_model_inputs(signature: Signature, contract: ModelContract, source: Path) -> None:
    """Raise `RepositoryError` where a graph's inputs are not those of its manifest."""
    found = {spec.name: spec.shape for spec in signature.inputs}
    if found != contract.input_shapes:
        raise RepositoryError(f"{source}: its inputs are {found}; its manifest asks for {contract.input_shapes}")
