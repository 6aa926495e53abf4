"""A version on trial beside the one that serves: on a share of the servers, or on a copy of them that nobody gets.

It has lanes, a queue and counts of its own, over the same windows. If anything goes wrong there, the servers it was
given are forecast by the pipeline that serves.
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
from streamd.runtime.versions.manager import DeploymentManager, MakeSupervisor

log = structlog.get_logger(__name__)

_UNKNOWN, _TAKEN, _LEFT = 0, 1, 2


class CandidateRouter:
    """Routes due servers between the pipeline that serves and a candidate, if there is one."""

    def __init__(self) -> None:
        self.candidate: Candidate | None = None
        """The candidate that gets its servers at this moment."""

    def route_due(self, slot: int, rows: int) -> bool:
        """Queue a due server at a canary if it belongs there; returns whether it did."""
        return self.candidate is not None and self.candidate.route_due(slot, rows)

    def forecast_posted(self, slot: int, step: int, model: bytes, forecast: Float32) -> None:
        """Let a shadow forecast a server after the version that serves, which goes first and opens the comparison."""
        if self.candidate is not None:
            self.candidate.shadow_due(slot)

    def forget(self, slot: int) -> None:
        """Drop a slot that changes hands."""
        if self.candidate is not None:
            self.candidate.forget(slot)


class Candidate:
    """A version on trial, from `load` to `end`.

    `share` is of the servers; which ones follows from the candidate's name, so that the same ones stay.
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
        """The loaded version; `None` before `load`, and after it was ended or handed over."""
        self._state = state
        self._main = main
        self._router = router
        self._places = bytearray(state.directory.capacity)
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
        )
        self._manager = DeploymentManager(self.pipeline, keep_warm_seconds=0.0, make_supervisor=make_supervisor)

    @property
    def name(self) -> str:
        """What its forecasts call their model."""
        return self.spec.name

    async def load(self) -> Deployment:
        """Load and warm it; `begin` or `end` is next.

        Raises `BackendUnavailableError`, and then nothing is left of it.
        """
        deployment = self.deployment = await self._manager.load(self.spec)
        self._manager.switch(deployment)
        return deployment

    def begin(self) -> None:
        """Give it its servers from now on."""
        self._router.candidate = self

    def leave(self) -> None:
        """Give its servers, and what waits of them, back to the version that serves."""
        if self._router.candidate is self:
            self._router.candidate = None
        self.take_waiting()

    async def end(self) -> None:
        """Give its servers back, finish what runs, and retire the version; a second call does nothing."""
        self.leave()
        deployment, self.deployment = self.deployment, None
        if deployment is not None:
            self._manager.switch_off()
            await self._manager.wait_retired()

    async def hand_over(self, manager: DeploymentManager) -> Deployment | None:
        """Give its servers back, finish what runs, and give the version to the manager of the one that serves.

        Returns `None` where it lost its lanes: then it is still to be ended.
        """
        self.leave()
        deployment = self.deployment
        await self.pipeline.wait_idle()
        if deployment is None or not self.pipeline.ready:
            return None
        self.deployment = None
        self._manager.transfer(deployment, manager)
        return deployment

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits or runs whose forecasts somebody gets."""
        return self.assignment.shadow or self.pipeline.is_idle

    @property
    def unfinished(self) -> int:
        """Windows that wait or run and whose forecasts somebody gets."""
        return 0 if self.assignment.shadow else self.pipeline.unfinished

    async def wait_idle(self) -> None:
        """Wait until nothing waits or runs whose forecasts somebody gets."""
        if not self.assignment.shadow:
            await self.pipeline.wait_idle()

    def close(self) -> None:
        """Stop watching; the lanes are stopped, and their threads end by themselves."""
        self.leave()
        self._manager.close()
        self.pipeline.stop()

    # ------------------------------------------------------------ what the router asks
    def route_due(self, slot: int, rows: int) -> bool:
        """Queue a due server here if it is one of a canary's; returns whether it is."""
        if self.assignment.shadow or not self._has(slot):
            return False
        self.pipeline.enqueue(slot, rows)
        return True

    def shadow_due(self, slot: int) -> None:
        """Queue a server that the version that serves has forecast, if it is one of a shadow's."""
        if self.assignment.shadow and self._has(slot):
            self.pipeline.enqueue(slot, 1)

    def forget(self, slot: int) -> None:
        """Drop a slot that changes hands."""
        self._places[slot] = _UNKNOWN
        if self._shadow_sink is not None:
            self._shadow_sink.forget(slot)
        self.pipeline.forget(slot)

    def _has(self, slot: int) -> bool:
        """Whether a server is one of the candidate's, and a lane is there to run it."""
        if not self.pipeline.ready:
            return False
        place = self._places[slot]
        if place == _UNKNOWN:
            ours = self.assignment.includes(self._state.directory.names[slot] or "")
            place = self._places[slot] = _TAKEN if ours else _LEFT
        return place == _TAKEN

    # ------------------------------------------------------------ what the sinks ask
    def take_failed(self, item: ServerItem) -> None:
        """Give a row that failed here to the version that serves, as if it had never been due here."""
        if self._state.directory.generations[item.slot] == item.generation:
            self.scheduler.withdraw_failed()
            self._return([item.slot])

    def take_waiting(self) -> None:
        """Give what waits to the version that serves; a shadow drops it."""
        self._return(self.scheduler.withdraw_all())

    def _return(self, slots: Sequence[int]) -> None:
        if not self.assignment.shadow:
            for slot in slots:
                self._main.enqueue(slot, 1)

    # ------------------------------------------------------------ status
    def status(self) -> dict[str, Any]:
        """Return what `/v1/status` shows of it."""
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
        """Return what became of the rows that were due here and nowhere else: of a shadow, which is a copy, none."""
        return {} if self.assignment.shadow else self.scheduler.row_counts()


class _Unobserved:
    def batch_done(self, windows: int, queue_delay_seconds: float, inference_seconds: float) -> None:
        pass
