"""Reads the graph from which plans are built: any ONNX file, with or without a manifest, or an engine version.

This module only reads; it changes no graph and writes no file.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from streamd.core.contract import ModelContract
from streamd.core.errors import BuildError, ConfigError, RepositoryError
from streamd.regular_files import read_regular
from streamd.repository.manifest import read_manifest
from streamd.repository.versions import load_version, strip_stamp
from streamd.tools.engine.graph.onnx_graph import TOO_LARGE, OnnxModel, Signature, extract_signature, load_graph
from streamd.tools.engine.graph.optional_inputs import InputDefaults, read_defaults, require_inputs


@dataclass(frozen=True, kw_only=True)
class GraphSource:
    """A checked graph with the files that belong to it."""

    onnx: Path
    model: OnnxModel
    """The graph. Its optional inputs are ordinary ones here: what rewrites a graph takes a default for a weight."""

    signature: Signature
    folder: Path | None
    """The folder of the version from which other files are copied, or `None` for an ONNX file."""

    manifest: dict[str, Any] | None
    contract: ModelContract | None
    has_weights: bool = True
    """False if the weights are too large for one protobuf; `model` then leaves them in their files."""

    @property
    def defaults(self) -> InputDefaults:
        """Return the defaults of the inputs that a caller may leave out."""
        return {spec.name: spec.default for spec in self.signature.inputs if spec.default is not None}

    def require_weights(self) -> None:
        """Raise `BuildError` if the graph is too large to be changed."""
        if not self.has_weights:
            raise BuildError(f"{self.onnx}: {TOO_LARGE}")

    @property
    def name(self) -> str:
        """Return the name of versions made from this graph, without `_tensorrt_<stamp>`."""
        name = self.folder.name if self.folder else (self.manifest or {}).get("name") or self.onnx.stem
        return strip_stamp(str(name))


def read_source(onnx: Path | None, version: Path | None, config: Path | None, *, manifest_needed: bool) -> GraphSource:
    """Read an ONNX file or a version; exactly one of them is given. Raises `StreamdError`.

    The manifest of an ONNX file is `config`, or `config.json` beside it.
    """
    if version is not None:
        if config is not None:
            raise ConfigError("--config goes with --onnx; --version has a manifest of its own")
        checked = load_version(version)
        return _read_source(checked.onnx, checked.path, checked.path / "config.json")
    assert onnx is not None
    beside = onnx.with_name("config.json")
    chosen = config or (beside if beside.is_file() else None)
    if chosen is None and manifest_needed:
        raise ConfigError(
            f"{onnx}: a version needs a manifest: give --config FILE, or --plans-only DIR for plans alone"
        )
    return _read_source(onnx, None, chosen)


def _read_source(onnx: Path, folder: Path | None, config: Path | None) -> GraphSource:
    loaded = load_graph(onnx)
    contract = read_manifest(config).make_contract() if config is not None else None
    defaults = read_defaults(loaded.model)
    if contract is not None:  # An input that the manifest does not name keeps its default, as in the daemon.
        defaults = {name: value for name, value in defaults.items() if name in contract.input_shapes}
    model = require_inputs(loaded.model, defaults.keys())
    signature = extract_signature(model, onnx, defaults)
    if config is None or contract is None:
        return GraphSource(
            onnx=onnx,
            model=model,
            signature=signature,
            folder=folder,
            manifest=None,
            contract=None,
            has_weights=loaded.has_weights,
        )
    check_model_inputs(signature, contract, onnx)
    manifest: dict[str, Any] = msgspec.json.decode(read_regular(config), type=dict[str, Any])
    return GraphSource(
        onnx=onnx,
        model=model,
        signature=signature,
        folder=folder,
        manifest=manifest,
        contract=contract,
        has_weights=loaded.has_weights,
    )


def check_model_inputs(signature: Signature, contract: ModelContract, source: Path) -> None:
    """Raise `RepositoryError` if the inputs of a graph are not those of its manifest."""
    found = {spec.name: spec.shape for spec in signature.inputs}
    if found != contract.input_shapes:
        raise RepositoryError(f"{source}: its inputs are {found}, its manifest expects {contract.input_shapes}")
