"""Series of servers on the contract's grid, and synthetic fleets of any size made from them.

Arrays and arithmetic only: no files, no sockets, no clock.
"""

from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from streamd.tools.fleets.errors import FleetError

FleetValues = NDArray[np.float32]
Bools = NDArray[np.bool_]
Ints = NDArray[np.intp]

PERCENT = 100.0
MAX_GRID_ROWS = 50_000_000
"""Rows of a grid, gaps included: one time that lies far from all others makes a grid that no memory holds."""


class Fleet(Protocol):
    """The interface of the fleets that a replay can send: N servers over T consecutive steps."""

    @property
    def servers(self) -> tuple[str, ...]:
        """The names of the N servers."""

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the F features."""

    @property
    def first_step(self) -> int:
        """The step of index 0, as the daemon numbers steps."""

    @property
    def steps(self) -> int:
        """The number of steps, T."""

    def find_rows(self) -> Bools:
        """Return `(T, N) bool`: whether the server has a row in the step."""

    def read_values(self, steps: Ints, servers: Ints) -> FleetValues:
        """Return `(n, F) float32` for n pairs of (step index, server index); NaN where missing."""


def check_grid_size(times: str, servers: int, steps: int) -> None:
    """Check that a grid is not larger than any recorded fleet. Raises `FleetError` that names the `times`."""
    if servers * steps > MAX_GRID_ROWS:
        raise FleetError(
            f"{times} make {steps:,} steps of {servers:,} servers; expected at most {MAX_GRID_ROWS:,} rows, gaps"
            " included: is one of the times wrong?"
        )


@dataclass(frozen=True, slots=True)
class RecordedFleet:
    """Real series on the grid."""

    servers: tuple[str, ...]
    features: tuple[str, ...]
    first_step: int
    series: FleetValues
    """`(servers, steps, features) float32`; NaN where missing."""

    @property
    def steps(self) -> int:
        """The number of steps, T."""
        return int(self.series.shape[1])

    def find_rows(self) -> Bools:
        """Return `(T, N) bool`, as `Fleet.find_rows`."""
        return np.asarray(np.isfinite(self.series).any(axis=2)).T

    def read_values(self, steps: Ints, servers: Ints) -> FleetValues:
        """Return `(n, F) float32`, as `Fleet.read_values`."""
        return self.series[servers, steps]

    def take_servers(self, servers: int | None) -> Self:
        """Return the fleet of the first `servers` servers; `None` takes all of them."""
        if servers is None:
            return self
        return replace(self, servers=self.servers[:servers], series=self.series[:servers])

    def take_steps(self, start: int, stop: int) -> Self:
        """Return the fleet of the step indices `start` to `stop - 1`."""
        return replace(self, first_step=self.first_step + start, series=self.series[:, start:stop])

    def select_features(self, known: tuple[str, ...]) -> Self:
        """Return the fleet of the features that the model knows, in the fleet's order; case is ignored.

        Raises `FleetError` if no column is a feature of the model.
        """
        spelled = {name.casefold(): name for name in known} | {name: name for name in known}
        found = [spelled.get(name, spelled.get(name.casefold())) for name in self.features]
        columns = [index for index, name in enumerate(found) if name is not None]
        if not columns:
            raise FleetError(
                f"none of the fleet's columns ({', '.join(self.features)}) is a feature of the daemon's model"
                f" ({', '.join(known)}); name the columns with --map FEATURE=COLUMN"
            )
        names = tuple(str(found[index]) for index in columns)
        return replace(self, features=names, series=self.series[:, :, columns])

    def move_to_step(self, first_step: int) -> Self:
        """Return the same rows at another time."""
        return replace(self, first_step=first_step)


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticFleet:
    """Any number of servers, each a real server's series at its own phase and scale.

    Values are computed when they are read, so 20,000 servers cost only a few arrays of that length.
    """

    servers: tuple[str, ...]
    base: RecordedFleet
    first_step: int
    steps: int
    source: Ints
    """`(N,)`: the index of the server's series in the base."""
    phase: Ints
    """`(N,)`: the number of steps by which that series is moved."""
    scale: FleetValues
    """`(N, F) float32`: factors around 1."""
    low: FleetValues
    """`(F,) float32`: the least value that the feature has in the base."""
    high: FleetValues
    """`(F,) float32`: the greatest value that the feature has in the base."""

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the base's features."""
        return self.base.features

    def find_rows(self) -> Bools:
        """Return `(T, N) bool`, as `Fleet.find_rows`."""
        recorded = self.base.find_rows()
        at = (np.arange(self.steps)[:, None] + self.phase[None, :]) % self.base.steps
        found: Bools = recorded[at, self.source[None, :]]
        return found

    def read_values(self, steps: Ints, servers: Ints) -> FleetValues:
        """Return `(n, F) float32`, as `Fleet.read_values`."""
        at = (steps + self.phase[servers]) % self.base.steps
        found = self.base.series[self.source[servers], at]
        scale = self.scale[servers]
        for idle in self._find_idle_columns():
            # Idle time is the rest of busy time: scale the busy part, so that both add up to at most 100.
            busy = (PERCENT - found[:, idle]) * scale[:, idle]
            found[:, idle] = PERCENT - busy
            scale[:, idle] = 1.0
        plausible: FleetValues = np.clip(found * scale, self.low, self.high)
        return plausible

    def _find_idle_columns(self) -> list[int]:
        return [index for index, name in enumerate(self.features) if name == "cpu_idle"]


