"""Runs `streamd` with lanes that follow orders: `python -m benchmarks.chaos.child serve ...`, with `CHAOS_ORDERS`.

All of the daemon is the real one but for the lanes: a fake device that hangs, fails or is lost, and a model whose
forecast can be checked.
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.chaos.model import OFFSETS, make_forecasts
from benchmarks.chaos.orders import LaneOrders, read_orders
from streamd import cli
from streamd.core.arrays import Float32
from streamd.core.contract import ModelContract
from streamd.core.errors import BackendUnavailableError, BatchFailedError, LaneLostError
from streamd.http.wire import column_frames, frames
from streamd.inference.lane import Inputs, Lane
from streamd.inference.opening import OpenedBackend
from streamd.repository.versions import EngineVersion
from streamd.server import daemon
from streamd.server.config import Config

LANES = 2
BUCKETS = (1, 8, 32)
HANG_CHECK_SECONDS = 0.02

CACHE_BYTES = 2**20
"""Of encoded frames: the daemon keeps 64 MiB, which would fill through a whole run and hide what grows beside it."""

LISTED_NAMES = 8_000
"""Of remembered lists of names: senders skip other servers in each frame, so each list is new, and they fill it."""


class ChaosBackend:
    """Makes the lanes of one version."""

    name = "chaos"
    precision = "fp32"
    default_lanes = LANES

    def __init__(self, contract: ModelContract, model: str, orders: Path) -> None:
        self._contract = contract
        self._offset = OFFSETS[model]
        self._orders = orders

    def make_lane(self, index: int) -> Lane:
        """Make a lane; raises `BackendUnavailableError` while the device is lost."""
        if read_orders(self._orders).device_lost:
            raise BackendUnavailableError("the device chaos:0 is gone")
        return ChaosLane(index, self._contract, self._offset, self._orders)

    def describe(self) -> dict[str, Any]:
        """Return that it is a fake."""
        return {"fake": True}


class ChaosLane:
    """A lane that follows the orders."""

    device = "chaos:0"
    buckets: tuple[int, ...] = BUCKETS
    pads = False

    def __init__(self, index: int, contract: ModelContract, offset: float, orders: Path) -> None:
        self.name = f"chaos-{index}"
        self.inputs = Inputs.allocate(contract, BUCKETS[-1])
        self._index = str(index)
        self._offset = offset
        self._orders = orders
        self._is_lost = False
        self._is_closed = False

    def run(self, count: int) -> Float32:
        """Return forecasts that repeat their windows, unless an order prevents it."""
        windows = self.inputs.encoder_cont[:count].copy()
        orders = read_orders(self._orders)
        while orders.lanes.get(self._index) == "hang" and not self._is_closed:
            time.sleep(HANG_CHECK_SECONDS)
            orders = read_orders(self._orders)
        self._follow(orders)
        if orders.latency_seconds:
            time.sleep(orders.latency_seconds)
        return make_forecasts(windows, self._offset)

    def check(self) -> None:
        """Raise `LaneLostError` if the device is gone."""
        self._is_lost |= read_orders(self._orders).device_lost
        if self._is_lost:
            raise LaneLostError(f"lane {self.name}: the device {self.device} is gone", device_gone=True)

    def describe(self) -> dict[str, Any]:
        """Return no details."""
        return {}

    def close(self) -> None:
        """Let a run that hangs end."""
        self._is_closed = True

    def _follow(self, orders: LaneOrders) -> None:
        self.check()
        order = orders.lanes.get(self._index)
        if order == "lose":
            raise LaneLostError(f"lane {self.name}: lost by order")
        if order == "fail":
            raise BatchFailedError(f"lane {self.name}: a batch failed by order")


def open_chaos_version(
    versions: Sequence[EngineVersion], config: Config, exhausted: frozenset[str] = frozenset()
) -> OpenedBackend:
    """Open the lanes of a version."""
    backend = ChaosBackend(versions[0].contract, versions[0].name, Path(os.environ["CHAOS_ORDERS"]))
    lanes: list[Lane] = [backend.make_lane(index) for index in range(LANES)]
    return OpenedBackend(backend, lanes)


if __name__ == "__main__":
    setattr(frames, "CACHE_BYTES", CACHE_BYTES)  # noqa: B010 - a constant of the daemon
    setattr(column_frames, "MAX_LISTED_NAMES", LISTED_NAMES)  # noqa: B010 - likewise
    setattr(daemon, "open_version", open_chaos_version)  # noqa: B010 - the daemon does not export this name
    sys.exit(cli.main(sys.argv[1:]))
