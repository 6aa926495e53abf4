"""Run `streamd serve` with lanes that cost nothing, to measure the host: `--backend fake` of the section `daemon`.

A lane sleeps for a millisecond and returns forecasts that the version's own network made once from real windows; its
inputs are ignored. As TensorRT's lanes do, it stages new rows for windows that a device keeps, and gets its forecasts
finished; with `STREAMD_RESIDENT_WINDOWS=0` whole windows are copied. Not measured: a device, for there is no copy to
it, no launch and no wait for it.
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
from streamd.core.state.forecast_seals import compute_checks
from streamd.inference.lane import FinishedBatch, Inputs, Lane, ResidentWindows
from streamd.inference.onnxruntime.cpu_lane import OnnxRuntimeCpuBackend
from streamd.inference.opening import OpenedBackend
from streamd.inference.resident import LaneWindows, ResidentStore, Staging
from streamd.repository.versions import EngineVersion
from streamd.server import daemon
from streamd.server.config import Config

BUCKETS: tuple[int, ...] = (1, 8, 32, 64, 128, 256)
LANE_SECONDS = 1e-3


class InstantBackend:
    """A backend whose lanes share the same forecasts, `(largest bucket, horizon, targets, quantiles) float32`.

    Its device keeps the windows of `capacity` slots; 0 if it keeps none.
    """

    name = "instant"
    precision = "none"

    def __init__(self, contract: ModelContract, forecasts: Float32, lanes: int, capacity: int) -> None:
        self.contract = contract
        self.forecasts = forecasts
        self.default_lanes = lanes
        self.windows = ResidentStore(contract, capacity) if capacity else None

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
        self.resident: ResidentWindows | None = None
        if backend.windows is not None:
            self.resident = InstantResident(backend.windows, self.inputs, backend.forecasts)

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


class InstantResident:
    """Windows that a device keeps, of which nothing is kept."""

    def __init__(self, store: ResidentStore, inputs: Inputs, forecasts: Float32) -> None:
        lane = LaneWindows(store, Staging(inputs, np.zeros), lambda _: None)
        finished = np.ascontiguousarray(np.sort(forecasts, axis=-1).transpose(0, 2, 1, 3))
        self._finished = FinishedBatch(finished, (), compute_checks(finished))
        self._enqueue = lane.enqueue
        self.stage = lane.stage

    def run(self, count: int) -> FinishedBatch:
        """Return the first `count` forecasts, finished."""
        self._enqueue()
        time.sleep(LANE_SECONDS)
        checks = self._finished.checks
        return FinishedBatch(self._finished.forecasts[:count], (), None if checks is None else checks[:count])


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
    capacity = config.state.max_servers if config.engine.resident_windows else 0
    return InstantBackend(contract, forecasts, config.engine.lanes or 4, capacity)


def open_instant_version(versions: Sequence[EngineVersion], config: Config, *_: object) -> OpenedBackend:
    """Open the lanes of a version; the daemon calls it in place of `open_version`."""
    backend = open_instant(versions[0], config)
    return OpenedBackend(backend, [backend.make_lane(index) for index in range(backend.default_lanes)])


if __name__ == "__main__":
    vars(daemon)["open_version"] = open_instant_version
    sys.exit(cli.main(sys.argv[1:]))
