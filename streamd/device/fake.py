"""A lane without a device, for tests here and for users' tests: it runs by script.

Its forecast can be told apart by window: see `forecast_of`.
"""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from streamd.core.contract import ModelContract
from streamd.core.errors import BatchFailedError, LaneLostError
from streamd.device.lane import Float32, Inputs


@dataclass
class FakeScript:
    """What a fake device does; change it while it runs.

    `latency_seconds(count)` is waited for on an event, so that `release` ends it at once. `poison(window)` is
    true for a window (`(context_length, features) float32`) that makes its whole batch fail. `hold` makes every
    run wait until `release` is set, in whatever order the test lets lanes go.
    """

    latency_seconds: Callable[[int], float] = lambda count: 0.0
    poison: Callable[[Float32], bool] = lambda window: False
    not_finite: Callable[[Float32], bool] = lambda window: False
    errors: deque[Exception] = field(default_factory=deque)
    """Raised by the next runs, one each."""
    lost: bool = False
    """A sticky error: every run from now on loses its lane."""
    hold: bool = False
    release: dict[str, threading.Event] = field(default_factory=dict)
    runs: list[tuple[str, int]] = field(default_factory=list)
    """(lane, windows) of every run, in the order in which they began."""
    on_run: Callable[[str, dict[str, Any]], None] = lambda lane, inputs: None
    """Sees copies of every run's inputs, in the lane's thread."""


class FakeBackend:
    """Makes fake lanes that share one script."""

    name = "fake"
    precision = "fp32"

    def __init__(self, contract: ModelContract, buckets: tuple[int, ...] = (1, 8, 32), *, pads: bool = False) -> None:
        self.contract = contract
        self.buckets = buckets
        self.pads = pads
        self.script = FakeScript()

    def make_lane(self, index: int) -> "FakeLane":
        """Make a lane; none ever fails to start."""
        name = f"fake-{index}"
        self.script.release.setdefault(name, threading.Event())
        return FakeLane(name, self)

    def describe(self) -> dict[str, Any]:
        """That it is a fake."""
        return {"fake": True}


class FakeLane:
    """Runs by its backend's script."""

    device = "fake"

    def __init__(self, name: str, backend: FakeBackend) -> None:
        self.name = name
        self.buckets = backend.buckets
        self.pads = backend.pads
        self.inputs = Inputs.allocate(backend.contract, backend.buckets[-1])
        self.closed = False
        self._contract = backend.contract
        self._script = backend.script

    def run(self, count: int) -> Float32:
        """Forecast `forecast_of` each window, unless the script says otherwise."""
        script = self._script
        script.runs.append((self.name, count))
        inputs = {name: buffer.copy() for name, buffer in self.inputs.first(count).items()}
        script.on_run(self.name, inputs)
        gate = script.release[self.name]
        if script.hold:
            gate.wait()
            gate.clear()
        elif (seconds := script.latency_seconds(count)) > 0:
            gate.wait(seconds)
        if script.lost:
            raise LaneLostError(f"lane {self.name}: the fake device is gone")
        if script.errors:
            raise script.errors.popleft()
        windows = inputs["encoder_cont"]
        if any(script.poison(window) for window in windows):
            raise BatchFailedError(f"lane {self.name}: a poisoned window")
        forecasts = np.stack([forecast_of(self._contract, window) for window in windows])
        for place, window in enumerate(windows):
            if script.not_finite(window):
                forecasts[place] = np.nan
        return forecasts

    def close(self) -> None:
        """Note that it was closed."""
        self.closed = True


def forecast_of(contract: ModelContract, window: Float32) -> Float32:
    """Return the fake's forecast of one window, `(horizon, targets, quantiles)`.

    The median is the target's last value that is there (0 where none is), plus 0.001 a step of the horizon;
    quantile q lies q - 0.5 away from it.
    """
    columns = [contract.feature_index[target] for target in contract.targets]
    last = np.zeros(len(columns), np.float32)
    for place, column in enumerate(columns):
        there = window[:, column][~np.isnan(window[:, column])]
        last[place] = there[-1] if len(there) else 0.0
    steps = 0.001 * np.arange(1, contract.horizon + 1, dtype=np.float32)
    spread = np.asarray(contract.quantiles, np.float32) - 0.5
    forecast: Float32 = last[None, :, None] + steps[:, None, None] + spread[None, None, :]
    return forecast
