"""A fake device for these tests and for users' tests: its lanes follow a script.

Each window has another forecast, see `make_fake_forecast`. Needs no runtime and no device.
"""

import random
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from streamd.core.arrays import Float32
from streamd.core.contract import ModelContract
from streamd.core.errors import BackendUnavailableError, BatchFailedError, LaneLostError
from streamd.inference.fake_resident import FakeDeviceWindows, FakeResident
from streamd.inference.lane import Inputs


@dataclass
class FakeScript:
    """The script of fake devices; it may be changed while they run.

    `latency_seconds(windows)` depends on the windows that run: if lanes pad, on the whole bucket. Up to
    `jitter_seconds` are added, drawn from `seed` for each lane separately. Both are waited for at the lane's gate, so
    that releasing the lane ends them at once.
    """

    latency_seconds: Callable[[int], float] = lambda windows: 0.0
    jitter_seconds: float = 0.0
    seed: int = 0
    poison: Callable[[Float32], bool] = lambda window: False
    """True for a window (`(context_length, features) float32`) that makes its whole batch fail."""
    not_finite: Callable[[Float32], bool] = lambda window: False
    """True for a window whose forecast is NaN."""
    errors: deque[Exception] = field(default_factory=deque)
    """Raised by the next runs, one each."""
    make_errors: deque[Exception | None] = field(default_factory=deque)
    """Raised by the next `make_lane` calls, one each; `None` lets a call succeed."""
    lost: bool = False
    """Each run from now on loses its own lane only; for a whole device see `FakeBackend.lose_device`."""
    hold: bool = False
    """Every run waits until its lane is released, in any order; for one lane see `FakeLane.is_hanging`."""
    gates: dict[str, threading.Event] = field(default_factory=dict)
    """The gate of the newest lane of each name; setting it releases one run. `FakeBackend.lanes` has all lanes."""
    runs: list[tuple[str, int]] = field(default_factory=list)
    """(lane, windows) of every run, in the order in which they began."""
    on_run: Callable[[str, dict[str, Any]], None] = lambda lane, inputs: None
    """Called with copies of the inputs of every run, in the lane's thread."""


class FakeBackend:
    """Makes fake lanes that share one script; lane `i` is on device `fake:{i % devices}`.

    With a `capacity` each device keeps the windows of so many slots.
    """

    name = "fake"
    precision = "fp32"

    def __init__(
        self,
        contract: ModelContract,
        buckets: tuple[int, ...] = (1, 8, 32),
        *,
        pads: bool = False,
        devices: int = 1,
        lanes_per_device: int = 2,
        capacity: int = 0,
    ) -> None:
        self.contract = contract
        self.buckets = buckets
        self.pads = pads
        self.devices = tuple(f"fake:{index}" for index in range(devices))
        self.default_lanes = lanes_per_device * devices
        self.script = FakeScript()
        self.windows = {device: FakeDeviceWindows(contract, capacity) for device in self.devices if capacity}
        self.lanes: list[FakeLane] = []
        """Every lane that was ever made, in order."""
        self._lost_devices: set[str] = set()

    def make_lane(self, index: int) -> "FakeLane":
        """Make a lane; raises the scripted error, and `BackendUnavailableError` if its device is lost."""
        device = self.devices[index % len(self.devices)]
        error = self.script.make_errors.popleft() if self.script.make_errors else None
        if error is not None:
            raise error
        if device in self._lost_devices:
            raise BackendUnavailableError(f"device {device} is gone")
        lane = FakeLane(f"fake-{index}", device, self)
        self.script.gates[lane.name] = lane.gate
        self.lanes.append(lane)
        return lane

    def lose_device(self, device: str = "fake:0") -> None:
        """Give a device a sticky error: its lanes are lost permanently, and no lane can be made on it.

        A lane that is held stays held, and raises once it is released.
        """
        self._lost_devices.add(device)
        for lane in self.lanes:
            lane.is_lost |= lane.device == device

    def restore_device(self, device: str = "fake:0") -> None:
        """Let new lanes run on a device again; its earlier lanes stay lost."""
        self._lost_devices.discard(device)

    def release_all(self) -> None:
        """Release all lanes that are held, and hold none from now on."""
        self.script.hold = False
        for lane in self.lanes:
            lane.is_hanging = False
            lane.gate.set()

    def describe(self) -> dict[str, Any]:
        """Return that it is a fake, and its devices."""
        return {"fake": True, "devices": list(self.devices)}


