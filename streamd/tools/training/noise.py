"""Generated noise about a level: series without any pattern, for which the quantiles of a window are the best forecast.

They judge a model and are never trained on. This module draws numbers only.
"""

from collections.abc import Callable

import numpy as np

from streamd.tools.networks.contract import FEATURE_UNITS, NetworkContract
from streamd.tools.training.fleet import TrainingFleet

Draw = Callable[[np.random.Generator, int], np.ndarray]

MACHINES_PER_KIND = 8
DAYS_BEFORE = 8
DAYS_SCORED = 6
MONDAY = 1_578_268_800
"""2020-01-06 00:00 UTC."""


def make_noise_fleet(contract: NetworkContract, seed: int = 11) -> TrainingFleet:
    """Return a fleet of `MACHINES_PER_KIND` machines for each kind of noise; a name is the kind, a dash and a number.

    Each target is an independent series in a unit of its own. The only split with windows is `test`.
    """
    rng = np.random.default_rng(seed)
    day = contract.steps_per_day
    steps = (DAYS_BEFORE + DAYS_SCORED) * day
    names = [f"{kind}-{i}" for kind in NOISES for i in range(MACHINES_PER_KIND)]
    values = np.zeros((len(names), steps, len(contract.targets)))
    for machine, name in enumerate(names):
        for j in range(len(contract.targets)):
            series = NOISES[name.partition("-")[0]](rng, steps)
            unit = rng.uniform(5, 95) / series.max() if contract.percent[j] else 10.0 ** rng.uniform(-3, 7)
            values[machine, :, j] = series * unit
    columns = list(contract.targets)
    first = DAYS_BEFORE * day
    return TrainingFleet(
        name="noise",
        machines=names,
        columns=columns,
        values=values.astype(np.float32),
        natural=[f if f in columns else None for f in FEATURE_UNITS],
        begins=np.full(len(names), MONDAY),
        step_seconds=contract.step_seconds,
        splits={"train": (0, first), "val": (0, 0), "test": (first, steps)},
        sha256={},
    )


def _draw_gaussian(rng: np.random.Generator, steps: int) -> np.ndarray:
    return rng.uniform(4, 30) + rng.standard_normal(steps)


def _draw_heavy_tailed(rng: np.random.Generator, steps: int) -> np.ndarray:
    return rng.uniform(10, 40) + rng.standard_t(rng.uniform(2.2, 4), steps)


def _draw_lognormal(rng: np.random.Generator, steps: int) -> np.ndarray:
    return np.exp(rng.uniform(0.3, 1.3) * rng.standard_normal(steps))


def _draw_counts(rng: np.random.Generator, steps: int) -> np.ndarray:
    return rng.poisson(10.0 ** rng.uniform(-0.7, 1.5), steps).astype(float)


def _draw_mixture(rng: np.random.Generator, steps: int) -> np.ndarray:
    high = rng.random(steps) < rng.uniform(0.05, 0.4)
    return 5 + rng.uniform(4, 15) * high + rng.standard_normal(steps)


def _draw_zero_inflated(rng: np.random.Generator, steps: int) -> np.ndarray:
    return np.where(rng.random(steps) < rng.uniform(0.05, 0.4), rng.exponential(1.0, steps), 0.0)


def _draw_quantised(rng: np.random.Generator, steps: int) -> np.ndarray:
    return np.round(rng.uniform(2, 6) + rng.uniform(0.3, 1.0) * rng.standard_normal(steps)).clip(min=0)


NOISES: dict[str, Draw] = {
    "gaussian": _draw_gaussian,
    "heavy_tailed": _draw_heavy_tailed,
    "lognormal": _draw_lognormal,
    "counts": _draw_counts,
    "mixture": _draw_mixture,
    "zero_inflated": _draw_zero_inflated,
    "quantised": _draw_quantised,
}
"""How each kind is drawn: the generator and the number of steps to one series."""
