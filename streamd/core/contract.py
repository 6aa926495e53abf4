"""The contract with the model: names, lengths and quantiles from the manifest of one version.

No other module of the daemon hard-codes one of them. Reads no file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

MAX_STATUS = 15
"""The largest status of a sample; the smallest is 0, which is also the status of a row without one."""

CALENDAR_FEATURES = 4
"""The known-future inputs: sine and cosine of the time of day, then of the day of the week."""

INPUT_TYPES: Mapping[str, str] = {
    "encoder_cont": "float32",
    "encoder_cat": "int32",
    "decoder_cont": "float32",
    "decoder_cat": "int32",
    "memory_cont": "float32",
}
"""The types of the inputs, by name, in the order of the model's arguments. Only some models have the last one."""

MEMORY_INPUT = "memory_cont"
"""The input of a model that asks for a memory. Callers may leave it out: then nothing is remembered."""

MEMORY_LENGTH = 168
MEMORY_STEP_SECONDS = 3_600
"""The memory that the daemon keeps: means of 168 hours, seven days."""


@dataclass(frozen=True)
class ModelContract:
    """The inputs and the output of one engine version.

    Inputs, oldest row first, NaN where missing:
    `encoder_cont (batch, context_length, features) float32`,
    `encoder_cat (batch, context_length, 2) int32` (server id, status),
    `decoder_cont (batch, horizon, 4) float32`, `decoder_cat (batch, horizon, 2) int32`,
    and if `memory_length` is above 0
    `memory_cont (batch, memory_length, features) float32`: means of so many periods before the origin.
    Output: `predictions (batch, horizon, targets, quantiles) float32`, without the target axis for one target.
    """

    features: tuple[str, ...]
    targets: tuple[str, ...]
    quantiles: tuple[float, ...]
    context_length: int
    horizon: int
    step_seconds: int
    units: Mapping[str, str] = field(default_factory=dict)
    architecture: str = ""
    memory_length: int = 0
    """The periods that the model remembers; 0 if it asks for no memory."""
    memory_step_seconds: int = MEMORY_STEP_SECONDS
    """The length of a period in seconds; without meaning if there is no memory."""

    def __post_init__(self) -> None:
        for name, value in (
            ("context_length", self.context_length),
            ("horizon", self.horizon),
            ("step_seconds", self.step_seconds),
        ):
            if value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1")
        for name, values in (("features", self.features), ("targets", self.targets)):
            if not values or len(set(values)) != len(values):
                raise ValueError(f"{name} is {list(values)}, expected at least one name and no name twice")
        if unknown := set(self.targets) - set(self.features):
            raise ValueError(f"targets {sorted(unknown)} are not among the features")
        rising = all(a < b for a, b in zip(self.quantiles, self.quantiles[1:], strict=False))
        if not self.quantiles or not rising or not (self.quantiles[0] > 0 and self.quantiles[-1] < 1):
            raise ValueError(f"quantiles is {list(self.quantiles)}, expected rising numbers between 0 and 1")
        self._check_memory()

    def _check_memory(self) -> None:
        if self.memory_length < 0:
            raise ValueError(f"memory_length is {self.memory_length}, expected 0 or more")
        if self.memory_length and not _has_whole_periods(
            self.memory_step_seconds, self.step_seconds, self.context_length
        ):
            raise ValueError(
                f"memory_step_seconds is {self.memory_step_seconds}, expected a multiple of step_seconds "
                f"({self.step_seconds}) and at most context_length ({self.context_length}) steps"
            )

    @property
    def has_daemon_memory(self) -> bool:
        """Whether the daemon can give the model what it asks for: no memory, or the one that it keeps."""
        kept = MEMORY_LENGTH, MEMORY_STEP_SECONDS
        return not self.memory_length or (self.memory_length, self.memory_step_seconds) == kept

    def with_daemon_memory(self) -> "ModelContract":
        """Return the contract with the memory that the daemon keeps, without any if its steps do not allow one.

        The state is laid out by it, whether or not the version that serves asks for a memory.
        """
        length = MEMORY_LENGTH if can_keep_memory(self.step_seconds, self.context_length) else 0
        return replace(self, memory_length=length, memory_step_seconds=MEMORY_STEP_SECONDS)

    @cached_property
    def feature_index(self) -> dict[str, int]:
        """The index of each feature's column."""
        return {name: column for column, name in enumerate(self.features)}

    @cached_property
    def target_columns(self) -> npt.NDArray[np.int64]:
        """The column of each target among the features, `(targets,)`."""
        return np.array([self.feature_index[target] for target in self.targets], np.int64)

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of one window's inputs, without the batch axis."""
        memory = {MEMORY_INPUT: (self.memory_length, len(self.features))} if self.memory_length else {}
        return {
            "encoder_cont": (self.context_length, len(self.features)),
            "encoder_cat": (self.context_length, 2),
            "decoder_cont": (self.horizon, CALENDAR_FEATURES),
            "decoder_cat": (self.horizon, 2),
            **memory,
        }

    @property
    def forecast_shape(self) -> tuple[int, int, int]:
        """`(targets, horizon, quantiles)`: the shape of a forecast in the daemon and on the wire."""
        return len(self.targets), self.horizon, len(self.quantiles)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of one window's `predictions`, as the model returns them."""
        targets = () if len(self.targets) == 1 else (len(self.targets),)
        return (self.horizon, *targets, len(self.quantiles))

    def to_step(self, time_seconds: float) -> int:
        """Return the grid step to which a time (epoch seconds) belongs."""
        return int(time_seconds // self.step_seconds)

    def to_origin(self, step: int) -> int:
        """Return the time (epoch seconds) at which a step ends: the origin of a forecast from its row."""
        return (step + 1) * self.step_seconds

    def to_origins(self, steps: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the origins of forecasts from the rows of these steps, as `to_origin`."""
        return (steps + 1) * self.step_seconds


def can_keep_memory(step_seconds: int, context_length: int) -> bool:
    """Whether the daemon can keep a memory beside windows of this many rows of this many seconds."""
    return _has_whole_periods(MEMORY_STEP_SECONDS, step_seconds, context_length)


def _has_whole_periods(period_seconds: int, step_seconds: int, context_length: int) -> bool:
    """Whether periods of this length have whole steps, and the window holds all steps of the newest one."""
    is_whole = period_seconds > 0 and period_seconds % step_seconds == 0
    return is_whole and period_seconds <= context_length * step_seconds
