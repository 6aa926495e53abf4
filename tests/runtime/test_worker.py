"""A lane's thread: results reach the loop in order, and no error ends it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from streamd.core.errors import BatchFailedError, InferenceError, LaneLostError
from streamd.core.scheduler import Batch, RequestItem
from streamd.device.fake import FakeBackend, FakeLane, FakeScript
from streamd.device.lane import Float32
from streamd.runtime.worker import LaneWorker, Result, in_order
from tests.core.contracts import make_contract

CONTRACT = make_contract()


# ---------------------------------------------------------------- putting in order
PREDICTIONS = st.tuples(st.integers(0, 3), st.integers(1, 3), st.integers(1, 2), st.integers(1, 4)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=st.floats(-10, 10, width=32) | st.just(float("nan")))
)


@given(PREDICTIONS)
def test_forecasts_are_in_order(predictions: Float32) -> None:
    before = predictions.copy()
    forecasts, bad = in_order(predictions)
    batch, horizon, targets, quantiles = predictions.shape
    assert forecasts.shape == (batch, targets, horizon, quantiles)
    assert forecasts.flags.c_contiguous
    assert not np.shares_memory(forecasts, predictions), "the lane may write its own again"
    np.testing.assert_array_equal(predictions, before)
    assert bad == tuple(row for row in range(batch) if not np.isfinite(predictions[row]).all())
    for row, step, target in np.ndindex(batch, horizon, targets):
        np.testing.assert_array_equal(forecasts[row, target, step], np.sort(predictions[row, step, target]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_number_is_one_bad_row(bad: float) -> None:
    predictions = np.zeros((3, 4, 2, 3), np.float32)
    predictions[1, 3, 1, 2] = bad
    assert in_order(predictions)[1] == (1,)


# ---------------------------------------------------------------- the thread
@dataclass
class Rig:
    """A worker over a fake lane, and what reached the loop."""

    worker: LaneWorker
    lane: FakeLane
    script: FakeScript
    results: "asyncio.Queue[Result]" = field(default_factory=asyncio.Queue)

    async def run(self, count: int = 2) -> Result:
        self.worker.submit(batch_of(count))
        return await self.results.get()


def batch_of(count: int) -> Batch:
    return Batch([RequestItem("caller", index, 0.0) for index in range(count)])


@asynccontextmanager
async def running() -> AsyncIterator[Rig]:
    backend = FakeBackend(CONTRACT)
    lane = backend.make_lane(0)
    results: asyncio.Queue[Result] = asyncio.Queue()

    def done(worker: LaneWorker, result: Result) -> None:
        assert asyncio.get_running_loop() is loop, "results come on the loop"
        results.put_nowait(result)

    loop = asyncio.get_running_loop()
    worker = LaneWorker(lane, loop, done)
    try:
        yield Rig(worker, lane, backend.script, results)
    finally:
        worker.stop()
        worker.stop()
        assert await asyncio.to_thread(worker.join, 60.0)
        assert lane.closed, "the thread closes its lane"


async def test_a_result_reaches_the_loop() -> None:
    async with running() as rig:
        result = await rig.run(3)
        assert result.error is None
        assert result.forecasts.shape == (3, 2, 4, 3)
        assert result.seconds >= 0
        assert (rig.worker.batches, rig.worker.windows, rig.worker.failures) == (1, 3, 0)


@pytest.mark.parametrize(
    ("raised", "expected", "named"),
    [
        (BatchFailedError("refused"), BatchFailedError, "refused"),
        (LaneLostError("gone"), LaneLostError, "gone"),
        (ValueError("a defect"), BatchFailedError, "ValueError: a defect"),
        (RuntimeError("not the loop's"), BatchFailedError, "RuntimeError: not the loop's"),
        (MemoryError("full"), BatchFailedError, "MemoryError: full"),
    ],
)
async def test_no_error_ends_the_thread(raised: Exception, expected: type[InferenceError], named: str) -> None:
    async with running() as rig:
        rig.script.errors.append(raised)
        failed = await rig.run()
        assert type(failed.error) is expected
        assert named in str(failed.error)
        assert (await rig.run()).error is None
        assert (rig.worker.batches, rig.worker.failures) == (2, 1)


async def test_a_forecast_of_a_wrong_shape_fails_its_batch() -> None:
    async with running() as rig:
        rig.lane.run = lambda count: np.zeros((count, 3), np.float32)  # type: ignore[method-assign]
        assert isinstance((await rig.run()).error, BatchFailedError)


async def test_bad_rows_are_named() -> None:
    async with running() as rig:
        rig.lane.inputs.encoder_cont[1] = 7.0
        rig.script.not_finite = lambda window: bool(window[0, 0] == 7.0)
        result = await rig.run(3)
        assert result.error is None
        assert result.bad_rows == (1,)


async def test_a_call_runs_in_the_lane_s_thread_and_answers() -> None:
    async with running() as rig:
        assert await rig.worker.call(lambda lane: lane.name) == "fake-0"

        def refuse(lane: object) -> None:
            raise RuntimeError("no")

        with pytest.raises(RuntimeError, match="no"):
            await rig.worker.call(refuse)
        assert (await rig.run()).error is None


async def test_a_call_that_nobody_waits_for_any_more_is_dropped() -> None:
    async with running() as rig:
        rig.worker.call(lambda lane: 1).cancel()
        assert (await rig.run()).error is None


def test_a_closed_loop_ends_the_thread() -> None:
    loop = asyncio.new_event_loop()
    lane = FakeBackend(CONTRACT).make_lane(0)
    worker = LaneWorker(lane, loop, lambda worker, result: None)
    loop.close()
    worker.submit(batch_of(1))
    assert worker.join(60.0)
    assert lane.closed
