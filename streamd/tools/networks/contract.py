"""The model contract as one value: what goes in, what comes out, in which order and unit.

Networks, training, export and evaluation read it here; the daemon reads the same facts in `config.json`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

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
TARGETS = ("cpu_user", "mem_used", "disk_usage", "net_in", "net_out", "load_average", "front_close_wait")
QUANTILES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
INPUT_NAMES = ("encoder_cont", "encoder_cat", "decoder_cont", "decoder_cat")
OUTPUT_NAME = "predictions"


@dataclass(frozen=True)
class NetworkContract:
    """Shapes and names every network of this project is built for.

    `servers` and `statuses` are the cardinalities of the two categorical inputs; a larger number that
    arrives is clamped in the graph, so an id that the model never saw can't index out of its table.
    """

    features: tuple[str, ...] = tuple(FEATURE_UNITS)
    targets: tuple[str, ...] = TARGETS
    quantiles: tuple[float, ...] = QUANTILES
    context_length: int = 288
    horizon: int = 96
    step_seconds: int = 300
    servers: int = 1
    statuses: int = 16
    calendar: int = field(default=4, repr=False)

    def __post_init__(self) -> None:
        unknown = [name for name in self.targets if name not in self.features]
        if unknown:
            raise ValueError(f"targets {unknown} are not among the features {list(self.features)}")
        if tuple(sorted(self.quantiles)) != self.quantiles or 0.5 not in self.quantiles:
            raise ValueError(f"quantiles {self.quantiles}: expected ascending levels that include 0.5")

    @property
    def target_index(self) -> list[int]:
        """Where each target stands among the features."""
        return [self.features.index(name) for name in self.targets]

    @property
    def percent(self) -> list[bool]:
        """Which targets are percentages."""
        return [FEATURE_UNITS.get(name) == "percent" for name in self.targets]

    @property
    def steps_per_day(self) -> int:
        """Steps from a time of day to the same on the next."""
        return 86_400 // self.step_seconds
