"""Reads a version's `config.json` into the model contract, and its `server_mapping.json`.

An error names the file and the wrong field. Knows no other file of a version.
"""

from pathlib import Path
from typing import Annotated

import msgspec

from streamd.core.contract import MEMORY_STEP_SECONDS, ModelContract
from streamd.core.errors import RepositoryError
from streamd.regular_files import read_regular

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Names = Annotated[tuple[Name, ...], msgspec.Meta(min_length=1)]


class ManifestMemory(msgspec.Struct, frozen=True):
    """The memory that a model asks for: means of `length` periods before the origin, each `step_seconds` long."""

    length: Positive
    step_seconds: Positive


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of `config.json` that are read here; the tools write others too."""

    features: Names
    targets: Names
    quantiles: Annotated[tuple[float, ...], msgspec.Meta(min_length=1)]
    context_length: Positive
    horizon: Positive
    step_seconds: Positive
    units: dict[str, str] = {}
    architecture: str = ""
    default: bool = False
    memory: ManifestMemory | None = None

    def make_contract(self) -> ModelContract:
        """Return the contract; raises `ValueError` if its parts contradict each other."""
        return ModelContract(
            features=self.features,
            targets=self.targets,
            quantiles=self.quantiles,
            context_length=self.context_length,
            horizon=self.horizon,
            step_seconds=self.step_seconds,
            units=self.units,
            architecture=self.architecture,
            memory_length=0 if self.memory is None else self.memory.length,
            memory_step_seconds=MEMORY_STEP_SECONDS if self.memory is None else self.memory.step_seconds,
        )


def read_manifest(path: Path) -> Manifest:
    """Read and check a `config.json`; raises `RepositoryError`."""
    try:
        manifest = msgspec.json.decode(read_regular(path), type=Manifest)
        manifest.make_contract()
    except OSError as exc:
        raise RepositoryError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    except (msgspec.DecodeError, ValueError) as exc:
        raise RepositoryError(f"{path}: {exc}") from exc
    return manifest


def read_server_mapping(path: Path) -> dict[str, int]:
    """Read a `server_mapping.json` (the id of each server in training); empty if there is no file.

    Raises `RepositoryError` if the file cannot be read.
    """
    if not path.exists():
        return {}
    try:
        return msgspec.json.decode(read_regular(path), type=dict[str, Annotated[int, msgspec.Meta(ge=0)]])
    except (OSError, msgspec.DecodeError) as exc:
        raise RepositoryError(f"{path}: {exc}") from exc
