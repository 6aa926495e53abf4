"""One version's lanes in a pipeline: what made them, what a batch costs on them, and what may run there.

Several deployments stand beside each other while versions change: one serves, others stay warm or finish.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Protocol

from streamd.core.accuracy.scores import TrainingScores
from streamd.core.errors import LaneLostError
from streamd.core.scheduling.costs import CostTable
from streamd.core.scheduling.lane_health import LaneLimits
from streamd.inference.lane import Backend
from streamd.inference.opening import OpenBackend, SkippedBackend
from streamd.runtime.lanes.worker import LaneWorker


class DeploymentState(Enum):
    """What a deployment may do. It starts in LOADING, and CLOSED is final."""

    LOADING = "loading"
    """Its lanes are being opened and warmed."""
    WARM = "warm"
    """Its lanes could serve at once; no new batch goes to them."""
    SERVING = "serving"
    """New batches go to it."""
    RETIRING = "retiring"
    """It finishes what runs, and each lane ends when it is idle."""
    CLOSED = "closed"
    """Its lanes have ended, or end with the process, and its files may be deleted."""


TRANSITIONS: Mapping[DeploymentState, frozenset[DeploymentState]] = {
    DeploymentState.LOADING: frozenset({DeploymentState.WARM, DeploymentState.CLOSED}),
    DeploymentState.WARM: frozenset({DeploymentState.SERVING, DeploymentState.RETIRING, DeploymentState.CLOSED}),
    DeploymentState.SERVING: frozenset({DeploymentState.WARM, DeploymentState.RETIRING, DeploymentState.CLOSED}),
    DeploymentState.RETIRING: frozenset({DeploymentState.CLOSED}),
    DeploymentState.CLOSED: frozenset(),
}
"""The states that may follow each state. CLOSED may follow any: the process can end at any time."""


def _keep_nothing() -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class DeploymentSpec:
    """All that is needed to deploy a version; it never changes."""

    name: str
    """What forecasts call their model: a version's name, or `ensemble(a,b)`."""
    open_backend: OpenBackend
    """Opens the lanes."""
    server_ids: dict[str, int] = field(default_factory=dict)
    """The servers' ids in training; a server that is not in it has id 0."""
    release: Callable[[], None] = _keep_nothing
    """Called once when the deployment is closed: the version's files may be deleted from then on."""
    max_batch: int = 256
    """The most windows in a batch."""
    warmup_seconds: float = 10.0
    """The time that warming and measuring may take."""
    lane_limits: LaneLimits = field(default_factory=LaneLimits)
    lane_settings: tuple[object, ...] = ()
    """The settings by which the lanes are opened: the same version under other settings is loaded anew."""
    versions: tuple[object, ...] = ()
    """The versions as they were checked, for whoever made the spec; nothing here looks at them."""
    architecture: str = ""
    training: TrainingScores | None = None
    """What drift is measured against; `None` where the version does not record it."""

    @cached_property
    def model(self) -> bytes:
        """The name as the forecast board stores it."""
        return self.name.encode()


class Supervisor(Protocol):
    """Who looks after a deployment's lanes."""

    fallbacks: list[SkippedBackend]
    """What was tried and passed over."""

    def lane_lost(self, worker: LaneWorker, error: LaneLostError) -> None:
        """Learn that a lane was taken out of the deployment."""
        ...


class Deployment:
    """The lanes of one version, and the state that says whether batches go to them."""

    def __init__(self, spec: DeploymentSpec) -> None:
        self.spec = spec
        self.workers: list[LaneWorker] = []
        self.idle: deque[LaneWorker] = deque()
        """The longest idle first, which makes the choice round robin."""
        self.backend: Backend | None = None
        """The backend of the lanes; `None` until one was opened."""
        self.costs: CostTable | None = None
        """What a batch costs on them; `None` until they were measured."""
        self.lost: deque[str] = deque(maxlen=32)
        """The last lanes that were lost, with the reason."""
        self.supervisor: Supervisor | None = None
        """Who looks after the lanes, from its construction on; `None` where lanes were opened without one."""
        self._state = DeploymentState.LOADING
        self._emptied = asyncio.Event()

    @property
    def name(self) -> str:
        """What forecasts call their model."""
        return self.spec.name

    @property
    def state(self) -> DeploymentState:
        """What it may do at this moment."""
        return self._state

    def enter(self, following: DeploymentState) -> None:
        """Enter a state; raises `ValueError` where it may not follow the present one."""
        if following not in TRANSITIONS[self._state]:
            raise ValueError(f"{self.name} is {self._state.value}, it can't become {following.value}")
        self._state = following

    @property
    def is_retiring(self) -> bool:
        """Whether it will never serve again."""
        return self._state in (DeploymentState.RETIRING, DeploymentState.CLOSED)

    def remove(self, worker: LaneWorker) -> None:
        """Remove a lane that is idle, or whose batch was taken from it."""
        self.workers.remove(worker)
        if worker in self.idle:
            self.idle.remove(worker)
        if not self.workers:
            self._emptied.set()

    async def wait_empty(self) -> None:
        """Wait until no lane is left."""
        while self.workers:
            self._emptied.clear()
            await self._emptied.wait()

    def __repr__(self) -> str:
        return f"Deployment({self.name}, {self._state.value}, lanes={len(self.workers)}, idle={len(self.idle)})"
