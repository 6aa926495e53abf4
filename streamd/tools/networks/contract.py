"""The model contract of networks that this project trains: names, units and default lengths.

`streamd.core.contract` defines a contract, for any model whose manifest the daemon reads. This module adds only what
training needs: default values and the sizes of the embedding tables. It needs no PyTorch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from streamd.core.contract import MAX_STATUS, MEMORY_STEP_SECONDS, ModelContract

FEATURE_UNITS: dict[str, str] = {
    "cpu_user": "percent",
    "cpu_sys": "percent",
    "cpu_iowait": "percent",
    "cpu_idle": "percent",
    "java_cpu": "percent",
    "mem_used": "percent",
    "swap_used": "percent",
    "disk_usage": "percent",
    "net_in": "bytes/s",
    "net_out": "bytes/s",
    "back_close_wait": "count",
    "front_close_wait": "count",
    "load_average": "1",
    "uptime": "s",
}
"""The unit of each feature, in the order of the features."""

TARGETS = ("cpu_user", "mem_used", "disk_usage", "net_in", "net_out", "load_average", "front_close_wait")
QUANTILES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
INPUT_NAMES = ("encoder_cont", "encoder_cat", "decoder_cont", "decoder_cat")
OUTPUT_NAME = "predictions"


@dataclass(frozen=True, kw_only=True)
class NetworkContract(ModelContract):
    """The contract for which a network is built.

    Raises `ValueError` if a value is not as `ModelContract` needs it, or if the quantiles lack the median.
    """

    features: tuple[str, ...] = tuple(FEATURE_UNITS)
    targets: tuple[str, ...] = TARGETS
    quantiles: tuple[float, ...] = QUANTILES
    context_length: int = 288
    horizon: int = 96
    step_seconds: int = 300
    units: Mapping[str, str] = field(default_factory=FEATURE_UNITS.copy, repr=False)
    servers: int = 1
    """The number of server ids. The graph clamps a larger id, so that an unknown id cannot index out of its table."""

    statuses: int = MAX_STATUS + 1
    """The number of statuses; the graph clamps a larger one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if 0.5 not in self.quantiles:
            raise ValueError(f"quantiles is {list(self.quantiles)}, expected 0.5 among them")

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> Self:
        """Return the contract of a version's `config.json`; raises `KeyError`, `TypeError` or `ValueError`."""
        sizes, memory = manifest.get("categorical_cardinalities", {}), manifest.get("memory", {})
        features = tuple(manifest["features"])
        return cls(
            features=features,
            targets=tuple(manifest["targets"]),
            quantiles=tuple(manifest["quantiles"]),
            context_length=manifest["context_length"],
            horizon=manifest["horizon"],
            step_seconds=manifest["step_seconds"],
            memory_length=memory.get("length", 0),
            memory_step_seconds=memory.get("step_seconds", MEMORY_STEP_SECONDS),
            units={name: FEATURE_UNITS.get(name, "1") for name in features},
            servers=sizes.get("server_id", 1),
            statuses=sizes.get("status", MAX_STATUS + 1),
        )

    @property
    def target_index(self) -> list[int]:
        """Return the position of each target among the features."""
        return [self.features.index(name) for name in self.targets]

    @property
    def percent(self) -> list[bool]:
        """Return, for each target, whether it is a percentage."""
        return [self.units.get(name) == "percent" for name in self.targets]

    @property
    def steps_per_day(self) -> int:
        """Return the number of steps of a day."""
        return 86_400 // self.step_seconds
