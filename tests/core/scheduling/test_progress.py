"""Tests `streamd/core/scheduling/progress.py` against a naive model: work counts as stuck if no step comes too long."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from streamd.core.scheduling.progress import LaneActivity, ProgressLimits, StallDetector

LIMITS = ProgressLimits(batch_seconds=60.0, replace_seconds=300.0)


def observe_twice(first: LaneActivity, second: LaneActivity, seconds: float, paused_seconds: float = 0.0) -> str:
    """Return why work is stuck after two observations that are so many seconds apart."""
    detector = StallDetector(0.0)
    assert not detector.observe(first, LIMITS, 10.0)
    is_stuck = detector.observe(second, LIMITS, 10.0 + seconds, paused_seconds)
    assert is_stuck == bool(detector.reason)
    return detector.reason


BUSY = LaneActivity(steps=5, pending=3, lanes=2)


def test_work_is_stuck_if_no_batch_ends_for_too_long() -> None:
    assert observe_twice(BUSY, BUSY, 60.0) == ""
    assert observe_twice(BUSY, BUSY, 61.0) == "3 windows wait or run, and none of 2 lanes ended a batch for 61 s"


def test_a_batch_that_ends_is_progress() -> None:
    assert observe_twice(BUSY, LaneActivity(steps=6, pending=3, lanes=2), 1_000.0) == ""


def test_lanes_without_work_are_not_stuck() -> None:
    idle = LaneActivity(steps=5, pending=0, lanes=2)
    assert observe_twice(idle, idle, 1_000.0) == ""
    # 2. The time begins with the work, not with the last batch.
    assert observe_twice(idle, BUSY, 60.0) == ""


def test_time_in_which_the_process_did_not_run_does_not_count() -> None:
    assert observe_twice(BUSY, BUSY, 1_000.0, paused_seconds=940.0) == ""
    assert observe_twice(BUSY, BUSY, 1_000.0, paused_seconds=939.0)


def test_lanes_that_failed_are_not_stuck_and_lanes_that_hang_without_a_replacement_are() -> None:
    failed = LaneActivity(steps=5, pending=3, lanes=0)
    assert observe_twice(failed, failed, 10_000.0) == "", "a restart would only end the taking of samples"
    hanging = LaneActivity(steps=5, pending=3, lanes=0, hanging=2)
    assert observe_twice(hanging, hanging, 300.0) == ""
    assert observe_twice(hanging, hanging, 301.0).endswith("2 hanging lanes were not replaced for 301 s")


def test_a_clock_that_steps_back_starts_the_wait_again() -> None:
    assert observe_twice(BUSY, BUSY, -11.0) == ""


@dataclass(frozen=True)
class Moment:
    """One observation, and what lies between it and the one before."""

    seconds: float
    steps: int
    pending: int
    lanes: int
    hanging: int


MOMENTS = st.lists(
    st.builds(
        Moment,
        seconds=st.sampled_from([0.0, 1.0, 30.0, 61.0, 301.0]),
        steps=st.integers(0, 1),
        pending=st.integers(0, 2),
        lanes=st.integers(0, 2),
        hanging=st.integers(0, 2),
    ),
    max_size=12,
)


def is_stuck_naively(moments: list[Moment]) -> bool:
    """Whether work is stuck at the last moment: the quiet time is summed back to the latest step or idle moment."""
    quiet = 0.0
    for place in range(len(moments) - 1, 0, -1):
        if moments[place].steps or not moments[place].pending:
            break
        quiet += moments[place].seconds
    last = moments[-1]
    if last.lanes:
        return quiet > LIMITS.batch_seconds
    return bool(last.hanging) and quiet > LIMITS.replace_seconds


@given(MOMENTS)
def test_stalls_are_those_of_the_naive_model(moments: list[Moment]) -> None:
    detector, now, steps = StallDetector(0.0), 0.0, 0
    for place, moment in enumerate(moments):
        now += moment.seconds
        steps += moment.steps
        activity = LaneActivity(steps=steps, pending=moment.pending, lanes=moment.lanes, hanging=moment.hanging)
        is_stuck = detector.observe(activity, LIMITS, now)
        assert is_stuck == is_stuck_naively(moments[: place + 1])
