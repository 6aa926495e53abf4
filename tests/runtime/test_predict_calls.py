"""Tests `streamd/runtime/predict_calls.py`: each call ends once, and its windows leave the line with it."""

import asyncio
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.errors import BatchFailedError, DrainingError, StreamdError, TooBusyError, UnavailableError
from streamd.runtime.pauses import Pauses
from streamd.runtime.predict import Prediction, PredictRequest
from streamd.runtime.predict_calls import PredictCalls
from tests.support.naive_inputs import CONTRACT, make_full_inputs
from tests.support.paused_clock import PausableClock

FORECAST = np.zeros((1, *CONTRACT.forecast_shape), np.float32)


@dataclass
class FakeQueue:
    """A queue whose windows run when a test says so."""

    space: int = 100
    is_ready: bool = True
    waiting: list[PredictRequest] = field(default_factory=list)

    def add_request(self, request: PredictRequest, windows: int) -> bool:
        if len(self.waiting) >= self.space:
            return False
        self.waiting.append(request)
        return True

    def drop_request(self, request: PredictRequest) -> None:
        if request in self.waiting:
            self.waiting.remove(request)


class CallsRig:
    """Calls over a fake queue, with a clock that only a test moves, and the ends that were noted."""

    def __init__(self, space: int = 100) -> None:
        self.queue = FakeQueue(space)
        self.pauses = Pauses()
        self.pauses.clock = self.clock = PausableClock(self.pauses)
        self.calls = PredictCalls(CONTRACT, self.queue, self.pauses, max_waiting=space, timeout_seconds=30.0)
        self.ends: dict[int, list[Prediction | StreamdError]] = {}
        self.requests: list[PredictRequest] = []

    def begin(self, windows: int = 1) -> PredictRequest:
        ends = self.ends.setdefault(len(self.requests), [])
        self.requests.append(self.calls.begin(make_full_inputs(windows), ends.append))
        return self.requests[-1]

    def expire(self) -> None:
        """Do what the timer does."""
        self.calls._end_overdue()


async def test_a_call_ends_with_its_answer() -> None:
    rig = CallsRig()
    request = rig.begin(2)
    for index in range(2):
        assert rig.ends == {0: []}
        request.answer(index, FORECAST, "m")
    (result,) = rig.ends[0]
    assert isinstance(result, Prediction)
    assert result.predictions.shape == (2, *CONTRACT.output_shape)
    assert not rig.queue.waiting
    rig.calls.close()


async def test_a_call_that_cannot_begin_leaves_nothing() -> None:
    rig = CallsRig(space=1)
    rig.begin()
    with pytest.raises(TooBusyError, match="1 windows of callers may wait"):
        rig.begin()
    rig.queue.is_ready = False
    with pytest.raises(UnavailableError, match="no lane"):
        rig.begin()
    rig.calls.is_draining = True
    with pytest.raises(DrainingError):
        rig.begin()
    assert len(rig.calls) == len(rig.queue.waiting) == 1
    rig.calls.close()


async def test_an_answer_that_mixes_versions_is_made_again() -> None:
    rig = CallsRig()
    request = rig.begin(2)
    rig.queue.waiting.clear()
    request.answer(0, FORECAST, "old")
    request.answer(1, FORECAST, "new")
    assert rig.ends == {0: []}
    assert rig.queue.waiting == [request]
    request.answer(0, np.repeat(FORECAST, 2, axis=0), "new")
    (result,) = rig.ends[0]
    assert isinstance(result, Prediction)
    assert result.model == "new"
    rig.calls.close()


async def test_only_calls_whose_time_is_over_are_ended_and_pauses_do_not_count() -> None:
    rig = CallsRig()
    rig.pauses.watch()
    rig.begin()
    rig.clock.run(20)
    rig.begin()
    rig.clock.pause(3_600)
    rig.pauses.check()
    rig.expire()
    assert rig.ends == {0: [], 1: []}
    rig.clock.run(10)
    rig.expire()
    assert str(rig.ends[0][0]) == "no forecast within 30 s"
    assert isinstance(rig.ends[0][0], TooBusyError)
    assert rig.ends[1] == []
    rig.clock.run(20)
    rig.expire()
    assert len(rig.ends[1]) == 1
    assert not rig.queue.waiting
    assert rig.calls._timer is None
    rig.pauses.close()


STEPS = st.lists(
    st.tuples(st.sampled_from(["begin", "answer", "fail", "cancel", "wait", "expire"]), st.integers(0, 5)), max_size=40
)


def take_step(rig: CallsRig, step: str, number: int, cancelled: set[int]) -> None:
    """Do a step with one of the calls; note the calls that are cancelled before their end."""
    if step == "begin" and len(rig.queue.waiting) < rig.queue.space:
        rig.begin(number % 2 + 1)
    elif step == "wait":
        rig.clock.ahead += 7.0
    elif step == "expire":
        rig.expire()
    elif rig.requests:
        place = number % len(rig.requests)
        request = rig.requests[place]
        if step == "answer":
            request.answer(0, np.repeat(FORECAST, request.windows, axis=0), "m")
        elif step == "fail":
            request.fail(0, BatchFailedError("x"))
        elif step == "cancel":
            rig.calls.cancel(request)
            cancelled.update({place} if not rig.ends[place] else ())


def check_ends(rig: CallsRig, cancelled: set[int]) -> None:
    is_open = [not rig.ends[place] and place not in cancelled for place in range(len(rig.requests))]
    open_calls = [request for request, each in zip(rig.requests, is_open, strict=True) if each]
    assert rig.queue.waiting == open_calls
    assert len(rig.calls) == len(open_calls)
    assert all(len(ends) <= (place not in cancelled) for place, ends in rig.ends.items())


@given(STEPS, st.integers(1, 3))
def test_whatever_happens_each_call_ends_once_and_its_windows_leave_the_line(
    steps: list[tuple[str, int]], space: int
) -> None:
    async def run() -> None:
        rig = CallsRig(space)
        cancelled: set[int] = set()
        for step, number in steps:
            take_step(rig, step, number, cancelled)
            check_ends(rig, cancelled)
        rig.calls.close()

    asyncio.run(run())
