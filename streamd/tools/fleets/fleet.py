"""Series of servers on the contract's grid, and fleets of any size made from them.

Arrays and arithmetic only: no files, no sockets, no clock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from streamd.tools.loadtest.errors import UsageError

FleetValues = NDArray[np.float32]
Bools = NDArray[np.bool_]
Ints = NDArray[np.intp]

PERCENT = 100.0
# Rows of a grid, gaps included: a time that lies far from all others makes a grid that no memory holds.
MAX_GRID_ROWS = 50_000_000


class Fleet(Protocol):
    """What a replay sends: N servers over T consecutive steps."""

    @property
    def servers(self) -> tuple[str, ...]:
        """Names, N of them."""

    @property
    def features(self) -> tuple[str, ...]:
        """Names, F of them."""

    @property
    def first_step(self) -> int:
        """The step of index 0, as the daemon numbers steps."""

    @property
    def steps(self) -> int:
        """T."""

    def present(self) -> Bools:
        """``[T, N]``: true where the server has a row."""

    def values(self, steps: Ints, servers: Ints) -> FleetValues:
        """``[n, F] float32`` for n pairs of (step index, server index); NaN where missing."""


def check_grid(times: str, servers: int, steps: int) -> None:
    """Raises UsageError where a grid of so many servers and steps is larger than any recorded fleet."""
    if servers * steps > MAX_GRID_ROWS:
        raise UsageError(
            f"{times} make {steps:,} steps of {servers:,} servers; expected at most {MAX_GRID_ROWS:,} rows, gaps"
            " included: is one of the times wrong?"
        )


@dataclass(frozen=True, slots=True)
class RecordedFleet:
    """Real series, dense on the grid: ``series[server, step, feature] float32``, NaN where missing."""

    servers: tuple[str, ...]
    features: tuple[str, ...]
    first_step: int
    series: FleetValues

    @property
    def steps(self) -> int:
        """T."""
        return int(self.series.shape[1])

    def present(self) -> Bools:
        """See ``Fleet.present``."""
        return np.asarray(np.isfinite(self.series).any(axis=2)).T

    def values(self, steps: Ints, servers: Ints) -> FleetValues:
        """See ``Fleet.values``."""
        return self.series[servers, steps]

    def only(self, servers: int | None) -> RecordedFleet:
        """The first ``servers`` of the fleet; all of them for None."""
        if servers is None:
            return self
        return replace(self, servers=self.servers[:servers], series=self.series[:servers])

    def between(self, start: int, stop: int) -> RecordedFleet:
        """The step indices ``[start, stop)``."""
        return replace(self, first_step=self.first_step + start, series=self.series[:, start:stop])

    def of_features(self, known: tuple[str, ...]) -> RecordedFleet:
        """Only the features that the daemon's model knows, in the fleet's order; a name's case does not matter."""
        spelled = {name.casefold(): name for name in known} | {name: name for name in known}
        found = [spelled.get(name, spelled.get(name.casefold())) for name in self.features]
        kept = [index for index, name in enumerate(found) if name is not None]
        if not kept:
            raise UsageError(
                f"none of the fleet's columns ({', '.join(self.features)}) is a feature of the daemon's model"
                f" ({', '.join(known)}); name the columns with --map FEATURE=COLUMN"
            )
        names = tuple(str(found[index]) for index in kept)
        return replace(self, features=names, series=self.series[:, :, kept])

    def beginning_at(self, first_step: int) -> RecordedFleet:
        """The same rows at another time."""
        return replace(self, first_step=first_step)


@dataclass(frozen=True, slots=True)
class SyntheticFleet:
    """Any number of servers, each a real server's series at its own phase and scale.

    Values are computed when they are asked for, so that 20,000 servers cost a few arrays of that length.
    """

    servers: tuple[str, ...]
    base: RecordedFleet
    first_step: int
    steps: int
    source: Ints  # [N], which series of the base
    phase: Ints  # [N], steps by which the series is moved
    scale: FleetValues  # [N, F], around 1
    low: FleetValues  # [F], the range the feature really has
    high: FleetValues  # [F]

    @property
    def features(self) -> tuple[str, ...]:
        """The base's."""
        return self.base.features

    def present(self) -> Bools:
        """See ``Fleet.present``."""
        recorded = self.base.present()
        at = (np.arange(self.steps)[:, None] + self.phase[None, :]) % self.base.steps
        found: Bools = recorded[at, self.source[None, :]]
        return found

    def values(self, steps: Ints, servers: Ints) -> FleetValues:
        """See ``Fleet.values``."""
        at = (steps + self.phase[servers]) % self.base.steps
        found = self.base.series[self.source[servers], at]
        scale = self.scale[servers]
        for idle in self._idle_columns():
            # Idle is what busy leaves: scale the busy part, so that both still add up to at most 100.
            busy = (PERCENT - found[:, idle]) * scale[:, idle]
            found[:, idle] = PERCENT - busy
            scale[:, idle] = 1.0
        plausible: FleetValues = np.clip(found * scale, self.low, self.high)
        return plausible

    def _idle_columns(self) -> list[int]:
        return [index for index, name in enumerate(self.features) if name == "cpu_idle"]


def synthesize(base: RecordedFleet, servers: int, steps: int, seed: int = 1) -> SyntheticFleet:
    """``servers`` synthetic servers of ``steps`` steps each, from the real series of ``base``.

    Scales lie in 0.8..1.2, the CPU features of a server share one, and no value leaves the range that its
    feature really has. A phase never makes a series wrap around unless ``steps`` is more than the base has.
    """
    random = np.random.default_rng(seed)
    source = np.arange(servers, dtype=np.intp) % len(base.servers)
    room = base.steps - steps
    phase = random.integers(0, room + 1 if room > 0 else base.steps, size=servers).astype(np.intp)
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
