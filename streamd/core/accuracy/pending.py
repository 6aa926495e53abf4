"""What live accuracy holds: forecasts whose truth has not come yet, and how many of them for how long."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from streamd.core.accuracy.scores import Scores
from streamd.core.arrays import Float32, Float64
from streamd.core.state.windows import NO_STEP


@dataclass(frozen=True)
class AccuracyLimits:
    """How much is held and for how long; all steps are of the grid."""

    scored_servers: int = 512
    """Servers of which a forecast is held at a time, one each; 0: none, and nothing is scored."""
    settle_steps: int = 2
    """A row is scored when so many steps after it have closed: what amends it until then counts."""
    tolerance_steps: int = 12
    """A held forecast is given up so long after its last row should have settled."""
    range_steps: int = 12
    """The horizon is told apart in ranges of so many steps."""
    period_steps: int = 12
    periods: int = 24
    """Figures are over the last `periods` periods of `period_steps`: by default a day at five minutes."""
    versions: int = 4
    """Versions that are scored beside each other; with one more, the one that was quiet the longest goes."""

    def __post_init__(self) -> None:
        if self.scored_servers < 0 or self.settle_steps < 0 or self.tolerance_steps < 0:
            raise ValueError(f"{self}: expected no number below 0")
        if min(self.range_steps, self.period_steps, self.periods, self.versions) < 1:
            raise ValueError(f"{self}: expected ranges, periods and versions of at least 1")


@dataclass(slots=True)
class ScoredVersion:
    """One version that is scored: its share of the servers, and whether it may open holds or only joins others'."""

    name: str
    scores: Scores
    number: int
    share: float = 1.0
    is_shadow: bool = False
    threshold: int = 0
    """Of 2^64 origins, how many are chosen."""
    latest_step: int = NO_STEP
    """The newest origin that it offered a forecast from."""


@dataclass(slots=True, eq=False)
class PendingForecast:
    """The forecasts of one server from one origin, by version, while their truth arrives."""

    slot: int
    generation: int
    step: int
    """That of the newest row they saw."""
    reported: npt.NDArray[np.bool_]
    """`(targets,)`: enough of its window was there for it to be scored."""
    points: Float64
    """Values scored, `(targets, ranges)`."""
    forecasts: dict[str, Float32] = field(default_factory=dict)
    losses: dict[str, Float64] = field(default_factory=dict)
    """Summed, `(targets, ranges)`."""
    done_steps: int = 0
    """Steps of the horizon that are past, scored or missing."""


@dataclass(slots=True)
class PendingCounts:
    """What became of the sampled forecasts since start; joined ones go with the hold they joined."""

    opened: int = 0
    joined: int = 0
    finished: int = 0
    expired: int = 0
    """Given up before every row had come."""
    forgotten: int = 0
    crowded: int = 0
    """Chosen when no place was free."""
