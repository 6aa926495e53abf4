"""Runs `streamd` with lanes that cost nothing: `python -m benchmarks.cluster.free_lanes serve ...`.

All of the daemon is the real one but for the lanes, whose forecasts are always the same numbers.
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from streamd import cli
from streamd.core.arrays import Float32
from streamd.core.contract import ModelContract
from streamd.inference.lane import Inputs, Lane
from streamd.inference.opening import OpenedBackend
from streamd.repository.versions import EngineVersion
from streamd.server import daemon
from streamd.server.config import Config

BUCKETS = (1, 8, 32, 64, 128, 256)
LANES = 2


class FreeLane:
    """A lane that ignores its inputs."""

    device = "none"
    buckets: tuple[int, ...] = BUCKETS
    pads = True

    def __init__(self, index: int, contract: ModelContract) -> None:
        self.name = f"free-{index}"
        self.inputs = Inputs.allocate(contract, BUCKETS[-1])
        shape = (BUCKETS[-1], contract.horizon, len(contract.targets), len(contract.quantiles))
        self._forecasts: Float32 = np.broadcast_to(np.arange(shape[-1], dtype=np.float32), shape).copy()

    def run(self, count: int) -> Float32:
        """Return the first `count` forecasts."""
        return self._forecasts[:count]

    def check(self) -> None:
        """Do nothing: the lane is always healthy."""

    def describe(self) -> dict[str, Any]:
        """Return no details."""
        return {}

    def close(self) -> None:
        """Do nothing."""


class FreeBackend:
    """Makes such lanes."""

    name = "free"
    precision = "fp32"
    default_lanes = LANES

    def __init__(self, contract: ModelContract) -> None:
        self._contract = contract

    def make_lane(self, index: int) -> Lane:
        """Make a lane."""
        return FreeLane(index, self._contract)

    def describe(self) -> dict[str, Any]:
        """Return that it is a fake."""
        return {"fake": True}


def open_free_version(
    versions: Sequence[EngineVersion], config: Config, exhausted: frozenset[str] = frozenset()
) -> OpenedBackend:
    """Open the lanes of a version."""
    backend = FreeBackend(versions[0].contract)
    return OpenedBackend(backend, [backend.make_lane(index) for index in range(LANES)])


if __name__ == "__main__":
    setattr(daemon, "open_version", open_free_version)  # noqa: B010 - the daemon does not export this name
    sys.exit(cli.main(sys.argv[1:]))
