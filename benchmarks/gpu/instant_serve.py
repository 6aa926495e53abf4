"""`streamd serve` with lanes that cost nothing, to see what the host can do: `--backend fake` of the daemon's section.

A lane waits a millisecond, asleep, and gives forecasts of real windows that the version's own network made once,
whatever windows it was given. Not a figure of any device: there is no copy to one, no launch and no wait for it.
"""

import sys
import time
from typing import Any

import numpy as np

from benchmarks.gpu.windows import make_windows
from streamd import cli
from streamd.core.arrays import Float32
from streamd.core.contract import ModelContract
from streamd.inference.lane import Backend, Inputs, Lane
from streamd.inference.onnxruntime.cpu_lane import OnnxRuntimeCpuBackend
from streamd.repository.versions import EngineVersion
from streamd.server.config import Config
from streamd.server.version_control import specs

STOOD_IN_FOR = "onnxruntime-cpu"
"""The backend to ask for: settings know no other that runs everywhere."""

BUCKETS: tuple[int, ...] = (1, 8, 32, 64, 128, 256)
LANE_SECONDS = 1e-3


class InstantBackend:
    """Lanes that share the same `forecasts (largest bucket, horizon, targets, quantiles)`."""

    name = "instant"
    precision = "none"

    def __init__(self, contract: ModelContract, forecasts: Float32, lanes: int) -> None:
        self.contract = contract
        self.forecasts = forecasts
        self.default_lanes = lanes

    def make_lane(self, index: int) -> Lane:
        """Make a lane."""
        return InstantLane(f"instant-{index}", self)

    def describe(self) -> dict[str, Any]:
        """That it is none."""
        return {"instant": True}


class InstantLane:
    """Takes inputs as any lane does, and does not look at them."""

    def __init__(self, name: str, backend: InstantBackend) -> None:
        self.name = name
        self.device = "none"
        self.buckets = BUCKETS
        self.pads = True
        self.inputs = Inputs.allocate(backend.contract, BUCKETS[-1])
        self._forecasts = backend.forecasts

    def run(self, count: int) -> Float32:
        """The first `count` forecasts."""
        time.sleep(LANE_SECONDS)
        return self._forecasts[:count]

    def check(self) -> None:
        """All is well."""

    def describe(self) -> dict[str, Any]:
        """Nothing to tell."""
        return {}

    def close(self) -> None:
        """Nothing to release."""


def open_instant(version: EngineVersion, config: Config) -> Backend:
    """Let the version's network forecast real windows once, on the CPU."""
    contract, most = version.contract, BUCKETS[-1]
    lane = OnnxRuntimeCpuBackend(version.onnx, contract, (most,), 2).make_lane(0)
    made = -(-5 * most // 4)
    usual = np.arange(made)[np.arange(made) % 5 != 4][:most]  # every fifth is made a million times as large
    for name, values in make_windows(contract, made).first(made).items():
        lane.inputs.first(most)[name][:] = values[usual]
    forecasts = lane.run(most).copy()
    lane.close()
    return InstantBackend(contract, forecasts, config.engine.lanes or 4)


if __name__ == "__main__":
    specs._OPENERS[STOOD_IN_FOR] = open_instant
    sys.exit(cli.main(sys.argv[1:]))
