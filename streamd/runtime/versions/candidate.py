"""A candidate: a version that forecasts a share of the servers, or makes forecasts that are only scored (a shadow).

It has its own lanes, queue and counts, over the same windows. If it fails, its servers are forecast by the version that
serves. Runs on the event loop.
"""

from collections.abc import Sequence
from typing import Any

import structlog

from streamd.core.arrays import Float32
from streamd.core.scheduling.canary import CanaryAssignment
from streamd.core.scheduling.scheduler import Scheduler, ServerItem
from streamd.runtime.lanes.deployment import Deployment, DeploymentSpec
from streamd.runtime.lanes.pipeline import BatchDone, Pipeline
from streamd.runtime.lanes.sinks import BoardSink, CanarySink, ForecastPosted, ShadowSink
from streamd.runtime.lanes.supervisor import LaneSupervisor
from streamd.runtime.state.state import State
from streamd.runtime.traces import NO_TRACES
from streamd.runtime.versions.manager import DeploymentManager, MakeSupervisor

log = structlog.get_logger(__name__)

_UNKNOWN, _INCLUDED, _EXCLUDED = 0, 1, 2


class CandidateRouter:
    """Routes due servers between the pipeline that serves and a candidate, if there is one."""

    def __init__(self) -> None:
        self.candidate: Candidate | None = None
        """The candidate that gets its servers at present."""

    def route_due(self, slot: int, rows: int) -> bool:
        """Queue a due server at a canary if it belongs there; returns whether it did."""
        return self.candidate is not None and self.candidate.route_due(slot, rows)

    def forecast_posted(self, slot: int, step: int, model: bytes, forecast: Float32) -> None:
        """Let a shadow forecast a server after the version that serves, whose forecast is sampled first."""
        if self.candidate is not None:
            self.candidate.shadow_due(slot)

    def forget(self, slot: int) -> None:
        """Drop a slot that gets another server."""
        if self.candidate is not None:
            self.candidate.forget(slot)


