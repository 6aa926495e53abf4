"""A candidate: a version that forecasts a share of the servers, or makes forecasts that are only scored (a shadow).

It has its own lanes, queue and counts, over the same windows. If it fails, its servers are forecast by the version that
serves. Runs on the event loop.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog

from streamd.core.arrays import Float32, Numbers, Slots
from streamd.core.scheduling.batch_reasons import BatchReason
from streamd.core.scheduling.batches import ServerItem
from streamd.core.scheduling.canary import CanaryAssignment
from streamd.core.scheduling.scheduler import Scheduler
from streamd.runtime.lanes.deployment import Deployment, DeploymentSpec
from streamd.runtime.lanes.pipeline import Pipeline
from streamd.runtime.lanes.pipeline_interfaces import BatchDone
from streamd.runtime.lanes.sinks import CanarySink, ForecastPosted, ResultSink, ShadowSink
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

    def route_due_many(self, slots: Slots) -> Slots:
        """Queue those of distinct servers at a canary that belong there; returns the others."""
        return slots if self.candidate is None else self.candidate.route_due_many(slots)

    def forecasts_posted(self, slots: Slots, steps: Numbers, model: bytes, forecasts: Float32) -> None:
        """Let a shadow forecast servers after the version that serves, whose forecasts are sampled first."""
        if self.candidate is not None:
            self.candidate.shadow_due(slots)

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
        board: ResultSink,
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
        self._choices = np.full(state.directory.capacity, _UNKNOWN, np.uint8)  # by slot
        self._shadow_sink = ShadowSink(state.directory.capacity, scores, self) if shadow else None
        limits = main.scheduler
        self.scheduler = Scheduler(
            state.snapshot_many,
            state.board.get_steps if self._shadow_sink is None else self._shadow_sink.read_last_steps,
            capacity=state.directory.capacity,
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

    def route_due_many(self, slots: Slots) -> Slots:
        """Queue those of distinct due servers here that this forecasts, if it is a canary; returns the others."""
        if self.assignment.shadow or not self.pipeline.is_ready:
            return slots
        is_included = self._find_included(slots)
        self.pipeline.enqueue_many(slots[is_included])
        return slots[~is_included]

    def shadow_due(self, slots: Slots) -> None:
        """Queue distinct servers that the version that serves has forecast, if this is a shadow and forecasts them."""
        if self.assignment.shadow and self.pipeline.is_ready:
            self.pipeline.enqueue_many(slots[self._find_included(slots)])

    def forget(self, slot: int) -> None:
        """Drop a slot that gets another server."""
        self._choices[slot] = _UNKNOWN
        if self._shadow_sink is not None:
            self._shadow_sink.forget(slot)
        self.pipeline.forget(slot)

    def _takes(self, slot: int) -> bool:
        """Whether the candidate forecasts a server and has a lane to do so."""
        return self.pipeline.is_ready and self._decide(slot) == _INCLUDED

    def _find_included(self, slots: Slots) -> npt.NDArray[np.bool_]:
        """Return which servers belong to the candidate, `(n,)`."""
        choices = self._choices[slots]
        for slot in slots[choices == _UNKNOWN].tolist():
            self._decide(slot)
        is_included: npt.NDArray[np.bool_] = self._choices[slots] == _INCLUDED
        return is_included

    def _decide(self, slot: int) -> int:
        if self._choices[slot] == _UNKNOWN:
            is_included = self.assignment.includes(self._state.directory.names[slot] or "")
            self._choices[slot] = _INCLUDED if is_included else _EXCLUDED
        return int(self._choices[slot])

    # ------------------------------------------------------------ called by the sinks
    def return_failed(self, item: ServerItem) -> None:
        """Return a row that failed here to the version that serves, as if it had never been due here."""
        if self._state.directory.get_generation(item.slot) == item.generation:
            self.scheduler.withdraw_failed()
            self._return_slots([item.slot])

    def return_waiting(self) -> None:
        """Return all waiting rows to the version that serves; a shadow drops them."""
        self._return_slots(self.scheduler.withdraw_all().tolist())

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
    def batch_done(
        self, windows: int, queue_delay_seconds: float, inference_seconds: float, reason: BatchReason
    ) -> None:
        pass
