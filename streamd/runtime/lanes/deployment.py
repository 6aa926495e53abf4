"""One engine version's lanes in a pipeline: which are there, which are idle, and what a batch costs on them.

Several stand beside each other while versions change: one serves, others finish, or wait to serve again.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from streamd.core.errors import LaneLostError
from streamd.core.scheduling.costs import CostTable
from streamd.runtime.lanes.worker import LaneWorker


@dataclass(frozen=True, slots=True)
class Model:
    """A version: its name, under which what its lanes make is posted, and its servers' ids in training."""

    name: bytes
    server_ids: dict[str, int]

    @property
    def text(self) -> str:
        """The name as the wire has it."""
        return self.name.decode()


class Deployment:
    """The lanes of one version; the pipeline puts batches on them while it serves."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.workers: list[LaneWorker] = []
        self.idle: deque[LaneWorker] = deque()
        """The longest idle first: round robin."""
        self.costs: CostTable | None = None
        self.lost: deque[str] = deque(maxlen=32)
        """The last lanes that were taken out, with the reason."""
        self.on_lost: Callable[[LaneWorker, LaneLostError], None] = lambda worker, error: None
        self.retired = False
        """It will never serve again: whatever comes back leaves."""
        self._emptied = asyncio.Event()

    def remove(self, worker: LaneWorker) -> None:
        """Take out a lane that is idle, or whose batch was taken from it."""
        self.workers.remove(worker)
        if worker in self.idle:
            self.idle.remove(worker)
        if not self.workers:
            self._emptied.set()

    async def emptied(self) -> None:
        """Wait until no lane is left."""
        while self.workers:
            self._emptied.clear()
            await self._emptied.wait()

    def __repr__(self) -> str:
        return f"Deployment({self.model.text}, lanes={len(self.workers)}, idle={len(self.idle)})"


@dataclass
class ClosingLanes:
    """Lanes' threads over all deployments of a process: those that run, and those that were taken out and may yet."""

    running: set[LaneWorker] = field(default_factory=set)
    """Every lane whose thread may not have ended, also one that still warms and belongs to no pipeline."""
    leaving: set[LaneWorker] = field(default_factory=set)
    """Their threads may not have ended yet."""
    gone: set[str] = field(default_factory=set)
    """Devices that must be rid of all their lanes first: what these share goes with the last of them."""

    def enter(self, worker: LaneWorker) -> None:
        """Note a lane whose thread has begun."""
        self.forget_ended()
        self.running.add(worker)

    def remember(self, worker: LaneWorker) -> None:
        """Note a lane that is to end."""
        self.forget_ended()
        self.leaving.add(worker)

    def forget_ended(self) -> None:
        """Forget the lanes whose threads have ended, and with them their buffers."""
        for workers in (self.running, self.leaving):
            workers -= {each for each in workers if each.ended}

    def holding(self, device: str) -> list[str]:
        """The names of the lanes that have not let go of a device."""
        return sorted(each.lane.name for each in self.leaving if each.lane.device == device and not each.ended)
