"""Tests `streamd/runtime/lanes/warmup.py`.

Every bucket that may run is measured on all lanes with plausible inputs. The duration is not tested.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.errors import LaneLostError
from streamd.core.scheduling.costs import CostTable
from streamd.inference.fake import FakeBackend
from streamd.inference.lane import Inputs
from streamd.runtime.lanes.warmup import REPEATS, fill_plausibly, limit_by_smaller, measure_costs
from streamd.runtime.lanes.worker import LaneWorker
from tests.support.contracts import make_contract

HOUR_SECONDS = 3_600.0


@asynccontextmanager
async def lanes(backend: FakeBackend, count: int) -> AsyncIterator[list[LaneWorker]]:
    loop = asyncio.get_running_loop()
    workers = [LaneWorker(backend.make_lane(index), loop, lambda worker, result: None) for index in range(count)]
    try:
        yield workers
    finally:
        for worker in workers:
            worker.stop()
            assert await asyncio.to_thread(worker.join, 60.0)


async def test_every_bucket_up_to_the_limit_is_measured_on_every_lane() -> None:
    backend = FakeBackend(make_contract(), (1, 4, 8, 32), pads=True)
    async with lanes(backend, 2) as workers:
        costs = await measure_costs(workers, 8, HOUR_SECONDS)
    assert costs.buckets == [1, 4, 8]
    assert (costs.pads, costs.max_batch) == (True, 8)
    assert all(seconds > 0 for seconds in costs.seconds.values())
    for lane in ("fake-0", "fake-1"):
        runs = [count for name, count in backend.script.runs if name == lane]
        assert runs == [bucket for bucket in (1, 4, 8) for _ in range(1 + REPEATS)]


async def test_without_a_budget_only_the_smallest_bucket_is_measured() -> None:
    async with lanes(FakeBackend(make_contract()), 1) as workers:
        assert (await measure_costs(workers, 32, 0.0)).buckets == [1]


async def test_a_smallest_bucket_beyond_the_limit_is_still_measured() -> None:
    async with lanes(FakeBackend(make_contract(), (8, 32)), 1) as workers:
        costs = await measure_costs(workers, 4, HOUR_SECONDS)
    assert (costs.buckets, costs.max_batch) == ([8], 4)


async def test_an_error_of_a_lane_is_raised() -> None:
    backend = FakeBackend(make_contract())
    backend.script.errors.append(LaneLostError("gone"))
    async with lanes(backend, 2) as workers:
        with pytest.raises(LaneLostError, match="gone"):
            await measure_costs(workers, 8, HOUR_SECONDS)


@given(st.dictionaries(st.integers(1, 256), st.floats(1e-6, 10), min_size=1))
def test_a_bucket_costs_at_most_as_many_windows_in_smaller_batches(seconds: dict[int, float]) -> None:
    limited = limit_by_smaller(seconds)
    assert limited.keys() == seconds.keys()
    for bucket, found in limited.items():
        expected = min(seconds[smaller] / smaller * bucket for smaller in seconds if smaller <= bucket)
        assert found == pytest.approx(expected)


def test_a_disturbed_measurement_makes_no_small_batches() -> None:
    quiet = CostTable(limit_by_smaller({1: 0.0006, 4: 0.0020, 8: 0.0040, 16: 0.0080, 32: 0.0160}), pads=False)
    disturbed = CostTable(limit_by_smaller({1: 0.0006, 4: 0.0020, 8: 0.0085, 16: 0.0196, 32: 0.0448}), pads=False)
    assert [table.choose_batch_size(64, 1) for table in (quiet, disturbed)] == [32, 32]


def test_inputs_for_warming_are_not_zero() -> None:
    inputs = Inputs.allocate(make_contract(), 4)
    fill_plausibly(inputs)
    assert np.isfinite(inputs.encoder_cont).all()
    assert (inputs.encoder_cont > 0).mean() > 0.9
    assert len(np.unique(inputs.decoder_cont)) > 10
