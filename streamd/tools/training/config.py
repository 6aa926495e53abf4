"""A training run as one value, read from TOML; what is not said there has the default given here."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streamd.tools.training.augment import Augmentation


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides a run's outcome beside the data; `training_info.json` repeats it whole.

    sources: dataset to the share of windows drawn from it; leave_out_every: 5 keeps each fifth machine of
    `leave_out_from` out of training; natural_share: windows whose series stand where the feature map says;
    named_share: those of them that tell their server's id (0: the model knows no ids).
    """

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
    sources: dict[str, float] = field(default_factory=lambda: {"smd": 0.4, "asd": 0.2})
    generated_share: float = 0.4
    generated_servers: int = 3000
    generated_length: int = 1536
    leave_out_every: int = 0
    leave_out_from: str = "smd"
    natural_share: float = 0.5
    named_share: float = 0.0
    validate_every: int = 1000
    augmentation: Augmentation = field(default_factory=Augmentation)

    @classmethod
    def read(cls, path: Path | None, changes: list[str] | None = None) -> TrainingConfig:
        """From a TOML file and `key=value` changes (values in TOML; `model.width=64` reaches into tables)."""
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
        """As plain tables, for JSON."""
        return dataclasses.asdict(self)
