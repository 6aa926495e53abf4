"""Tests `streamd/inference/ensemble.py`.

Several versions as one: the mean of their quantiles, and all or none of their lanes.
"""

from collections import deque
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.arrays import Float32
from streamd.core.contract import MEMORY_INPUT
from streamd.core.errors import BackendUnavailableError, BatchFailedError, LaneLostError
from streamd.inference.ensemble import EnsembleBackend
from streamd.inference.fake import FakeBackend, FakeLane, make_fake_forecast
from tests.support.contracts import make_contract

CONTRACT = make_contract()
MEMORY = make_contract(context_length=12)


class Scaled(FakeBackend):
    """Its lanes forecast so many times as much."""

    def __init__(self, factor: float, buckets: tuple[int, ...] = (1, 8), **more: Any) -> None:
        super().__init__(CONTRACT, buckets, **more)
        self.factor = factor

    def make_lane(self, index: int) -> FakeLane:
        lane = super().make_lane(index)
        run, factor = lane.run, np.float32(self.factor)
        lane.run = lambda count: factor * run(count)  # type: ignore[method-assign]
        return lane


def random_inputs(lane: Any, count: int) -> None:
    random = np.random.default_rng(count)
    for buffer in lane.inputs.view_first(count).values():
        buffer[:] = random.integers(0, 100, buffer.shape)


@given(factors=st.lists(st.integers(-8, 8).map(float), min_size=1, max_size=4), count=st.integers(1, 8))
def test_forecasts_are_the_members_mean_and_every_member_sees_the_same(factors: list[float], count: int) -> None:
    members = [Scaled(factor) for factor in factors]
    seen: list[dict[str, Any]] = []
    for member in members:
        member.script.on_run = lambda lane, inputs: seen.append(inputs)
    lane = EnsembleBackend(members).make_lane(0)
    random_inputs(lane, count)
    expected = np.stack([make_fake_forecast(CONTRACT, window) for window in lane.inputs.encoder_cont[:count]])
    made = lane.run(count)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, expected * np.mean(factors), rtol=1e-5, atol=1e-4)
    assert len(seen) == len(factors)
    for inputs in seen:
        for name, buffer in lane.inputs.view_first(count).items():
            np.testing.assert_array_equal(inputs[name], buffer)
    again = lane.run(count)
    np.testing.assert_array_equal(again, made, "what a member gave is not changed by averaging")


def test_a_window_that_one_member_cannot_forecast_has_no_forecast() -> None:
    first, second = Scaled(1.0), Scaled(2.0)
    second.script.not_finite = lambda window: bool(window[0, 0] == 5.0)
    lane = EnsembleBackend([first, second]).make_lane(0)
    lane.inputs.encoder_cont[:2] = 1.0
    lane.inputs.encoder_cont[1, 0, 0] = 5.0
    made: Float32 = lane.run(2)
    assert np.isfinite(made).all(axis=(1, 2, 3)).tolist() == [True, False]


@pytest.mark.parametrize("is_first", [True, False])
def test_a_member_that_remembers_gets_its_memory_beside_one_that_does_not(is_first: bool) -> None:
    members = [FakeBackend(replace(MEMORY, memory_length=length), (1, 8)) for length in (0, 168)]
    seen: dict[str, dict[str, Any]] = {}
    for name, member in zip(("plain", "remembers"), members, strict=True):
        member.script.on_run = lambda lane, inputs, name=name: seen.update({name: inputs})  # type: ignore[misc]
    lane = EnsembleBackend(members[::-1] if is_first else members).make_lane(0)
    assert lane.inputs.memory_cont is not None
    random_inputs(lane, 3)
    lane.run(3)
    assert seen["plain"].keys() == CONTRACT.input_shapes.keys()
    for name, buffer in lane.inputs.view_first(3).items():
        np.testing.assert_array_equal(seen["remembers"][name], buffer)
        assert name == MEMORY_INPUT or (seen["plain"][name] == buffer).all()


@pytest.mark.parametrize("error", [BatchFailedError("refused"), LaneLostError("gone")])
def test_what_a_member_raises_is_raised(error: Exception) -> None:
    first, second = Scaled(1.0), Scaled(2.0)
    lane = EnsembleBackend([first, second]).make_lane(0)
    second.script.errors = deque([error])
    with pytest.raises(type(error), match=str(error)):
        lane.run(1)
    second.lose_device()
    with pytest.raises(LaneLostError):
        lane.check()


def test_a_lane_is_made_of_all_members_or_not_at_all() -> None:
    first, second = Scaled(1.0), Scaled(2.0)
    second.script.make_errors.append(BackendUnavailableError("no memory"))
    backend = EnsembleBackend([first, second])
    with pytest.raises(BackendUnavailableError, match="no memory"):
        backend.make_lane(0)
    assert [lane.closings for lane in first.lanes] == [1]
    lane = backend.make_lane(1)
    lane.close()
    assert [each.closings for member in (first, second) for each in member.lanes] == [1, 1, 1]
    assert lane.name == "fake-1"


def test_the_buckets_are_those_that_every_member_can_run() -> None:
    lane = EnsembleBackend([Scaled(1.0, (1, 8, 32)), Scaled(1.0, (4, 16), pads=True)]).make_lane(0)
    assert (lane.buckets, lane.pads) == ((1, 4, 8, 16), True)
    random_inputs(lane, 16)
    assert lane.run(16).shape[0] == 16
    assert EnsembleBackend([Scaled(1.0), Scaled(1.0)]).make_lane(0).pads is False


def test_members_on_different_devices_are_refused() -> None:
    first, second = Scaled(1.0), Scaled(1.0, devices=2)
    backend = EnsembleBackend([first, second])
    assert backend.make_lane(0).device == "fake:0"
    with pytest.raises(BackendUnavailableError, match="fake:1"):
        backend.make_lane(1)
    assert [lane.closings for lane in (*first.lanes, *second.lanes)] == [0, 1, 0, 1]


def test_it_is_told_as_what_its_members_are() -> None:
    backend = EnsembleBackend([Scaled(1.0, lanes_per_device=4), Scaled(1.0)])
    assert (backend.name, backend.precision, backend.default_lanes) == ("fake", "fp32", 2)
    assert len(backend.describe()["members"]) == len(backend.make_lane(0).describe()["members"]) == 2
    with pytest.raises(BackendUnavailableError, match="at least one"):
        EnsembleBackend([])
