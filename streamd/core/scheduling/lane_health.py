"""The health of lanes: when a lost lane is rebuilt, and when a backend is exhausted. Rebuilds nothing itself.

A lane is lost if its device fails or if it does not answer. It is rebuilt, after a longer delay each time that it fails
again. A backend is exhausted if all its lanes were rebuilt too often; then the next backend of the chain takes over. As
long as one of its lanes is healthy, the others are retried at the longest delay: a device may recover.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LaneLimits:
    """The limits after which a lane counts as hung, and how often and after which delay it is rebuilt."""

    hang_seconds: float = 30.0
    hang_factor: float = 20.0
    """A batch may also take this many times the seconds that were measured for it, if that is longer."""
    rebuild_seconds: float = 1.0
    """The delay before the first rebuild; doubled each time, up to `max_rebuild_seconds`."""
    max_rebuild_seconds: float = 60.0
    max_rebuilds: int = 4
    """Rebuilds in a row; after `healthy_reset_seconds` of health, a lane starts again from zero."""
    healthy_reset_seconds: float = 300.0
    make_timeout_seconds: float = 120.0
    """The longest wait for a lane that is being made."""

    def is_hung(self, running_seconds: float, expected_seconds: float) -> bool:
        """Whether a batch has run for so long that its lane counts as hung."""
        return running_seconds > self.count_hang_seconds(expected_seconds)

    def count_hang_seconds(self, expected_seconds: float) -> float:
        """Return how long a batch may run before its lane counts as hung."""
        return max(self.hang_seconds, self.hang_factor * expected_seconds)


@dataclass(slots=True)
class _Lane:
    healthy: bool = True
    healthy_since: float = 0.0
    losses: int = 0
    retry_at: float | None = None
    """When it is rebuilt; None while it is healthy, being rebuilt or abandoned."""
    building: bool = False


class LaneRoster:
    """The lanes of one backend by index; all are healthy at first. `now` is in monotonic seconds everywhere."""

    def __init__(self, count: int, limits: LaneLimits, now: float) -> None:
        self._limits = limits
        self._lanes = [_Lane(healthy_since=now) for _ in range(count)]

    def mark_lost(self, index: int, now: float, *, permanent: bool = False) -> None:
        """Record that a lane was lost or that its rebuild failed: schedule the next rebuild, or abandon the lane.

        If the process has lost the device, the loss is `permanent`: the lane counts as rebuilt too often already.
        """
        lane = self._lanes[index]
        if lane.healthy and now - lane.healthy_since >= self._limits.healthy_reset_seconds:
            lane.losses = 0
        lane.healthy = lane.building = False
        lane.losses = max(lane.losses, self._limits.max_rebuilds if permanent else 0) + 1
        lane.retry_at = now + self._retry_delay_seconds(lane)
        if not self.healthy_count:
            # This was the last healthy lane. The next backend must not wait for lanes that hardly ever recover.
            for each in filter(self._is_over_limit, self._lanes):
                each.retry_at = None

    def take_due(self, now: float) -> list[int]:
        """Return the lanes to rebuild now; report the result of each by `mark_rebuilt` or `mark_lost`."""
        due = [i for i, lane in enumerate(self._lanes) if lane.retry_at is not None and lane.retry_at <= now]
        for index in due:
            self._lanes[index].retry_at = None
            self._lanes[index].building = True
        return due

    def mark_rebuilt(self, index: int, now: float) -> None:
        """Record that a lane is healthy again."""
        lane = self._lanes[index]
        lane.healthy, lane.building, lane.healthy_since = True, False, now
        self.retry_abandoned(now)

    def retry_abandoned(self, now: float) -> None:
        """Schedule another rebuild of the abandoned lanes, after the longest delay.

        Called if a lane is healthy, or if no other backend is left.
        """
        for lane in self._lanes:
            if self._is_abandoned(lane):
                lane.retry_at = now + self._limits.max_rebuild_seconds

    @property
    def is_exhausted(self) -> bool:
        """Whether no lane is healthy and no lane will be: all are abandoned."""
        return all(self._is_abandoned(lane) for lane in self._lanes)

    @property
    def healthy_count(self) -> int:
        """The number of healthy lanes."""
        return sum(lane.healthy for lane in self._lanes)

    def _retry_delay_seconds(self, lane: _Lane) -> float:
        limits = self._limits
        if self._is_over_limit(lane):
            return limits.max_rebuild_seconds
        return min(limits.rebuild_seconds * 2.0 ** (lane.losses - 1), limits.max_rebuild_seconds)

    def _is_over_limit(self, lane: _Lane) -> bool:
        return lane.losses > self._limits.max_rebuilds

    def _is_abandoned(self, lane: _Lane) -> bool:
        return not lane.healthy and not lane.building and lane.retry_at is None
