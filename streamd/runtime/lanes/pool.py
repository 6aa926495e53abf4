"""The lanes of a pipeline by deployment, the deployment that serves, and the lanes that are closing."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from streamd.core.errors import LaneLostError
from streamd.core.scheduling.costs import CostTable
from streamd.runtime.lanes.deployment import Deployment, DeploymentState
from streamd.runtime.lanes.worker import Done, LaneWorker


@dataclass
class ClosingLanes:
    """The lanes' threads over all pipelines of a process: those that run, and those that are on their way out."""

    running: set[LaneWorker] = field(default_factory=set)
    """Every lane whose thread may not have ended, also one that still warms and belongs to no pipeline."""
    workers: set[LaneWorker] = field(default_factory=set)
    """Lanes that were taken out and may still hold their device."""
    lost_devices: set[str] = field(default_factory=set)
    """Devices that get no new lane before all their former lanes have ended: what these share goes with the last."""

    def enter(self, worker: LaneWorker) -> None:
        """Note a lane whose thread has begun."""
        self.discard_ended()
        self.running.add(worker)

    def add(self, worker: LaneWorker) -> None:
        """Note a lane that is to end."""
        self.discard_ended()
        self.workers.add(worker)

    def discard_ended(self) -> None:
        """Forget the lanes whose threads have ended, and with them their buffers."""
        for workers in (self.running, self.workers):
            workers -= {each for each in workers if each.ended}

    def find_names_on(self, device: str) -> list[str]:
        """Return the names of the lanes that still hold a device."""
        return sorted(each.lane.name for each in self.workers if each.lane.device == device and not each.ended)


class LanePool:
    """Every lane of a pipeline by its deployment; one deployment serves."""

    def __init__(self, serving: Deployment, closing: ClosingLanes) -> None:
        self.serving = serving
        """Where new batches go."""
        self.closing = closing
        self._owners: dict[LaneWorker, Deployment] = {}

    def add(self, deployment: Deployment, workers: Sequence[LaneWorker], costs: CostTable) -> None:
        """Add warm lanes to a deployment, with what their batches cost."""
        deployment.costs = costs
        deployment.workers.extend(workers)
        deployment.idle.extend(workers)
        self._owners.update(dict.fromkeys(workers, deployment))
        if deployment.state is DeploymentState.LOADING:
            deployment.enter(DeploymentState.WARM)
        if deployment is self.serving and deployment.state is DeploymentState.WARM:
            deployment.enter(DeploymentState.SERVING)

    def switch(self, deployment: Deployment) -> Deployment:
        """Let a deployment serve; returns the one that did, which is warm from now on."""
        former, self.serving = self.serving, deployment
        if former.state is DeploymentState.SERVING:
            former.enter(DeploymentState.WARM)
        if deployment.state is DeploymentState.WARM:
            deployment.enter(DeploymentState.SERVING)
        return former

    def retire(self, deployment: Deployment) -> None:
        """End the lanes of a deployment that does not serve: idle ones now, busy ones with what they run."""
        assert deployment is not self.serving, f"{deployment} serves"
        deployment.enter(DeploymentState.RETIRING)
        for worker in list(deployment.workers):
            worker.stop()
            if worker.running is None:
                self.remove(worker)

    def transfer(self, deployment: Deployment, other: "LanePool", done: Done) -> None:
        """Give a deployment, none of whose lanes runs anything, to another pool; results go to `done` from now on."""
        for worker in deployment.workers:
            del self._owners[worker]
            other._owners[worker] = deployment
            worker.report_to(done)

    def remove(self, worker: LaneWorker) -> None:
        """Remove a lane that runs nothing; its thread ends."""
        self._owners.pop(worker).remove(worker)
        self.closing.add(worker)

    def find_owner(self, worker: LaneWorker) -> Deployment | None:
        """Return the deployment of a lane; `None` if the lane was removed."""
        return self._owners.get(worker)

    def find_lost_together(self, worker: LaneWorker, error: LaneLostError) -> list[LaneWorker]:
        """Return the lanes that are lost with this one: all of its device if the device is gone."""
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
    def ready(self) -> bool:
        """Whether a lane is there to run a batch."""
        return bool(self.serving.workers)

    @property
    def was_ready(self) -> bool:
        """Whether lanes ever served: without one left the daemon is not starting, it has lost them."""
        return self.serving.costs is not None
