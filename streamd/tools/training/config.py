"""The configuration of a training run, read from TOML; a missing key has the default of its field.

This module reads settings only; it knows no data and no network.
"""

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from streamd.tools.training.augment import Augmentation


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """All that determines the result of a run besides the data; `training_info.json` has a copy."""

    architecture: str = "patch_forecaster"
    model: dict[str, Any] = field(default_factory=dict)
    seed: int = 1
    steps: int = 6000
    batch: int = 512
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    warmup: int = 200
    clip: float = 1.0
    average: float = 0.998
    precision: str = "bf16"
    compile: bool = False
    compile_drawing: bool = False
    sources: dict[str, float] = field(default_factory=lambda: {"smd": 0.4, "asd": 0.2})
    """The share of the windows that is drawn from each dataset."""

    generated_share: float = 0.4
    generated_servers: int = 3000
    generated_length: int = 4032
    generated_shares: dict[str, float] = field(default_factory=dict)
    """The share of each kind of generated series; those of `streamd.tools.training.generated` if empty."""

    leave_out_every: int = 0
    """5 excludes each fifth machine of `leave_out_from` from training; 0 excludes none."""

    leave_out_from: str = "smd"
    natural_share: float = 0.5
    """The share of the windows whose series are where the feature map puts them."""

    memory: bool = False
    """Whether the network has the memory of a week as an input."""

    validate_every: int = 1000
    """Steps between two validations."""

    augmentation: Augmentation = field(default_factory=Augmentation)

    @classmethod
    def read(cls, path: Path | None, changes: list[str] | None = None) -> Self:
        """Read a TOML file and apply changes `key=value`; values are TOML, and `model.width=64` sets a key of a table.

        Raises `ValueError` for a change without `=` and for unknown keys.
        """
        values: dict[str, Any] = tomllib.loads(path.read_text()) if path else {}
        for change in changes or []:
            key, separator, text = change.partition("=")
            if not separator:
                raise ValueError(f"change {change!r}: expected key=value")
            table = values
            *parents, last = key.strip().split(".")
            for parent in parents:
                table = table.setdefault(parent, {})
            table[last] = tomllib.loads(f"x = {text}")["x"]
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"{path or 'changes'}: unknown settings {unknown}; expected some of {sorted(known)}")
        values["augmentation"] = Augmentation(**values.get("augmentation", {}))
        return cls(**values)

    def describe(self) -> dict[str, Any]:
        """Return the configuration as plain tables, for JSON."""
        return dataclasses.asdict(self)
