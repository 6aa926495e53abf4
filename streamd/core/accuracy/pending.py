"""The pending forecasts of live accuracy, whose truth has not arrived yet, and their limits. Data only."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from streamd.core.accuracy.scores import Scores
from streamd.core.arrays import Float32, Float64
from streamd.core.state.window_columns import NO_STEP


@dataclass(frozen=True, kw_only=True)
class AccuracyLimits:
    """The number of pending forecasts and their times; all steps are steps of the grid."""

    scored_servers: int = 512
    """Servers with a pending forecast at the same time, one each; 0 turns scoring off."""
    settle_steps: int = 2
    """A row is used for scores once this many later steps have closed: late samples until then count."""
    tolerance_steps: int = 12
    """A forecast expires this long after its last row should have been usable."""
    range_steps: int = 12
    """The length of the ranges of the horizon that are scored separately."""
    period_steps: int = 12
    periods: int = 24
    """Scores are over the last `periods` periods of `period_steps`: by default one day at five minutes a step."""
    versions: int = 4
    """Versions that are scored at the same time; one more replaces the version whose last forecast is the oldest."""

    def __post_init__(self) -> None:
        if self.scored_servers < 0 or self.settle_steps < 0 or self.tolerance_steps < 0:
            raise ValueError(f"{self}: expected no number below 0")
        if min(self.range_steps, self.period_steps, self.periods, self.versions) < 1:
            raise ValueError(f"{self}: expected ranges, periods and versions of at least 1")


@dataclass(slots=True, kw_only=True)
class ScoredVersion:
    """One version that is scored, its share of the servers, and its scores."""

    name: str
    scores: Scores
    number: int
    """Counts the versions in the order in which they were first followed."""
    share: float = 1.0
    is_shadow: bool = False
    """A shadow joins the pending forecasts of other versions; it opens its own only if no other version does."""
    threshold: int = 0
    """An origin is chosen if its 64-bit hash is below this."""
    latest_step: int = NO_STEP
    """The newest origin from which it offered a forecast."""


@dataclass(slots=True, eq=False, kw_only=True)
class PendingForecast:
    """The forecasts of one server from one origin, by version, while their truth arrives."""

    slot: int
    generation: int
    step: int
    """The step of the newest row that they were made from."""
    reported: npt.NDArray[np.bool_]
    """`(targets,)`: true if the target is scored: enough of its window was reported, and no forecast lacks it."""
    points: Float64
    """The number of scored values, `(targets, ranges)`."""
    forecasts: dict[str, Float32] = field(default_factory=dict)
    losses: dict[str, Float64] = field(default_factory=dict)
    """The sums of the losses by version, `(targets, ranges)`."""
    done_steps: int = 0
    """Steps of the horizon that are over, whether scored or missing."""


@dataclass(slots=True, kw_only=True)
class PendingCounts:
    """The fate of the sampled forecasts since start; one that joined another version's shares that one's fate."""

    opened: int = 0
    joined: int = 0
    finished: int = 0
    expired: int = 0
    """Ended before every row had arrived."""
    forgotten: int = 0
    crowded: int = 0
    """Chosen, but no place was free."""
