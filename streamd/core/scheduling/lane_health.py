"""Which lanes are well, when a lost one is rebuilt, and when a backend is spent.

A lane is lost by an error of its device or by giving no answer. It is rebuilt, later each time it fails again;
a backend all of whose lanes were rebuilt too often is spent, and the next of the chain takes over. As long as one of
its lanes is well, the others are tried again, seldom: a device may come back.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class LaneLimits:
    """When a lane counts as hung, and how patiently it is rebuilt."""

    hang_seconds: float = 30.0
    hang_factor: float = 20.0
    """A batch may also take so many times what was measured for it."""
    rebuild_seconds: float = 1.0
    """Before the first rebuilding; doubled each time, up to `max_rebuild_seconds`."""
    max_rebuild_seconds: float = 60.0
    max_rebuilds: int = 4
    """In a row; a lane that was well for `healthy_reset_seconds` starts over."""
    healthy_reset_seconds: float = 300.0
    make_timeout_seconds: float = 120.0
    """A lane that takes longer to be made is not waited for."""

    def is_hung(self, running_seconds: float, expected_seconds: float) -> bool:
        """Whether a batch that has run for so long will not come back."""
        return running_seconds > max(self.hang_seconds, self.hang_factor * expected_seconds)


@dataclass(slots=True)
class _Lane:
    healthy: bool = True
    healthy_since: float = 0.0
    losses: int = 0
    retry_at: float | None = None
    """When it is to be rebuilt; none while it is well, being rebuilt, or given up."""
    building: bool = False


class LaneRoster:
    """The lanes of one backend by index; all are well at first (`now` is monotonic seconds everywhere)."""

    def __init__(self, count: int, limits: LaneLimits, now: float) -> None:
        self._limits = limits
        self._lanes = [_Lane(healthy_since=now) for _ in range(count)]

    def mark_lost(self, index: int, now: float, *, permanent: bool = False) -> None:
        """A lane was lost, or its rebuilding failed: plan the next rebuilding, or give it up.

        One whose device is lost to the process is `permanent`: it counts as rebuilt too often already.
        """
        lane = self._lanes[index]
        if lane.healthy and now - lane.healthy_since >= self._limits.healthy_reset_seconds:
            lane.losses = 0
        lane.healthy = lane.building = False
        lane.losses = max(lane.losses, self._limits.max_rebuilds if permanent else 0) + 1
        lane.retry_at = now + self._retry_delay_seconds(lane)
        if not self.healthy_count:
            # The last one that was well: the next backend must not wait for those that hardly come back.
            for each in filter(self._is_exhausted, self._lanes):
                each.retry_at = None

    def take_due(self, now: float) -> list[int]:
        """Return the lanes to rebuild now; each is reported back by `rebuilt` or `lost`."""
        due = [i for i, lane in enumerate(self._lanes) if lane.retry_at is not None and lane.retry_at <= now]
        for index in due:
            self._lanes[index].retry_at = None
            self._lanes[index].building = True
        return due

    def mark_rebuilt(self, index: int, now: float) -> None:
        """A lane is well again."""
        lane = self._lanes[index]
        lane.healthy, lane.building, lane.healthy_since = True, False, now
        self.retry_abandoned(now)

    def retry_abandoned(self, now: float) -> None:
        """Try the lanes that were given up again, as patiently as may be: one is well, or no other backend is left."""
        for lane in self._lanes:
            if self._is_abandoned(lane):
                lane.retry_at = now + self._limits.max_rebuild_seconds

    @property
    def is_exhausted(self) -> bool:
        """No lane is well, and none will be."""
        return all(self._is_abandoned(lane) for lane in self._lanes)

    @property
    def healthy_count(self) -> int:
        """How many lanes are well."""
        return sum(lane.healthy for lane in self._lanes)

    def _retry_delay_seconds(self, lane: _Lane) -> float:
        limits = self._limits
        if self._is_exhausted(lane):
            return limits.max_rebuild_seconds
        return min(limits.rebuild_seconds * 2.0 ** (lane.losses - 1), limits.max_rebuild_seconds)

    def _is_exhausted(self, lane: _Lane) -> bool:
        return lane.losses > self._limits.max_rebuilds

    def _is_abandoned(self, lane: _Lane) -> bool:
        return not lane.healthy and not lane.building and lane.retry_at is None