def join_fleets(fleets: list[RecordedFleet]) -> RecordedFleet:
    """Join the fleets of several files into one, each at its own times; a value that no file has is NaN.

    Raises `FleetError` if the joined grid is too large.
    """
    if len(fleets) == 1:
        return fleets[0]
    servers = tuple(sorted({name for fleet in fleets for name in fleet.servers}))
    features = tuple(dict.fromkeys(name for fleet in fleets for name in fleet.features))
    first = min(fleet.first_step for fleet in fleets)
    length = max(fleet.first_step + fleet.steps for fleet in fleets) - first
    check_grid_size("the times of all files", len(servers), length)
    series = np.full((len(servers), length, len(features)), np.nan, dtype=np.float32)
    for fleet in fleets:
        rows = np.array([servers.index(name) for name in fleet.servers])
        columns = np.array([features.index(name) for name in fleet.features])
        begin = fleet.first_step - first
        part = series[np.ix_(rows, np.arange(begin, begin + fleet.steps), columns)]
        series[np.ix_(rows, np.arange(begin, begin + fleet.steps), columns)] = np.where(
            np.isfinite(fleet.series), fleet.series, part
        )
    return RecordedFleet(servers, features, first, series)


def synthesize(base: RecordedFleet, servers: int, steps: int, seed: int = 1) -> SyntheticFleet:
    """Make a fleet of `servers` servers with `steps` steps each from the real series of `base`.

    Scales are between 0.8 and 1.2, the CPU features of a server share one, and no value leaves the range that its
    feature has in the base. A phase makes a series wrap around only if `steps` is more than the base has.
    """
    random = np.random.default_rng(seed)
    source = np.arange(servers, dtype=np.intp) % len(base.servers)
    spare = base.steps - steps
    phase = random.integers(0, spare + 1 if spare > 0 else base.steps, size=servers).astype(np.intp)
    scale = random.uniform(0.8, 1.2, size=(servers, len(base.features))).astype(np.float32)
    cpu = [index for index, name in enumerate(base.features) if "cpu" in name]
    if cpu:
        scale[:, cpu] = scale[:, cpu[:1]]
    flat = base.series.reshape(-1, len(base.features))
    finite = np.isfinite(flat)
    digits = len(str(max(servers - 1, 1)))
    return SyntheticFleet(
        servers=tuple(f"{base.servers[which]}.{index:0{digits}d}" for index, which in enumerate(source)),
        base=base,
        first_step=base.first_step,
        steps=steps,
        source=source,
        phase=phase,
        scale=scale,
        low=np.where(finite, flat, np.inf).min(axis=0),
        high=np.where(finite, flat, -np.inf).max(axis=0),
    )
