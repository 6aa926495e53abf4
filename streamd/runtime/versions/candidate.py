"""A version on trial beside the one that serves: on a share of the servers, or on a copy of them that nobody gets.

It has lanes, a line and counts of its own, over the same windows. Whatever goes wrong there, the servers it was given
are forecast by the pipeline that serves.
"""

from collections.abc import Callable, Sequence
from typing import Any

import structlog

from streamd.core.errors import InferenceError
from streamd.core.scheduling.canary import CanaryAssignment
from streamd.core.scheduling.scheduler import Item, Scheduler, ServerItem
from streamd.core.state.windows import NONE
from streamd.inference.lane import Float32
from streamd.runtime.lanes.deployment import Deployment, Model
from streamd.runtime.lanes.pipeline import Observer, Pipeline
from streamd.runtime.state.state import State
from streamd.runtime.versions.manager import Loaded, MakeKeeperOf, Reloader, Source

log = structlog.get_logger(__name__)

_UNKNOWN, _TAKEN, _LEFT = 0, 1, 2


class CandidatePipeline(Pipeline):
    """Hands back what it cannot forecast; as a shadow it posts nothing, and what it cannot forecast is gone."""

    def __init__(
        self,
        state: State,
        scheduler: Scheduler,
        model: Model,
        *,
        publish: Callable[[Sequence[int], float], None],
        more_comes: Callable[[], bool],
        observer: Observer,
        main: Pipeline,
        shadow: bool,
    ) -> None:
        super().__init__(
            state,
            scheduler,
            model,
            publish=publish,
            more_comes=more_comes,
            observer=observer,
            closing_lanes=main.closing_lanes,
            pauses=main.pauses,
        )
        self.shadow = shadow
        self.last_steps = [NONE] * state.directory.capacity
        """By slot: the step of the newest forecast that was made here."""
        self._main = main

    def hand_back(self) -> None:
        """Give what waits to the pipeline that serves."""
        self._return(self.scheduler.give_up())

    def _dispatch(self) -> None:
        super()._dispatch()
        if not self.ready:
            self.hand_back()
            self._tell_settled()

    def _post(self, item: ServerItem, forecast: Float32, model: Model) -> int:
        self.last_steps[item.slot] = item.step
        if not self.shadow:
            self._main.received[item.slot] = item.since
            return super()._post(item, forecast, model)
        self.on_posted(item.slot, item.step, model.name, forecast)
        return item.slot

    def _fail(self, item: Item, error: InferenceError) -> None:
        assert isinstance(item, ServerItem), "callers ask the version that serves"
        log.warning("candidate_failed", step=item.step, code=error.code, error=str(error))
        if not self.shadow and self._state.directory.generations[item.slot] == item.generation:
            self.scheduler.counts.failed -= 1
            self.scheduler.counts.due -= 1
            self._return([item.slot])

    def _return(self, slots: Sequence[int]) -> None:
        if not self.shadow:
            for slot in slots:
                self._main.run_soon(slot, 1)


