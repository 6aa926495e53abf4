"""Counts and times of the calls for inference that are followed, by the version that answered: what `/v2` shows.

A call is followed if its route asks for it; other calls, and the rows of servers, cost nothing here. Runs on the event
loop.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from streamd.core.scheduling.batches import RequestItem
from streamd.runtime.lanes.worker import LaneResult


@dataclass(slots=True)
class TimeSum:
    """The number of times that were taken, and the sum of their seconds."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Add one time; a negative one, of clocks that differ, counts as 0."""
        self.count += 1
        self.seconds += max(seconds, 0.0)


@dataclass(slots=True)
class ComputeSums:
    """The times until a lane began, in the lane, and after it."""

    inputs: TimeSum = field(default_factory=TimeSum)
    lane: TimeSum = field(default_factory=TimeSum)
    outputs: TimeSum = field(default_factory=TimeSum)


@dataclass(slots=True, kw_only=True)
class VersionStatistics:
    """The calls that one version has answered since the daemon started."""

    number: int
    """Versions are numbered from 1 on in the order in which they answered."""
    windows: int = 0
    """The windows of the calls that succeeded."""
    last_call: float = 0.0
    """When the call that ended last began (epoch seconds); 0 if there was none."""
    success: TimeSum = field(default_factory=TimeSum)
    fail: TimeSum = field(default_factory=TimeSum)
    queue: TimeSum = field(default_factory=TimeSum)
    """Of the calls that succeeded, as `compute` is."""
    compute: ComputeSums = field(default_factory=ComputeSums)
    batches: dict[int, ComputeSums] = field(default_factory=lambda: defaultdict(ComputeSums))
    """The micro-batches with windows of followed calls, by the number of all their windows."""

    @property
    def executions(self) -> int:
        """The number of these micro-batches."""
        return sum(each.lane.count for each in self.batches.values())


class BatchTimes(NamedTuple):
    """The moments at which a batch was taken for a lane, and the lane began and ended (monotonic seconds)."""

    taken: float
    began: float
    ended: float


class InferenceCall:
    """One call that is followed; if its windows were in several batches, its times are those of the last one.

    They leave no gap: the time of a call is the sum of its times in the queue and of computing.
    """

    __slots__ = ("_began", "_statistics", "batch", "queued")

    def __init__(self, statistics: "InferenceStatistics") -> None:
        self._statistics = statistics
        self._began: float | None = None
        self.queued = 0.0
        """When its windows were queued (monotonic seconds)."""
        self.batch = BatchTimes(0.0, 0.0, 0.0)

    def begin(self) -> None:
        """Note that the body of the call is there."""
        self._began = self._statistics.clock()

    def succeed(self, version: str, windows: int) -> None:
        """Count the call, whose answer is made; it began before."""
        assert self._began is not None, "a call without a body has no answer"
        now = self._statistics.clock()
        counts = self._statistics.get_version(version)
        counts.windows += windows
        counts.success.add(now - self._began)
        counts.queue.add(self.batch.taken - self.queued)
        counts.compute.inputs.add(self.queued - self._began + self.batch.began - self.batch.taken)
        counts.compute.lane.add(self.batch.ended - self.batch.began)
        counts.compute.outputs.add(now - self.batch.ended)
        counts.last_call = self._statistics.wall() - (now - self._began)

    def fail(self, version: str) -> None:
        """Count the call, which ended with an error; without a body it does not count."""
        if self._began is not None:
            seconds = self._statistics.clock() - self._began
            counts = self._statistics.get_version(version)
            counts.fail.add(seconds)
            counts.last_call = self._statistics.wall() - seconds


class InferenceStatistics:
    """The statistics of each version, and the calls that are followed. `clock` is that of the pipeline."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.wall = wall
        self._versions: dict[str, VersionStatistics] = {}
        self._followed: dict[object, InferenceCall] = {}

    def get_version(self, version: str) -> VersionStatistics:
        """Return the statistics of a version."""
        counts = self._versions.get(version)
        if counts is None:
            counts = self._versions[version] = VersionStatistics(number=len(self._versions) + 1)
        return counts

    @contextmanager
    def follow(self, request: object, call: InferenceCall, queued: float) -> Iterator[None]:
        """Note the batches of a request that was queued at `queued` (monotonic seconds) for its call."""
        call.queued = queued
        self._followed[request] = call
        try:
            yield
        finally:
            del self._followed[request]

    def batch_answered(
        self, answers: Sequence[tuple[int, RequestItem]], result: LaneResult, version: str, now: float
    ) -> None:
        """Note a batch whose callers were answered at `now`, if windows of calls that are followed were in it."""
        if not self._followed:
            return
        requests = {item.request for _, item in answers}
        calls = [self._followed[request] for request in requests if request in self._followed]
        if not calls:
            return
        times = BatchTimes(result.batch.started, result.began, result.began + result.seconds)
        sums = self.get_version(version).batches[len(result.batch)]
        sums.inputs.add(times.began - times.taken)
        sums.lane.add(result.seconds)
        sums.outputs.add(now - times.ended)
        for call in calls:
            call.batch = times
