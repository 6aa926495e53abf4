"""Fake engine versions whose forecasts show which version made them."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from streamd.core.arrays import Float32
from streamd.core.contract import ModelContract
from streamd.core.errors import BackendUnavailableError
from streamd.core.scheduling.lane_health import LaneLimits
from streamd.inference.fake import FakeBackend, FakeLane, make_fake_forecast
from streamd.inference.lane import Lane
from streamd.inference.opening import OpenedBackend
from streamd.runtime.lanes.deployment import DeploymentSpec
from tests.support.pipeline_rig import make_fake_spec

OFFSETS = {f"model_2026010{day}_000000": float(4_096 * day) for day in (1, 2, 3)}
"""The number that each version adds to its forecasts (exact in float32 beside the values of tests)."""

VERSION_NAMES = tuple(OFFSETS)


def compute_version_forecast(contract: ModelContract, window: Float32, model: str) -> Float32:
    """Return a version's forecast of a window, `(targets, horizon, quantiles)`."""
    forecast: Float32 = (make_fake_forecast(contract, window) + np.float32(OFFSETS[model])).transpose(1, 0, 2)
    return forecast


class VersionLane(FakeLane):
    """A fake lane of one version."""

    offset = 0.0

    def run(self, count: int) -> Float32:
        forecasts: Float32 = super().run(count) + np.float32(self.offset)
        return forecasts


class VersionBackend(FakeBackend):
    """Makes the lanes of one version; its device may die after a lane was made and before it ran."""

    dies_before_run = False

    def __init__(self, contract: ModelContract, model: str, buckets: tuple[int, ...] = (1, 4, 8)) -> None:
        super().__init__(contract, buckets)
        self.model = model

    def make_lane(self, index: int) -> FakeLane:
        lane = super().make_lane(index)
        lane.__class__ = VersionLane
        assert isinstance(lane, VersionLane)
        lane.offset = OFFSETS[self.model]
        if self.dies_before_run:
            self.lose_device()
        return lane


@dataclass
class Versions:
    """Specs of versions, each on a backend of its own, and records of the lanes and releases."""

    contract: ModelContract
    limits: LaneLimits
    lanes: int = 2
    backends: list[VersionBackend] = field(default_factory=list)
    released: list[str] = field(default_factory=list)

    def make_spec(self, name: str, prepare: Callable[[VersionBackend], None] = lambda backend: None) -> DeploymentSpec:
        """Return a spec of a version; `prepare` may script its failure."""
        backend = VersionBackend(self.contract, name)
        prepare(backend)
        self.backends.append(backend)

        def open_backend(passed_over: frozenset[str]) -> OpenedBackend:
            if backend.name in passed_over:
                raise BackendUnavailableError("nothing left")
            lanes: list[Lane] = []
            with ExitStack() as made:
                for index in range(self.lanes):
                    lane = backend.make_lane(index)
                    made.callback(lane.close)
                    lanes.append(lane)
                made.pop_all()
            return OpenedBackend(backend, lanes)

        return make_fake_spec(name, open_backend, release=lambda: self.released.append(name), limits=self.limits)

    @property
    def live(self) -> list[FakeLane]:
        """The lanes that were made and not closed."""
        return [lane for backend in self.backends for lane in backend.lanes if not lane.is_closed]


def find_lane_threads() -> set[threading.Thread]:
    """Return the lanes' threads of this process."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("lane ")}


async def join_other_lanes(known: set[threading.Thread]) -> bool:
    """Wait for all lanes' threads but the known ones; returns whether they ended.

    A thread that has closed its lane needs a moment more to end.
    """
    others = find_lane_threads() - known
    for thread in others:
        await asyncio.to_thread(thread.join, 60.0)
    return not any(thread.is_alive() for thread in others)
