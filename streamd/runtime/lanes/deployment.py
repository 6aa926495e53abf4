"""One version's lanes in a pipeline: their spec, their costs, and the state of the deployment.

While versions change there are several deployments: one serves, others are warm or retire. Nothing here waits for a
lane's thread.
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
from streamd.runtime.lanes.server_numbers import ServerNumbers
from streamd.runtime.lanes.worker import LaneWorker


class DeploymentState(Enum):
    """The states of a deployment. LOADING is the first, and CLOSED is final."""

    LOADING = "loading"
    """Its lanes are being opened and warmed."""
    WARM = "warm"
    """Its lanes could serve at once, but get no new batch."""
    SERVING = "serving"
    """It gets new batches."""
    RETIRING = "retiring"
    """It finishes its batches, and each lane ends when it is idle."""
    CLOSED = "closed"
    """Its lanes have ended, or end with the process, and its files may be deleted."""


TRANSITIONS: Mapping[DeploymentState, frozenset[DeploymentState]] = {
    DeploymentState.LOADING: frozenset({DeploymentState.WARM, DeploymentState.CLOSED}),
    DeploymentState.WARM: frozenset({DeploymentState.SERVING, DeploymentState.RETIRING, DeploymentState.CLOSED}),
    DeploymentState.SERVING: frozenset({DeploymentState.WARM, DeploymentState.RETIRING, DeploymentState.CLOSED}),
    DeploymentState.RETIRING: frozenset({DeploymentState.CLOSED}),
    DeploymentState.CLOSED: frozenset(),
}
"""The states that may follow each state. CLOSED may follow any other, because the process can end at any time."""


def _release_nothing() -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class DeploymentSpec:
    """Everything that is needed to deploy a version. Immutable."""

    name: str
    """The name of the model on its forecasts: a version's name, or `ensemble(a,b)`."""
    open_backend: OpenBackend
    """Opens the lanes."""
    server_ids: dict[str, int] = field(default_factory=dict)
    """The servers' ids in training; a server that is not in it has id 0."""
    release: Callable[[], None] = _release_nothing
    """Called once when the deployment is closed: the version's files may be deleted from then on."""
    max_batch: int = 256
    """The most windows in a batch."""
    warmup_seconds: float = 10.0
    """The time that warming and measuring may take."""
    lane_limits: LaneLimits = field(default_factory=LaneLimits)
    lane_settings: tuple[object, ...] = ()
    """The settings that the lanes are opened with: the same version with other settings is loaded again."""
    versions: tuple[object, ...] = ()
    """The versions as they were checked. Only the maker of the spec reads them."""
    architecture: str = ""
    memory_length: int = 0
    """The periods that the version remembers; 0 if it asks for no memory."""
    training: TrainingScores | None = None
    """The scores that drift is measured against; `None` if the version does not record them."""

    @cached_property
    def model(self) -> bytes:
        """The name as the forecast board stores it."""
        return self.name.encode()


class Supervisor(Protocol):
    """The part of a `LaneSupervisor` that the pipeline and the status use."""

    fallbacks: list[SkippedBackend]
    """The backends that were tried and skipped."""

    def lane_lost(self, worker: LaneWorker, error: LaneLostError) -> None:
        """Handle the removal of a lane from the deployment."""
        ...


class Deployment:
    """The lanes of one version, and their state."""

    def __init__(self, spec: DeploymentSpec) -> None:
        self.spec = spec
        self.workers: list[LaneWorker] = []
        self.idle: deque[LaneWorker] = deque()
        """The idle lanes, the longest idle first, so that lanes are used in turn."""
        self.backend: Backend | None = None
        """The backend of the lanes; `None` until one was opened."""
        self.costs: CostTable | None = None
        """The costs of batches on the lanes; `None` until they were measured."""
        self.lost: deque[str] = deque(maxlen=32)
        """The newest losses of lanes, with the reasons, as `/v1/status` shows them."""
        self.supervisor: Supervisor | None = None
        """The supervisor of the lanes, set by itself; `None` if the lanes were opened without one."""
        self.server_numbers: ServerNumbers | None = None
        """The servers' numbers for the network; `None` until the first batch."""
        self._state = DeploymentState.LOADING
        self._emptied = asyncio.Event()

    @property
    def name(self) -> str:
        """The name of the model on its forecasts."""
        return self.spec.name

    @property
    def state(self) -> DeploymentState:
        """The present state."""
        return self._state

    def enter(self, following: DeploymentState) -> None:
        """Enter a state; raises `ValueError` if it may not follow the present one."""
        if following not in TRANSITIONS[self._state]:
            raise ValueError(f"{self.name} is {self._state.value}, it can't become {following.value}")
        self._state = following

    @property
    def is_retiring(self) -> bool:
        """Whether it will never serve again."""
        return self._state in (DeploymentState.RETIRING, DeploymentState.CLOSED)

    def remove(self, worker: LaneWorker) -> None:
        """Remove a lane that runs no batch."""
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
