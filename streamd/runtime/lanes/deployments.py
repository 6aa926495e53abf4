"""The deployments of a pipeline: which serves, which finish, and to which of them each lane belongs.

Changing what serves is here; what runs on it is the pipeline's own affair.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from streamd.core.errors import LaneLostError
from streamd.core.scheduling.costs import CostTable
from streamd.runtime.lanes.deployment import ClosingLanes, Deployment
from streamd.runtime.lanes.worker import LaneResult, LaneWorker


class Deployments(ABC):
    """One that serves, and others beside it."""

    def __init__(self, serving: Deployment, closing_lanes: ClosingLanes) -> None:
        self.serving = serving
        """Where new batches go."""
        self.closing_lanes = closing_lanes
        self._homes: dict[LaneWorker, Deployment] = {}  # of every lane that is not taken out

    @abstractmethod
    def kick(self) -> None:
        """Look for work at the loop's next turn."""

    @abstractmethod
    def take_result(self, worker: LaneWorker, result: LaneResult) -> None:
        """Take a batch back from its lane."""

    def open_lanes(self, workers: Sequence[LaneWorker], costs: CostTable, deployment: Deployment | None = None) -> None:
        """Put warm lanes to work, with what their batches cost; those of another deployment once it serves."""
        deployment = deployment or self.serving
        deployment.costs = costs
        deployment.workers.extend(workers)
        deployment.idle.extend(workers)
        self._homes.update(dict.fromkeys(workers, deployment))
        self.kick()

    def switch(self, deployment: Deployment) -> Deployment:
        """Let another deployment serve from the next batch on; returns the one that did.

        What is under way on the former one's lanes is finished and posted under its name.
        """
        former, self.serving = self.serving, deployment
        self.kick()
        return former

    def retire(self, deployment: Deployment) -> None:
        """Let the lanes of a deployment that does not serve end: idle ones now, busy ones with what they run."""
        assert deployment is not self.serving, f"{deployment} serves"
        deployment.retired = True
        for worker in list(deployment.workers):
            worker.stop()
            if worker.running is None:
                self._leave(worker)

    def hand_over(self, deployment: Deployment, other: "Deployments") -> None:
        """Give a deployment, none of whose lanes runs anything, to another pipeline."""
        for worker in deployment.workers:
            del self._homes[worker]
            other._homes[worker] = deployment
            worker.report_to(other.take_result)

    @property
    def workers(self) -> list[LaneWorker]:
        """The lanes that serve."""
        return self.serving.workers

    @property
    def lost(self) -> Sequence[str]:
        """The last lanes of the deployment that serves that were taken out, with the reason."""
        return self.serving.lost

    @property
    def all_workers(self) -> list[LaneWorker]:
        """Every lane that is not taken out, whether or not it serves."""
        return list(self._homes)

    @property
    def ready(self) -> bool:
        """Whether a lane is there to run a batch."""
        return bool(self.serving.workers)

    @property
    def opened(self) -> bool:
        """Whether lanes were ever put to work: without one left it is not starting, it has lost them."""
        return self.serving.costs is not None

    def _leave(self, worker: LaneWorker) -> None:
        self._homes.pop(worker).remove(worker)
        self.closing_lanes.remember(worker)

    def _going(self, worker: LaneWorker, error: LaneLostError) -> list[LaneWorker]:
        """The lanes that are lost with this one: where its device is gone, all of it; none if it left already."""
        if worker not in self._homes:
            return []
        device = worker.lane.device if error.device_gone else None
        return [each for each in self._homes if each is worker or each.lane.device == device]
