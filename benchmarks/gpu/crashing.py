"""Lanes that make an illegal access on request: wrappers, so that the daemon needs no hook for it."""

import time
from dataclasses import replace
from typing import Any

from streamd.core.arrays import Float32
from streamd.core.errors import LaneLostError
from streamd.inference.lane import Lane
from streamd.server import daemon as daemon_module
from streamd.server.version_control.specs import open_version


class Crash:
    """Makes the next batches write to an invalid address; without a device, it raises the error of such a write."""

    def __init__(self) -> None:
        self._left = 0
        self.at: float | None = None
        self.count = 0

    def arm(self, times: int = 1) -> None:
        """Make so many of the next batches crash."""
        self._left = times

    def run(self, lane: Any, count: int) -> Float32:
        """Run a batch; if armed, provoke the crash first."""
        if self._left > 0:
            self._left -= 1
            self.at = self.at or time.monotonic()
            self.count += 1
            self._provoke(lane)
        forecasts: Float32 = lane.run(count)
        return forecasts

    def _provoke(self, lane: Any) -> None:
        executor = getattr(lane, "_executor", None)
        if executor is None:
            raise LaneLostError(f"lane {lane.name}: provoked without a device", device_gone=True)
        from benchmarks.gpu.kernels import NOWHERE, Kernels

        lane.run(1)  # Makes the device current in this thread.
        Kernels().launch("crash", executor._stream, NOWHERE)


class CrashingLane:
    """A lane that crashes on request."""

    def __init__(self, lane: Any, crash: Crash) -> None:
        self._lane = lane
        self._crash = crash

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lane, name)

    def run(self, count: int) -> Float32:
        """Run a batch, as `Lane.run`."""
        return self._crash.run(self._lane, count)


class CrashingBackend:
    """A backend whose lanes crash on request."""

    def __init__(self, backend: Any, crash: Crash) -> None:
        self._backend = backend
        self._crash = crash

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def make_lane(self, index: int) -> CrashingLane:
        """Make a lane, as `Backend.make_lane`."""
        return CrashingLane(self._backend.make_lane(index), self._crash)


def crash_first_backend(crash: Crash) -> None:
    """Let the lanes of the first backend that a daemon of this process opens crash; those of the next ones work."""
    wrapped: set[str] = set()

    def opening(*arguments: Any, **more: Any) -> Any:
        opened = open_version(*arguments, **more)
        if not wrapped or opened.backend.name in wrapped:
            wrapped.add(opened.backend.name)
            lanes: list[Lane] = [CrashingLane(lane, crash) for lane in opened.lanes]
            return replace(opened, backend=CrashingBackend(opened.backend, crash), lanes=lanes)
        return opened

    vars(daemon_module)["open_version"] = opening
