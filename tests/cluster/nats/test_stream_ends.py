"""Tests `streamd/cluster/nats/stream_ends.py`: what a leader says that was cut off is not believed."""

import pytest

from streamd.cluster.log import LogAwayError
from streamd.cluster.nats.stream_ends import FORMER_LEADER_SECONDS, StreamEnds


class SteppedClock:
    """A clock that a test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def make_ends() -> tuple[StreamEnds, SteppedClock]:
    clock = SteppedClock()
    ends = StreamEnds(clock)
    ends.check("s", "monday", 152)
    return ends, clock


@pytest.mark.parametrize("how", ["said", "stored or read"])
def test_a_stream_that_ends_earlier_than_before_is_told_by_a_former_leader(how: str) -> None:
    ends, clock = make_ends()
    if how == "said":
        ends.check("s", "monday", 156)
    else:
        ends.note("s", 156)
    for _ in range(3):
        with pytest.raises(LogAwayError, match="s: ends at 152, though message 156 was there"):
            ends.check("s", "monday", 152)
        clock.now += FORMER_LEADER_SECONDS / 4
    ends.check("s", "monday", 156)
    clock.now += FORMER_LEADER_SECONDS
    with pytest.raises(LogAwayError):  # it counts from the first one since the stream was whole
        ends.check("s", "monday", 152)


def test_a_stream_that_stays_short_has_lost_messages() -> None:
    ends, clock = make_ends()
    ends.note("s", 156)
    with pytest.raises(LogAwayError):
        ends.check("s", "monday", 152)
    clock.now += FORMER_LEADER_SECONDS
    ends.check("s", "monday", 152)
    ends.check("s", "monday", 153)


def test_another_stream_of_the_name_may_be_shorter() -> None:
    ends, _ = make_ends()
    ends.check("s", "tuesday", 3)
    ends.check("t", "monday", 1)
    ends.note("u", 5)
    with pytest.raises(LogAwayError):
        ends.check("u", "monday", 4)