class Candidate:
    """A version on trial, from `load` to `end`; `Pipeline.diversion` of the pipeline that serves.

    `share` is of the servers; which ones is the candidate's name's doing, so that the same ones stay.
    """

    def __init__(
        self,
        state: State,
        main: Pipeline,
        source: Source,
        make_keeper: MakeKeeperOf,
        *,
        share: float,
        shadow: bool,
        publish: Callable[[Sequence[int], float], None],
        observer: Observer,
    ) -> None:
        self.assignment = CanaryAssignment(source.name, share, shadow)
        self.source = source
        self.loaded: Loaded | None = None
        self._state = state
        self._main = main
        self._places = bytearray(state.directory.capacity)
        limits = main.scheduler
        self.scheduler = Scheduler(
            self._snapshot,
            self._posted,
            need=limits.need,
            max_queue_delay_seconds=limits.max_queue_delay_seconds,
            max_waiting_requests=0,
        )
        self.pipeline = CandidatePipeline(
            state,
            self.scheduler,
            source.model,
            publish=_publish_nothing if shadow else publish,
            more_comes=lambda: False,
            observer=_Unobserved() if shadow else observer,
            main=main,
            shadow=shadow,
        )
        self.pipeline.on_posted = main.on_posted
        self._reloader = Reloader(self.pipeline, make_keeper(self.pipeline), keep_warm_seconds=0.0)

    async def load(self) -> Loaded:
        """Load and warm it; `begin` or `end` is next.

        Raises `BackendUnavailableError`, and then nothing is left of it.
        """
        loaded = self.loaded = await self._reloader.load(self.source)
        self._reloader.switch(loaded)
        return loaded

    def begin(self) -> None:
        """Let it have its servers from now on."""
        self._main.diversion = self

    def leave(self) -> None:
        """Give its servers, and what waits of them, back to the version that serves."""
        if self._main.diversion is self:
            self._main.diversion = None
        self.pipeline.hand_back()

    async def end(self) -> None:
        """Give its servers back, finish what runs, and let go of the version; twice is harmless."""
        self.leave()
        loaded, self.loaded = self.loaded, None
        if loaded is not None:
            self._reloader.switch_off(Deployment(self.source.model))
            await self._reloader.retired()

    async def hand_over(self, reloader: Reloader) -> Loaded | None:
        """Give its servers back, finish what runs, and give the loaded version away; none where it lost its lanes."""
        self.leave()
        loaded = self.loaded
        await self.pipeline.settle()
        if loaded is None or not self.pipeline.ready:
            return None
        self.loaded = None
        self._reloader.give(loaded, reloader)
        return loaded

    async def settle(self) -> None:
        """Wait until nothing waits or runs whose forecasts somebody gets."""
        if not self.assignment.shadow:
            await self.pipeline.settle()

    @property
    def settled(self) -> bool:
        """Whether nothing waits or runs whose forecasts somebody gets."""
        return self.assignment.shadow or self.pipeline.settled

    @property
    def unfinished(self) -> int:
        """Windows that wait or run and whose forecasts somebody gets."""
        return 0 if self.assignment.shadow else self.pipeline.unfinished

    def close(self) -> None:
        """Stop watching; the lanes are stopped, and their threads end by themselves."""
        self.leave()
        self._reloader.close()
        self.pipeline.stop()

    # ------------------------------------------------------------ what the pipeline that serves asks
    def takes(self, slot: int, rows: int) -> bool:
        """Let a server that is due wait for its turn here and not there, if it is one of a canary's."""
        if self.assignment.shadow or not self._has(slot):
            return False
        self.pipeline.run_soon(slot, rows)
        return True

    def posted(self, slot: int) -> None:
        """Let a shadow forecast a server after the version that serves, which goes first and opens the comparison."""
        if self.assignment.shadow and self._has(slot):
            self.pipeline.run_soon(slot, 1)

    def forget(self, slot: int) -> None:
        """Drop a slot that changes hands."""
        self._places[slot] = _UNKNOWN
        self.pipeline.last_steps[slot] = NONE
        self.pipeline.forget(slot)

    def _has(self, slot: int) -> bool:
        """Whether a server is one of the candidate's, and a lane is there to run it."""
        if not self.pipeline.ready:
            return False
        place = self._places[slot]
        if place == _UNKNOWN:
            ours = self.assignment.runs(self._state.directory.names[slot] or "")
            place = self._places[slot] = _TAKEN if ours else _LEFT
        return place == _TAKEN

    def _snapshot(self, slot: int) -> tuple[int, int, int]:
        windows = self._state.windows
        return self._state.directory.generations[slot], windows.newest(slot), windows.have[slot]

    def _posted(self, slot: int) -> int:
        return self.pipeline.last_steps[slot] if self.assignment.shadow else self._state.board.step(slot)

    # ------------------------------------------------------------ telling
    def status(self) -> dict[str, Any]:
        """What `/v1/status` shows of it."""
        return {
            "version": self.source.name,
            "share": self.assignment.share,
            "shadow": self.assignment.shadow,
            "lanes": len(self.pipeline.workers),
            "lanes_lost": list(self.pipeline.lost),
            "due": len(self.scheduler.due),
            "in_flight": self.pipeline.in_flight,
            "rows": row_counts(self.scheduler),
        }

    def delivered_rows(self) -> dict[str, int]:
        """Of the rows that are due only once those that were due here: none of a shadow's, which is a copy."""
        return {} if self.assignment.shadow else row_counts(self.scheduler)


def row_counts(scheduler: Scheduler) -> dict[str, int]:
    """Where a scheduler's rows went since start: due = delivered + superseded + failed + forgotten + waiting."""
    counts = scheduler.counts
    return {
        "due": counts.due,
        "delivered": counts.delivered,
        "superseded": scheduler.superseded,
        "failed": counts.failed,
        "forgotten": counts.forgotten,
    }


class _Unobserved:
    def batch_done(self, windows: int, queue_delay_seconds: float, inference_seconds: float) -> None:
        pass


def _publish_nothing(slots: Sequence[int], now: float) -> None:
    pass