class FakeLane:
    """A lane that follows the script of its backend."""

    def __init__(self, name: str, device: str, backend: FakeBackend) -> None:
        self.name = name
        self.device = device
        self.buckets = backend.buckets
        self.pads = backend.pads
        self.inputs = Inputs.allocate(backend.contract, backend.buckets[-1])
        self.gate = threading.Event()
        """Set it to release one held run."""
        self.is_hanging = False
        """Whether it gives no answer until it is released, whatever the script states for other lanes."""
        self.is_lost = False
        self.closings = 0
        self.resident: FakeResident | None = None
        """The windows that its device keeps, if it keeps any."""
        self._contract = backend.contract
        self._script = backend.script
        self._random = random.Random(f"{backend.script.seed}:{name}")
        if (windows := backend.windows.get(device)) is not None:
            on_device = Inputs.allocate(backend.contract, backend.buckets[-1])
            self.resident = FakeResident(windows, self.inputs, on_device, self.run_inputs)

    def run(self, count: int) -> Float32:
        """Return `make_fake_forecast` of each window, unless the script states otherwise."""
        return self.run_inputs(self.inputs, count)

    def run_inputs(self, given: Inputs, count: int) -> Float32:
        """Run the first windows of any inputs, as `run` does."""
        script = self._script
        script.runs.append((self.name, count))
        inputs = {name: buffer.copy() for name, buffer in given.view_first(count).items()}
        script.on_run(self.name, inputs)
        self._wait_scripted(self.count_run_windows(count))
        self.check()
        if script.lost:
            raise LaneLostError(f"lane {self.name}: the fake device is gone")
        if script.errors:
            raise script.errors.popleft()
        windows = inputs["encoder_cont"]
        if any(script.poison(window) for window in windows):
            raise BatchFailedError(f"lane {self.name}: a poisoned window")
        forecasts = np.stack([make_fake_forecast(self._contract, window) for window in windows])
        for place, window in enumerate(windows):
            if script.not_finite(window):
                forecasts[place] = np.nan
        return forecasts

    def count_run_windows(self, count: int) -> int:
        """Return the number of windows that a batch of `count` runs: if lanes pad, the next larger bucket.

        Raises `BatchFailedError` if no bucket is large enough.
        """
        if not 1 <= count <= self.buckets[-1]:
            raise BatchFailedError(f"lane {self.name}: a batch of {count}, expected 1 to {self.buckets[-1]}")
        return self.buckets[bisect_left(self.buckets, count)] if self.pads else count

    def check(self) -> None:
        """Raise `LaneLostError` if the device was lost since the lane was made."""
        if self.is_lost:
            raise LaneLostError(f"lane {self.name}: device {self.device} is gone", device_gone=True)

    def describe(self) -> dict[str, Any]:
        """Return whether it pads, and what of the windows is on its device."""
        resident = {} if self.resident is None else {"resident": self.resident.describe()}
        return {"pads": self.pads, **resident}

    @property
    def is_closed(self) -> bool:
        """Whether it was closed."""
        return self.closings > 0

    def close(self) -> None:
        """Note that it was closed."""
        self.closings += 1
        if self.resident is not None:
            self.resident.close()

    def _wait_scripted(self, windows: int) -> None:
        script = self._script
        if script.hold or self.is_hanging:
            self.gate.wait()
            self.gate.clear()
            return
        seconds = script.latency_seconds(windows) + self._random.uniform(0.0, script.jitter_seconds)
        if seconds > 0:
            self.gate.wait(seconds)


def make_fake_forecast(contract: ModelContract, window: Float32) -> Float32:
    """Return the fake's forecast of one window, `(horizon, targets, quantiles)`.

    The median is the last value of the target that is not missing (0 if all are), plus 0.001 for each step of the
    horizon; quantile q is q - 0.5 away from it.
    """
    columns = [contract.feature_index[target] for target in contract.targets]
    last = np.zeros(len(columns), np.float32)
    for place, column in enumerate(columns):
        known = window[:, column][~np.isnan(window[:, column])]
        last[place] = known[-1] if len(known) else 0.0
    steps = 0.001 * np.arange(1, contract.horizon + 1, dtype=np.float32)
    spread = np.asarray(contract.quantiles, np.float32) - 0.5
    forecast: Float32 = last[None, :, None] + steps[:, None, None] + spread[None, None, :]
    return forecast
