"""A supervisor over a chain of fake backends, on the pipeline of a `Rig`."""

import asyncio
import time
from collections.abc import Sequence

from streamd.core.errors import BackendUnavailableError, LaneLostError
from streamd.core.scheduling.lane_health import LaneLimits
from streamd.inference.fake import FakeBackend
from streamd.inference.opening import OpenedBackend, SkippedBackend, join_reasons
from streamd.runtime.lanes.deployment import Deployment
from streamd.runtime.lanes.supervisor import LaneSupervisor
from streamd.runtime.lanes.worker import LaneWorker
from tests.support.pipeline_rig import SERVER_IDS, Rig, make_fake_spec

CHAIN_LIMITS = LaneLimits(hang_seconds=60.0, rebuild_seconds=1.0, max_rebuilds=2)
LATER_SECONDS = 3_600.0
"""By then, everything that waits for its time is due."""


class BackendChain:
    """A chain of fake backends and the supervisor of their lanes; the rig's backend is the first."""

    def __init__(self, rig: Rig, *more: str, lanes: int = 2) -> None:
        self.backends = {"first": rig.backend, **{name: FakeBackend(rig.state.contract, (1, 8)) for name in more}}
        for name, backend in self.backends.items():
            backend.name = name
        self.lanes = lanes
        self.unavailable: dict[str, str] = {}
        self.changes: list[Deployment] = []
        self.lost_devices: list[str] = []
        spec = make_fake_spec("model_20260101_000000", self.open, server_ids=SERVER_IDS, limits=CHAIN_LIMITS)
        deployment = Deployment(spec)
        rig.pipeline.switch(deployment)
        self.supervisor = LaneSupervisor(rig.pipeline, deployment, self)

    def device_lost(self, deployment: Deployment, error: LaneLostError) -> None:
        self.lost_devices.append(str(error))

    def backend_changed(self, deployment: Deployment) -> None:
        self.changes.append(deployment)

    def open(self, exhausted: frozenset[str]) -> OpenedBackend:
        skipped: list[SkippedBackend] = []
        for name, backend in self.backends.items():
            if name in exhausted:
                continue
            if name in self.unavailable:
                skipped.append(SkippedBackend(name, self.unavailable[name]))
                continue
            return OpenedBackend(backend, [backend.make_lane(index) for index in range(self.lanes)], tuple(skipped))
        raise BackendUnavailableError(f"nothing left: {join_reasons(skipped)}")

    async def check_later(self, seconds: float = LATER_SECONDS) -> None:
        """Check the lanes as if so much time had passed, and wait until what is due by then is rebuilt."""
        self.supervisor.check_lanes(time.monotonic() + seconds)
        await self.supervisor.wait_rebuilt()


def has_lanes(rig: Rig) -> bool:
    """Whether a lane is there; a call, because a type checker takes a property for unchanged."""
    return rig.pipeline.is_ready


def find_lane_names(rig: Rig) -> list[str]:
    return sorted(worker.lane.name for worker in rig.pipeline.workers)


async def join_workers(workers: Sequence[LaneWorker]) -> None:
    for worker in workers:
        assert await asyncio.to_thread(worker.join, 60.0)
