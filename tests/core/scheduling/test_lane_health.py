"""Tests `streamd/core/scheduling/lane_health.py` against a naive model: rebuilds, and when a backend is exhausted."""

from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from streamd.core.scheduling.lane_health import LaneLimits, LaneRoster

LIMITS = LaneLimits(rebuild_seconds=1.0, max_rebuild_seconds=4.0, max_rebuilds=3, healthy_reset_seconds=50.0)
LANES, DEVICES = 4, 2
"""Lane `i` is on device `i % DEVICES`."""


def test_a_lane_hangs_beyond_its_limit_or_a_multiple_of_its_measured_seconds() -> None:
    limits = LaneLimits(hang_seconds=10.0, hang_factor=5.0)
    assert not limits.is_hung(10.0, 1.0)
    assert limits.is_hung(10.1, 1.0)
    assert not limits.is_hung(10.1, 3.0)
    assert limits.is_hung(15.1, 3.0)


def test_the_delay_of_rebuilds_grows_and_rebuilds_end() -> None:
    roster = LaneRoster(1, LIMITS, 0.0)
    for delay in (1.0, 2.0, 4.0):
        roster.mark_lost(0, 10.0)
        assert roster.take_due(10.0 + delay - 0.01) == []
        assert not roster.is_exhausted
        assert roster.take_due(10.0 + delay) == [0]
        assert not roster.is_exhausted, "it is being rebuilt"
    roster.mark_lost(0, 20.0)
    assert roster.is_exhausted
    roster.retry_abandoned(20.0)
    assert roster.take_due(24.0) == [0]


def test_an_abandoned_lane_is_retried_as_long_as_another_is_healthy() -> None:
    roster = LaneRoster(2, LIMITS, 0.0)
    now = 0.0
    for delay in (1.0, 2.0, 4.0, 4.0, 4.0, 4.0):
        roster.mark_lost(0, now)
        assert roster.take_due(now + delay - 0.01) == []
        now += delay
        assert roster.take_due(now) == [0]
    roster.mark_lost(0, now)
    roster.mark_lost(1, now)
    assert roster.take_due(now + 100.0) == [1], "the next backend must not wait for the other"
    roster.mark_rebuilt(1, now + 100.0)
    assert roster.take_due(now + 104.0) == [0]


def test_the_lanes_of_a_lost_device_are_abandoned_and_those_of_another_are_not() -> None:
    roster = LaneRoster(4, LIMITS, 0.0)
    for index in (0, 2):
        roster.mark_lost(index, 10.0)
    assert (roster.healthy_count, roster.is_exhausted) == (2, False)
    assert roster.take_due(11.0) == [0, 2]
    assert not roster.is_exhausted


@dataclass
class NaiveLane:
    state: str = "healthy"
    since: float = 0.0
    due: float = 0.0
    history: list[float] = field(default_factory=list)
    """The times of its losses since its counter was last reset."""

    @property
    def tired(self) -> bool:
        return len(self.history) > LIMITS.max_rebuilds


class Roster(RuleBasedStateMachine):
    """Lanes are lost and rebuilt, or not, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.roster = LaneRoster(LANES, LIMITS, self.now)
        self.lanes = [NaiveLane() for _ in range(LANES)]

    def states(self, *wanted: str) -> list[int]:
        return [index for index, lane in enumerate(self.lanes) if lane.state in wanted]

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 3.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.states("healthy", "building"))
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        self.lost(data.draw(st.sampled_from(self.states("healthy", "building"))), permanent=data.draw(st.booleans()))

    @rule(device=st.integers(0, DEVICES - 1))
    def lose_device(self, device: int) -> None:
        for index in self.states("healthy"):
            if index % DEVICES == device:
                self.lost(index)

    def lost(self, index: int, *, permanent: bool = False) -> None:
        lane = self.lanes[index]
        if lane.state == "healthy" and self.now - lane.since >= LIMITS.healthy_reset_seconds:
            lane.history.clear()
        lane.history.append(self.now)
        while permanent and not lane.tired:
            lane.history.append(self.now)
        lane.state = "waiting"
        lane.due = self.now + [1.0, 2.0, 4.0, LIMITS.max_rebuild_seconds][min(len(lane.history), 4) - 1]
        if not self.states("healthy"):
            for each in self.lanes:
                if each.tired and each.state == "waiting":
                    each.state = "abandoned"
        self.roster.mark_lost(index, self.now, permanent=permanent)

    @rule()
    def look(self) -> None:
        due = [index for index in self.states("waiting") if self.lanes[index].due <= self.now]
        assert self.roster.take_due(self.now) == due
        for index in due:
            self.lanes[index].state = "building"

    @precondition(lambda self: self.states("building"))
    @rule(data=st.data())
    def mend(self, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from(self.states("building")))
        self.lanes[index].state, self.lanes[index].since = "healthy", self.now
        self.try_again()
        self.roster.mark_rebuilt(index, self.now)

    @precondition(lambda self: len(self.states("abandoned")) == LANES)
    @rule()
    def retry_abandoned(self) -> None:
        self.try_again()
        self.roster.retry_abandoned(self.now)

    def try_again(self) -> None:
        for index in self.states("abandoned"):
            self.lanes[index].state, self.lanes[index].due = "waiting", self.now + LIMITS.max_rebuild_seconds

    @invariant()
    def agrees(self) -> None:
        assert self.roster.healthy_count == len(self.states("healthy"))
        assert self.roster.is_exhausted == (len(self.states("abandoned")) == LANES)
        assert not (self.states("abandoned") and self.states("healthy")), (
            "no lane is abandoned while another is healthy"
        )


TestRoster = Roster.TestCase