class Candidate:
    """A candidate version, from `load` to `end`.

    `share` is the share of the servers that it forecasts; the candidate's name determines which, so they stay the same.
    """

    def __init__(
        self,
        state: State,
        main: Pipeline,
        router: CandidateRouter,
        spec: DeploymentSpec,
        *,
        share: float,
        shadow: bool,
        board: BoardSink,
        scores: Sequence[ForecastPosted],
        observer: BatchDone,
        make_supervisor: MakeSupervisor = LaneSupervisor,
    ) -> None:
        self.assignment = CanaryAssignment(spec.name, share, shadow)
        self.spec = spec
        self.deployment: Deployment | None = None
        """The loaded version; `None` before `load`, and after `end` or `transfer`."""
        self._state = state
        self._main = main
        self._router = router
        self._choices = bytearray(state.directory.capacity)  # by slot
        self._shadow_sink = ShadowSink(state.directory.capacity, scores, self) if shadow else None
        limits = main.scheduler
        self.scheduler = Scheduler(
            state.snapshot,
            state.board.get_step if self._shadow_sink is None else self._shadow_sink.last_steps.__getitem__,
            need=limits.need,
            max_queue_delay_seconds=limits.max_queue_delay_seconds,
            max_waiting_requests=0,
        )
        self.pipeline = Pipeline(
            state,
            self.scheduler,
            self._shadow_sink or CanarySink(board, self),
            Deployment(spec),
            observer=_Unobserved() if shadow else observer,
            closing_lanes=main.lanes.closing,
            pauses=main.pauses,
            traces=NO_TRACES if shadow else main.traces,
        )
        self._manager = DeploymentManager(self.pipeline, keep_warm_seconds=0.0, make_supervisor=make_supervisor)

    @property
    def name(self) -> str:
        """The name of the model on its forecasts."""
        return self.spec.name

    async def load(self) -> Deployment:
        """Load and warm the version; `begin` or `end` is next.

        Raises `BackendUnavailableError`; then its lanes are closed and its files released.
        """
        deployment = self.deployment = await self._manager.load(self.spec)
        self._manager.switch(deployment)
        return deployment

    def begin(self) -> None:
        """Route the candidate's servers to it from now on."""
        self._router.candidate = self

    def return_servers(self) -> None:
        """Return the candidate's servers, and their waiting rows, to the version that serves."""
        if self._router.candidate is self:
            self._router.candidate = None
        self.return_waiting()

    async def end(self) -> None:
        """Return the servers, finish what runs, and retire the version. A second call is a no-op."""
        self.return_servers()
        deployment, self.deployment = self.deployment, None
        if deployment is not None:
            self._manager.switch_off()
            await self._manager.wait_retired()

    async def transfer(self, manager: DeploymentManager) -> Deployment | None:
        """Return the servers, finish what runs, and give the version to the manager of the main pipeline.

        Returns `None` if it has lost its lanes; then `end` is next.
        """
        self.return_servers()
        deployment = self.deployment
        await self.pipeline.wait_idle()
        if deployment is None or not self.pipeline.is_ready:
            return None
        self.deployment = None
        self._manager.transfer(deployment, manager)
        return deployment

    @property
    def is_idle(self) -> bool:
        """Whether no window waits or runs whose forecast is delivered; always true for a shadow."""
        return self.assignment.shadow or self.pipeline.is_idle

    @property
    def unfinished(self) -> int:
        """The number of windows that wait or run and whose forecasts are delivered; 0 for a shadow."""
        return 0 if self.assignment.shadow else self.pipeline.unfinished

    async def wait_idle(self) -> None:
        """Wait until `is_idle`."""
        if not self.assignment.shadow:
            await self.pipeline.wait_idle()

    def close(self) -> None:
        """Stop the supervisor and the lanes, without waiting for their threads."""
        self.return_servers()
        self._manager.close()
        self.pipeline.stop()

    # ------------------------------------------------------------ called by the router
    def route_due(self, slot: int, rows: int) -> bool:
        """Queue a due server here if this is a canary and forecasts it; returns whether it was queued."""
        if self.assignment.shadow or not self._takes(slot):
            return False
        self.pipeline.enqueue(slot, rows)
        return True

    def shadow_due(self, slot: int) -> None:
        """Queue a server that the version that serves has forecast, if this is a shadow and forecasts it too."""
        if self.assignment.shadow and self._takes(slot):
            self.pipeline.enqueue(slot, 1)

    def forget(self, slot: int) -> None:
        """Drop a slot that gets another server."""
        self._choices[slot] = _UNKNOWN
        if self._shadow_sink is not None:
            self._shadow_sink.forget(slot)
        self.pipeline.forget(slot)

    def _takes(self, slot: int) -> bool:
        """Whether the candidate forecasts a server and has a lane to do so."""
        if not self.pipeline.is_ready:
            return False
        choice = self._choices[slot]
        if choice == _UNKNOWN:
            is_included = self.assignment.includes(self._state.directory.names[slot] or "")
            choice = self._choices[slot] = _INCLUDED if is_included else _EXCLUDED
        return choice == _INCLUDED

    # ------------------------------------------------------------ called by the sinks
    def return_failed(self, item: ServerItem) -> None:
        """Return a row that failed here to the version that serves, as if it had never been due here."""
        if self._state.directory.generations[item.slot] == item.generation:
            self.scheduler.withdraw_failed()
            self._return_slots([item.slot])

    def return_waiting(self) -> None:
        """Return all waiting rows to the version that serves; a shadow drops them."""
        self._return_slots(self.scheduler.withdraw_all())

    def _return_slots(self, slots: Sequence[int]) -> None:
        if not self.assignment.shadow:
            for slot in slots:
                self._main.enqueue(slot, 1)

    # ------------------------------------------------------------ reports
    def describe(self) -> dict[str, Any]:
        """Return the entry `candidate` of `/v1/status`."""
        return {
            "version": self.name,
            "share": self.assignment.share,
            "shadow": self.assignment.shadow,
            "lanes": len(self.pipeline.workers),
            "lanes_lost": list(self.pipeline.serving.lost),
            "due": len(self.scheduler.due),
            "in_flight": self.pipeline.in_flight,
            "rows": self.scheduler.row_counts(),
        }

    def delivered_rows(self) -> dict[str, int]:
        """Return the rows that were due here only, by their end; empty for a shadow, whose rows are copies."""
        return {} if self.assignment.shadow else self.scheduler.row_counts()


class _Unobserved:
    def batch_done(self, windows: int, queue_delay_seconds: float, inference_seconds: float) -> None:
        pass
