"""Observes the lanes about once a second, and knows whether waiting work is stuck.

Reads the pipeline on the event loop; changes nothing. systemd's watchdog is fed by what it finds.
"""

import structlog

from streamd.core.scheduling.progress import LaneActivity, ProgressLimits, StallDetector
from streamd.runtime.lanes.deployment import Deployment
from streamd.runtime.lanes.pipeline import Pipeline
from streamd.runtime.state.state import State

log = structlog.get_logger(__name__)

SUPERVISION_FACTOR = 2.0
"""How many times the seconds after which a lane counts as hung may pass without any batch that ends."""


class ProgressWatch:
    """The progress of one pipeline's lanes, from one `observe` to the next."""

    def __init__(self, state: State, pipeline: Pipeline) -> None:
        self._state = state
        self._pipeline = pipeline
        self._clock = pipeline.pauses.clock
        self._detector = StallDetector(self._clock())

    @property
    def stall(self) -> str:
        """The reason why the work of the lanes is stuck, as of the last observation; empty while it is not."""
        return self._detector.reason

    def observe(self) -> None:
        """Observe the lanes; log when their work gets stuck and when it moves again."""
        was_stuck = bool(self.stall)
        detector, pauses = self._detector, self._pipeline.pauses
        limits = compute_progress_limits(self._pipeline.serving)
        paused = pauses.count_paused_seconds(detector.since)
        is_stuck = detector.observe(self._read_activity(), limits, self._clock(), paused)
        if is_stuck and not was_stuck:
            log.error("work_stuck", reason=detector.reason)
        elif was_stuck and not is_stuck:
            log.info("work_moves")

    def _read_activity(self) -> LaneActivity:
        pipeline = self._pipeline
        held_back = self._state.find_shortage() is not None  # the dispatch waits for space on the disk
        return LaneActivity(
            steps=pipeline.steps,
            pending=0 if held_back else pipeline.unfinished,
            lanes=len(pipeline.workers),
            hanging=sum(not worker.has_ended for worker in pipeline.lanes.closing.workers),
        )


def compute_progress_limits(deployment: Deployment) -> ProgressLimits:
    """Return the limits for a deployment: longer than its lanes' supervision takes to remove or to replace a lane."""
    spec, limits = deployment.spec, deployment.spec.lane_limits
    costs = deployment.costs
    longest = 0.0 if costs is None else costs.estimate_seconds(costs.max_batch)
    hang_seconds = limits.count_hang_seconds(longest)
    return ProgressLimits(
        batch_seconds=SUPERVISION_FACTOR * hang_seconds,
        replace_seconds=limits.max_rebuild_seconds + limits.make_timeout_seconds + spec.warmup_seconds + hang_seconds,
    )
