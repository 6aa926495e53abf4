"""Run `streamd serve` with lanes that cost nothing, to measure the host: `--backend fake` of the section `daemon`.

A lane sleeps for a millisecond and returns forecasts that the version's own network made once from real windows; its
inputs are ignored. Not measured: a device, for there is no copy to it, no launch and no wait for it.
"""

import math
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.gpu.windows import make_windows
from streamd import cli
from streamd.core.arrays import Float32
from streamd.core.contract import ModelContract
from streamd.inference.lane import Inputs, Lane
from streamd.inference.onnxruntime.cpu_lane import OnnxRuntimeCpuBackend
from streamd.inference.opening import OpenedBackend
from streamd.repository.versions import EngineVersion
from streamd.server import daemon
from streamd.server.config import Config

BUCKETS: tuple[int, ...] = (1, 8, 32, 64, 128, 256)
LANE_SECONDS = 1e-3


class InstantBackend:
    """A backend whose lanes share the same forecasts, `(largest bucket, horizon, targets, quantiles) float32`."""

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
        """Describe the backend: its lanes do no work."""
        return {"instant": True}


class InstantLane:
    """A lane that ignores its inputs."""

    def __init__(self, name: str, backend: InstantBackend) -> None:
        self.name = name
        self.device = "none"
        self.buckets = BUCKETS
        self.pads = True
        self.inputs = Inputs.allocate(backend.contract, BUCKETS[-1])
        self._forecasts = backend.forecasts

    def run(self, count: int) -> Float32:
        """Return the first `count` forecasts."""
        time.sleep(LANE_SECONDS)
        return self._forecasts[:count]

    def check(self) -> None:
        """Do nothing: the lane is always healthy."""

    def describe(self) -> dict[str, Any]:
        """Return no details."""
        return {}

    def close(self) -> None:
        """Do nothing: the lane holds no resources."""


def open_instant(version: EngineVersion, config: Config) -> InstantBackend:
    """Open a backend with forecasts that the version's network makes once, on the CPU, from real windows."""
    contract, most = version.contract, BUCKETS[-1]
    lane = OnnxRuntimeCpuBackend(version.onnx, contract, (most,), 2).make_lane(0)
    # Every fifth window of `make_windows` is a million times as large; those are left out.
    made = math.ceil(5 * most / 4)
    usual = np.arange(made)[np.arange(made) % 5 != 4][:most]
    for name, values in make_windows(contract, made).view_first(made).items():
        lane.inputs.view_first(most)[name][:] = values[usual]
    forecasts = lane.run(most).copy()
    lane.close()
    return InstantBackend(contract, forecasts, config.engine.lanes or 4)


def open_instant_version(versions: Sequence[EngineVersion], config: Config, *_: object) -> OpenedBackend:
    """Open the lanes of a version; the daemon calls it in place of `open_version`."""
    backend = open_instant(versions[0], config)
    return OpenedBackend(backend, [backend.make_lane(index) for index in range(backend.default_lanes)])


if __name__ == "__main__":
    vars(daemon)["open_version"] = open_instant_version
    sys.exit(cli.main(sys.argv[1:]))
