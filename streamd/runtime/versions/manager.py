"""Changes the version that serves: a new one is loaded and warmed beside it, then gets all new batches.

A load that fails changes nothing. The previous version stays warm for a while, so that a rollback need not load it.
Runs on the event loop; does not choose versions.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

import structlog

from streamd.core.errors import LaneLostError
from streamd.runtime.background_tasks import BackgroundTasks
from streamd.runtime.lanes.deployment import Deployment, DeploymentSpec, DeploymentState
from streamd.runtime.lanes.pipeline import Pipeline
from streamd.runtime.lanes.supervisor import BackendChanged, LaneSupervisor

log = structlog.get_logger(__name__)


class MakeSupervisor(Protocol):
    """A factory for the supervisor of a deployment's lanes; tests use one that they step by hand."""

    def __call__(
        self, pipeline: Pipeline, deployment: Deployment, listener: BackendChanged, *, clock: Callable[[], float]
    ) -> LaneSupervisor:
        """Return a supervisor that has opened nothing yet."""
        ...


class ServingChanged(Protocol):
    """A listener for changes of what serves."""

    def serving_changed(self) -> None:
        """Handle that another version serves or is warm, or that the serving one runs on another backend."""
        ...

    def device_lost(self, reason: str) -> None:
        """Handle that a device of the version that serves is lost for this process."""
        ...


class DeploymentManager:
    """The deployments of one pipeline: at most one serves, at most one stays warm, others load or retire."""

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        keep_warm_seconds: float,
        listener: ServingChanged | None = None,
        make_supervisor: MakeSupervisor = LaneSupervisor,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.current: Deployment | None = None
        """The deployment that serves."""
        self.previous: Deployment | None = None
        """The deployment that served before and is still warm; `None` once its time is over."""
        self.keep_warm_seconds = keep_warm_seconds
        self._pipeline = pipeline
        self._listener = listener
        self._make_supervisor = make_supervisor
        self._clock = clock
        self._supervisors: dict[Deployment, LaneSupervisor] = {}
        self._retiring = BackgroundTasks()
        self._expiry: asyncio.TimerHandle | None = None

    async def load(self, spec: DeploymentSpec) -> Deployment:
        """Open and warm a version's lanes beside those that serve; `switch` or `discard` is next.

        Raises `BackendUnavailableError` with every reason; then its lanes are closed and its files released.
        """
        deployment = Deployment(spec)
        supervisor = self._make_supervisor(self._pipeline, deployment, self, clock=self._clock)
        try:
            await supervisor.open()
        except BaseException:
            supervisor.close()
            self._close(deployment)
            raise
        self._supervisors[deployment] = supervisor
        supervisor.watch()
        return deployment

    def switch(self, deployment: Deployment) -> None:
        """Let a loaded version serve from the next batch on. Nothing waits for it, and no batch is lost.

        The former version stays warm for `keep_warm_seconds`; the one before it retires.
        """
        if deployment is self.current:
            return
        former = self.current
        self._pipeline.switch(deployment)
        self.current = deployment
        if self.previous not in (None, deployment):
            self._expire()
        self.previous = former
        if former is not None:
            log.info("engine_switched", engine=deployment.name, before=former.name)
            self._keep_warm()
        self._notify()

    def claim(self, deployment: Deployment) -> bool:
        """Keep a loaded version until `switch` or `discard`; returns `False` if it has no lane to serve with."""
        if deployment is self.current:
            return True
        if not deployment.workers:
            return False
        if deployment is self.previous and self._expiry is not None:
            self._expiry.cancel()
        return True

    def discard(self, deployment: Deployment) -> None:
        """Retire a loaded version that will not serve; the previous version stays warm for its time."""
        if deployment is self.previous:
            self._keep_warm()
        elif deployment is not self.current:
            self._retiring.start(self._retire(deployment))

    def switch_off(self) -> None:
        """Retire the version that serves; none serves from now on."""
        former = self.current
        if former is not None:
            self._leave(former)
            self._retiring.start(self._retire(former))

    def transfer(self, deployment: Deployment, other: "DeploymentManager") -> None:
        """Give a loaded version whose lanes are all idle to another manager, whose `switch` is next."""
        if deployment is self.current:
            self._leave(deployment)
        other.adopt(deployment, self._supervisors.pop(deployment), self._pipeline)

    def adopt(self, deployment: Deployment, supervisor: LaneSupervisor, former: Pipeline) -> None:
        """Take a loaded version and its supervisor from the pipeline of another manager."""
        former.transfer(deployment, self._pipeline)
        supervisor.move(self._pipeline, self)
        self._supervisors[deployment] = supervisor

    def backend_changed(self, deployment: Deployment) -> None:
        """Notify the listener if the version that serves runs on another backend."""
        if deployment is self.current:
            self._notify()

    def device_lost(self, deployment: Deployment, error: LaneLostError) -> None:
        """Notify the listener if the version that serves has lost a device."""
        if deployment is self.current and self._listener is not None:
            self._listener.device_lost(str(error))

    def supervisor_of(self, deployment: Deployment) -> LaneSupervisor:
        """Return the supervisor of a deployment that is loaded or retiring."""
        return self._supervisors[deployment]

    @property
    def loaded(self) -> list[Deployment]:
        """The deployments that have lanes or are retiring."""
        return list(self._supervisors)

    async def wait_retired(self) -> None:
        """Wait until every retiring version is closed, and its lanes' threads have ended."""
        await self._retiring.wait()

    def close(self) -> None:
        """Stop the supervisors and release the files; the pipeline stops the lanes."""
        if self._expiry is not None:
            self._expiry.cancel()
        self._retiring.cancel()
        for deployment, supervisor in self._supervisors.items():
            supervisor.close()
            self._close(deployment)
        self._supervisors.clear()

    def _leave(self, deployment: Deployment) -> None:
        """Let the version that serves do so no more: a deployment without lanes takes its place."""
        self.current = None
        self._pipeline.switch(Deployment(deployment.spec))

    # ------------------------------------------------------------ retiring
    def _keep_warm(self) -> None:
        """Keep the previous version warm for `keep_warm_seconds` from now on."""
        if self._expiry is not None:
            self._expiry.cancel()
        if self.keep_warm_seconds > 0:
            self._expiry = asyncio.get_running_loop().call_later(self.keep_warm_seconds, self._expire)
        else:
            self._expire()

    def _expire(self) -> None:
        """Retire the previous version."""
        deployment, self.previous = self.previous, None
        if deployment is not None:
            self._retiring.start(self._retire(deployment))
            self._notify()

    async def _retire(self, deployment: Deployment) -> None:
        await self._supervisors[deployment].retire()
        del self._supervisors[deployment]
        self._close(deployment)
        log.info("engine_released", engine=deployment.name)

    def _close(self, deployment: Deployment) -> None:
        deployment.enter(DeploymentState.CLOSED)
        deployment.supervisor = None  # breaks the reference cycle, so that both are freed at once
        deployment.spec.release()

    def _notify(self) -> None:
        if self._listener is not None:
            self._listener.serving_changed()
