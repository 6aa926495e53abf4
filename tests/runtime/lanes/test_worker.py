"""Tests `streamd/runtime/lanes/worker.py`.

Results reach the loop, predictions are normalized, and no error ends a lane's thread.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from streamd.core.arrays import Float32
from streamd.core.errors import BatchFailedError, InferenceError, LaneLostError
from streamd.core.scheduling.batches import Batch, RequestItem, ServerRows
from streamd.core.state.forecast_seals import compute_checks
from streamd.core.unknown_targets import UnknownSearch
from streamd.inference.fake import FakeBackend, FakeLane, FakeScript
from streamd.runtime.lanes.worker import LaneResult, LaneWorker, hide_unknown, normalize_predictions
from tests.support.contracts import make_contract

CONTRACT = make_contract()


# ---------------------------------------------------------------- normalized predictions
LARGE = float(np.float32(3e38))
"""The sum of two such numbers overflows."""

NUMBERS = st.floats(-10, 10, width=32) | st.sampled_from([0.0, -0.0, LARGE, -LARGE, np.nan, np.inf, -np.inf])
SHAPES = st.tuples(st.integers(0, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 7))


@st.composite
def draw_predictions(draw: st.DrawFn) -> Float32:
    """Draw predictions of any shape and memory layout, with any numbers; some nearly sorted, some not at all."""
    given_: Float32 = draw(arrays(np.float32, draw(SHAPES), elements=NUMBERS))
    if draw(st.booleans()):
        ordered = np.sort(given_, axis=-1)
        steps = ordered.reshape(-1, ordered.shape[-1])
        for step in draw(st.lists(st.integers(0, max(len(steps) - 1, 0)), max_size=2)) if len(steps) else ():
            steps[step] = steps[step, ::-1]
        given_ = ordered
    kind = draw(st.sampled_from(["own", "view", "strided", "turned", "read-only"]))
    if kind == "view":
        given_ = np.concatenate([given_, given_[:1]])[: len(given_)]
    elif kind == "strided":
        given_ = np.repeat(given_, 2, axis=-1)[..., ::2]
    elif kind == "turned":
        given_ = np.ascontiguousarray(given_.transpose(2, 1, 0, 3)).transpose(2, 1, 0, 3)
    elif kind == "read-only":
        given_.flags.writeable = False
    return given_


@given(draw_predictions())
def test_forecasts_are_normalized(predictions: Float32) -> None:
    before = predictions.copy()
    forecasts, bad = normalize_predictions(predictions)
    batch, horizon, targets, quantiles = predictions.shape
    assert forecasts.shape == (batch, targets, horizon, quantiles)
    assert forecasts.dtype == np.float32
    assert forecasts.flags.c_contiguous
    assert forecasts.flags.writeable
    assert not np.shares_memory(forecasts, predictions), "the lane may write its buffers again"
    np.testing.assert_array_equal(predictions, before)
    assert bad == tuple(row for row in range(batch) if not np.isfinite(predictions[row]).all())
    for row, step, target in np.ndindex(batch, horizon, targets):
        given_, found = predictions[row, step, target].tolist(), forecasts[row, target, step].tolist()
        numbers = sorted(number for number in given_ if number == number)
        assert found[: len(numbers)] == numbers
        assert all(number != number for number in found[len(numbers) :]), "NaN is last"
        if given_ == numbers:
            assert found == given_
            assert np.signbit(found).tolist() == np.signbit(given_).tolist(), "a rising step is unchanged"


@pytest.mark.parametrize("crossed", [0, 1, 50, 51, 100])
def test_any_number_of_crossed_steps_is_sorted(crossed: int) -> None:
    rising = np.sort(np.random.default_rng(1).normal(size=(2, 25, 2, 7)).astype(np.float32), axis=-1)
    given_ = rising.copy()
    steps = given_.reshape(-1, 7)
    for step in np.random.default_rng(2).permutation(len(steps))[:crossed]:
        steps[step] = steps[step, ::-1]
    np.testing.assert_array_equal(normalize_predictions(given_)[0], rising.transpose(0, 2, 1, 3))


def test_numbers_whose_sum_overflows_are_finite() -> None:
    predictions = np.full((3, 4, 2, 3), 3e38, np.float32)
    predictions[1, 0] *= -1
    predictions[2, 3, 1, 2] = np.inf
    assert normalize_predictions(predictions)[1] == (2,)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_number_is_one_bad_row(bad: float) -> None:
    predictions = np.zeros((3, 4, 2, 3), np.float32)
    predictions[1, 3, 1, 2] = bad
    assert normalize_predictions(predictions)[1] == (1,)


# ---------------------------------------------------------------- unknown targets
FLAGS = st.booleans()


@given(draw_predictions(), st.data())
def test_an_unknown_target_is_nan_and_makes_no_row_bad(predictions: Float32, data: st.DataObject) -> None:
    forecasts, bad_rows = normalize_predictions(predictions)
    before = forecasts.copy()
    unknown = data.draw(arrays(np.bool_, forecasts.shape[:2], elements=FLAGS))
    bad = hide_unknown(forecasts, unknown, bad_rows)
    for row, target in np.ndindex(*unknown.shape):
        expected = np.full_like(before[row, target], np.nan) if unknown[row, target] else before[row, target]
        np.testing.assert_array_equal(forecasts[row, target], expected)
    known = [before[row][~unknown[row]] for row in range(len(before))]
    assert bad == tuple(row for row, numbers in enumerate(known) if not np.isfinite(numbers).all())


@pytest.mark.parametrize("capacity", [0, 4], ids=["copied", "resident"])
async def test_a_model_s_own_nan_is_an_error_only_where_the_target_is_known(capacity: int) -> None:
    async with running_worker(capacity) as rig:
        rig.script.not_finite = lambda window: bool(window[0, 0] == 7.0)
        windows = rig.lane.inputs.encoder_cont
        windows[:3] = 7.0
        windows[0, :, 1] = np.nan  # of two targets, one is unknown
        windows[1, 1:] = np.nan  # one value, long ago
        windows[2, :, :2] = np.nan
        windows[2, 0, 0] = 7.0
        rig.worker.submit(make_searched_batch(UnknownSearch(CONTRACT.target_columns)))
        result = await rig.results.get()
        assert result.bad_rows == (0, 1, 2)
        windows[2, 0] = np.nan  # now all targets are unknown
        windows[2, :, 2] = 1.0
        rig.script.not_finite = lambda window: bool(np.isnan(window[0, :2]).all())
        rig.worker.submit(make_searched_batch(UnknownSearch(CONTRACT.target_columns)))
        result = await rig.results.get()
        assert result.bad_rows == ()
        assert np.isnan(result.forecasts).all(axis=(2, 3)).tolist() == [[True, False], [False, False], [True, True]]
        assert np.isfinite(result.forecasts[1]).all()


def make_searched_batch(unknown: UnknownSearch) -> Batch:
    return Batch(requests=[RequestItem("caller", index, 0.0) for index in range(3)], unknown=unknown)


# ---------------------------------------------------------------- the thread
@dataclass
class WorkerRig:
    """A worker over a fake lane, and the results that reached the loop."""

    worker: LaneWorker
    lane: FakeLane
    script: FakeScript
    results: "asyncio.Queue[LaneResult]" = field(default_factory=asyncio.Queue)

    async def run(self, count: int = 2) -> LaneResult:
        self.worker.submit(make_batch(count))
        return await self.results.get()


async def test_the_forecasts_of_servers_are_checked_in_the_thread() -> None:
    async with running_worker() as rig:
        rig.worker.submit(Batch(ServerRows(slots=np.array([4, 2])), make_batch(1).requests))
        result = await rig.results.get()
        assert result.forecasts.shape[0] == 3
        assert result.checks.tolist() == compute_checks(result.forecasts[:2]).tolist()


def make_batch(count: int) -> Batch:
    return Batch(requests=[RequestItem("caller", index, 0.0) for index in range(count)])


@asynccontextmanager
async def running_worker(capacity: int = 0) -> AsyncIterator[WorkerRig]:
    backend = FakeBackend(CONTRACT, capacity=capacity)
    lane = backend.make_lane(0)
    results: asyncio.Queue[LaneResult] = asyncio.Queue()

    def done(worker: LaneWorker, result: LaneResult) -> None:
        assert asyncio.get_running_loop() is loop, "results are reported on the loop"
        results.put_nowait(result)

    loop = asyncio.get_running_loop()
    worker = LaneWorker(lane, loop, done)
    try:
        yield WorkerRig(worker, lane, backend.script, results)
    finally:
        worker.stop()
        worker.stop()
        assert await asyncio.to_thread(worker.join, 60.0)
        assert lane.is_closed, "the thread closes its lane"


async def test_a_result_reaches_the_loop() -> None:
    async with running_worker() as rig:
        result = await rig.run(3)
        assert result.error is None
        assert result.forecasts.shape == (3, 2, 4, 3)
        assert result.seconds >= 0
        assert not len(result.checks), "callers' forecasts are not stored"
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
    async with running_worker() as rig:
        rig.script.errors.append(raised)
        failed = await rig.run()
        assert type(failed.error) is expected
        assert named in str(failed.error)
        assert (await rig.run()).error is None
        assert (rig.worker.batches, rig.worker.failures) == (2, 1)


async def test_a_forecast_of_a_wrong_shape_fails_its_batch() -> None:
    async with running_worker() as rig:
        rig.lane.run = lambda count: np.zeros((count, 3), np.float32)  # type: ignore[method-assign]
        assert isinstance((await rig.run()).error, BatchFailedError)


async def test_bad_rows_are_named() -> None:
    async with running_worker() as rig:
        rig.lane.inputs.encoder_cont[1] = 7.0
        rig.script.not_finite = lambda window: bool(window[0, 0] == 7.0)
        result = await rig.run(3)
        assert result.error is None
        assert result.bad_rows == (1,)


async def test_a_call_runs_in_the_thread_of_the_lane_and_returns() -> None:
    async with running_worker() as rig:
        assert await rig.worker.call(lambda lane: lane.name) == "fake-0"

        def refuse(lane: object) -> None:
            raise RuntimeError("no")

        with pytest.raises(RuntimeError, match="no"):
            await rig.worker.call(refuse)
        assert (await rig.run()).error is None


async def test_a_cancelled_call_is_dropped() -> None:
    async with running_worker() as rig:
        rig.worker.call(lambda lane: 1).cancel()
        assert (await rig.run()).error is None


def test_a_closed_loop_ends_the_thread() -> None:
    loop = asyncio.new_event_loop()
    lane = FakeBackend(CONTRACT).make_lane(0)
    worker = LaneWorker(lane, loop, lambda worker, result: None)
    loop.close()
    worker.submit(make_batch(1))
    assert worker.join(60.0)
    assert lane.is_closed
