"""Watches memory and descriptors of each life of the daemon, and fits their slopes."""

import os
import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

YOUNG_SECONDS = 30.0
"""Of each life: caches fill, so its memory is not yet counted."""

BLOCK_SECONDS = 15.0
MIN_FREE_BLOCKS = 5
MIN_LIVES = 3


@dataclass(frozen=True, slots=True)
class Slope:
    """A slope a minute and its standard error; without enough data both are NaN."""

    per_minute: float
    error: float

    def is_flat(self, tolerance: float) -> bool:
        """Whether the slope is not above the tolerance by more than two standard errors; unknown counts as flat."""
        return not self.per_minute - 2 * self.error > tolerance

    def format_in(self, unit: float, name: str) -> str:
        """Return the slope with its uncertainty."""
        if self.per_minute != self.per_minute:
            return "unknown: the run was too short"
        return f"{self.per_minute / unit:+.3f} ± {2 * self.error / unit:.3f} {name} a minute (two standard errors)"


@dataclass
class LifeWatch:
    """Samples of (age in seconds, anonymous bytes, descriptors), by life."""

    samples: dict[int, list[tuple[float, int, int]]] = field(default_factory=lambda: defaultdict(list))
    starts: dict[int, float] = field(default_factory=dict)
    """When each life began, in seconds of the run."""

    def take_sample(self, life: int, began: float, age_seconds: float, pid: int) -> None:
        """Note the memory and the descriptors of a process, if it is still there."""
        try:
            anonymous = read_anonymous_bytes(pid)
            descriptors = len(os.listdir(f"/proc/{pid}/fd"))
        except OSError:
            return
        self.starts.setdefault(life, began)
        self.samples[life].append((age_seconds, anonymous, descriptors))

    def fit_within_lives(self, column: int) -> Slope:
        """Fit one slope for all lives, each with a level of its own, to the means of blocks of time."""
        ages, values, levels = [], [], 0
        for samples in self.samples.values():
            blocks = _average_blocks([each for each in samples if each[0] >= YOUNG_SECONDS], column)
            if len(blocks) >= 2:
                levels += 1
                ages.append(blocks[:, 0] - blocks[:, 0].mean())
                values.append(blocks[:, 1] - blocks[:, 1].mean())
        free = sum(map(len, ages)) - levels - 1
        if free < MIN_FREE_BLOCKS:
            return Slope(float("nan"), float("nan"))
        return _fit(np.concatenate(ages), np.concatenate(values), free)

    def fit_over_lives(self, column: int) -> Slope:
        """Fit the slope over lives, of the median of each life, by the time at which it began."""
        points = [
            (self.starts[life], statistics.median(each[column] for each in samples))
            for life, samples in self.samples.items()
            if len(samples) >= 3
        ]
        if len(points) < MIN_LIVES + 1:
            return Slope(float("nan"), float("nan"))
        x, y = np.array(points, float).T
        return _fit(x - x.mean(), y - y.mean(), len(points) - 2)


def _average_blocks(samples: list[tuple[float, int, int]], column: int) -> npt.NDArray[np.float64]:
    """Return the mean age and value of each block; samples that follow each other closely are hardly independent."""
    blocks: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for each in samples:
        blocks[int(each[0] // BLOCK_SECONDS)].append((each[0], each[column]))
    return np.array([np.mean(each, axis=0) for each in blocks.values()], np.float64).reshape(-1, 2)


def _fit(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], free: int) -> Slope:
    """Fit a line through the origin, with so many degrees of freedom; `x` is in seconds."""
    slope = float(x @ y) / float(x @ x)
    left = y - slope * x
    return Slope(slope * 60, (float(left @ left) / free / float(x @ x)) ** 0.5 * 60)


def read_anonymous_bytes(pid: int) -> int:
    """Return the bytes of a process that belong to no file."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    return 0
