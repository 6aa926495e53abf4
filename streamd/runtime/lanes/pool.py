"""The lanes of a pipeline by deployment, the deployment that serves, and the lanes that are closing.

Bookkeeping on the event loop: nothing here waits, and no batch runs here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from streamd.core.errors import LaneLostError
from streamd.core.scheduling.costs import CostTable
from streamd.runtime.lanes.deployment import Deployment, DeploymentState
from streamd.runtime.lanes.worker import Done, LaneWorker


@dataclass
class ClosingLanes:
    """The lanes' threads of all pipelines of a process: those that run, and those that are closing."""

    running: set[LaneWorker] = field(default_factory=set)
    """Every lane whose thread may not have ended, also one that is still warming and belongs to no pipeline."""
    workers: set[LaneWorker] = field(default_factory=set)
    """Lanes that were removed and may still hold their device."""
    lost_devices: set[str] = field(default_factory=set)
    """Devices that get no new lane until all their former lanes have ended, because the memory that the lanes of a
    device share is released with the last of them."""

    def enter(self, worker: LaneWorker) -> None:
        """Note a lane whose thread has begun."""
        self.discard_ended()
        self.running.add(worker)

    def add(self, worker: LaneWorker) -> None:
        """Note a lane that was stopped or removed."""
        self.discard_ended()
        self.workers.add(worker)

    def discard_ended(self) -> None:
        """Remove the lanes whose threads have ended, so that their buffers are freed."""
        for workers in (self.running, self.workers):
            workers -= {each for each in workers if each.has_ended}

    def find_names_on(self, device: str) -> list[str]:
        """Return the names of the lanes that still hold a device."""
        return sorted(each.lane.name for each in self.workers if each.lane.device == device and not each.has_ended)


class LanePool:
    """All lanes of a pipeline, by deployment; one deployment serves."""

    def __init__(self, serving: Deployment, closing: ClosingLanes) -> None:
        self.serving = serving
        """The deployment that gets new batches."""
        self.closing = closing
        self._owners: dict[LaneWorker, Deployment] = {}

    def add(self, deployment: Deployment, workers: Sequence[LaneWorker], costs: CostTable) -> None:
        """Add warm lanes to a deployment, with the costs of their batches."""
        deployment.costs = costs
        deployment.workers.extend(workers)
        deployment.idle.extend(workers)
        self._owners.update(dict.fromkeys(workers, deployment))
        if deployment.state is DeploymentState.LOADING:
            deployment.enter(DeploymentState.WARM)
        if deployment is self.serving and deployment.state is DeploymentState.WARM:
            deployment.enter(DeploymentState.SERVING)

    def switch(self, deployment: Deployment) -> Deployment:
        """Let a deployment serve; returns the former one, which is warm from now on."""
        former, self.serving = self.serving, deployment
        if former.state is DeploymentState.SERVING:
            former.enter(DeploymentState.WARM)
        if deployment.state is DeploymentState.WARM:
            deployment.enter(DeploymentState.SERVING)
        return former

    def retire(self, deployment: Deployment) -> None:
        """Stop the lanes of a deployment that does not serve: idle ones now, busy ones after their batch."""
        assert deployment is not self.serving, f"{deployment} serves"
        deployment.enter(DeploymentState.RETIRING)
        for worker in list(deployment.workers):
            worker.stop()
            if worker.running is None:
                self.remove(worker)

    def transfer(self, deployment: Deployment, other: "LanePool", done: Done) -> None:
        """Give a deployment whose lanes are all idle to another pool; `done` gets its results from now on."""
        for worker in deployment.workers:
            del self._owners[worker]
        other.adopt(deployment, done)

    def adopt(self, deployment: Deployment, done: Done) -> None:
        """Take a deployment from another pool, and let its lanes report to `done`."""
        for worker in deployment.workers:
            self._owners[worker] = deployment
            worker.report_to(done)

    def remove(self, worker: LaneWorker) -> None:
        """Remove a lane that runs nothing; the caller stops its thread, before or after."""
        self._owners.pop(worker).remove(worker)
        self.closing.add(worker)

    def find_owner(self, worker: LaneWorker) -> Deployment | None:
        """Return the deployment of a lane; `None` if the lane was removed."""
        return self._owners.get(worker)

    def find_lost_together(self, worker: LaneWorker, error: LaneLostError) -> list[LaneWorker]:
        """Return the lanes that are lost with this one, itself included: all of its device if that is lost."""
        if worker not in self._owners:
            return []  # it was removed before
        device = worker.lane.device if error.device_gone else None
        return [each for each in self._owners if each is worker or each.lane.device == device]

    def find_workers_on(self, device: str) -> list[LaneWorker]:
        """Return the lanes of a device."""
        return [each for each in self._owners if each.lane.device == device]

    @property
    def all_workers(self) -> list[LaneWorker]:
        """Every lane that was not removed, whether or not it serves."""
        return list(self._owners)

    @property
    def is_ready(self) -> bool:
        """Whether the deployment that serves has a lane."""
        return bool(self.serving.workers)

    @property
    def was_ever_ready(self) -> bool:
        """Whether the deployment that serves ever had lanes: if none is left, they were lost."""
        return self.serving.costs is not None
