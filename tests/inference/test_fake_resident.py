"""Tests `streamd/inference/fake_resident.py` and `streamd/inference/resident.py`.

Batches over several lanes, staged and run in any order: each gives the forecasts of the windows as they were staged.
"""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.arrays import Float32
from streamd.core.state.forecast_seals import compute_checks
from streamd.inference.fake import FakeBackend, FakeLane, make_fake_forecast
from streamd.inference.lane import HostWindows, get_resident
from tests.support.contracts import make_contract

CONTRACT = make_contract()
LENGTH, FEATURES = CONTRACT.context_length, len(CONTRACT.features)
CAPACITY, LANES = 4, 3
NO_NUMBER = np.zeros(1, np.int32)


class Fleet:
    """The host's windows, and lanes that have staged batches."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(3)
        self.windows = HostWindows(
            newest=np.full(CAPACITY, 50, np.int64),
            changes=np.zeros(CAPACITY, np.uint32),
            generations=np.zeros(CAPACITY, np.int64),
            values=self.random.random((CAPACITY, LENGTH, FEATURES), np.float32),
            marks=self.random.integers(0, 16, (CAPACITY, LENGTH)).astype(np.uint8),
        )
        backend = FakeBackend(CONTRACT, (1, 2 * CAPACITY), capacity=CAPACITY)
        self.lanes = [backend.make_lane(index) for index in range(LANES)]
        self.staged: dict[FakeLane, list[Float32]] = {}

    def append(self, slot: int) -> None:
        self._append_row(slot, self.random.random(FEATURES, np.float32))

    def append_half(self, slot: int) -> None:
        """Append rows without a value of two features, so many that no other is left in the window, or nearly."""
        for _ in range(LENGTH - int(self.random.integers(0, 2))):
            self._append_row(slot, np.array([1.0, np.nan, np.nan], np.float32))

    def _append_row(self, slot: int, row: Float32) -> None:
        windows = self.windows
        windows.newest[slot] += 1
        windows.values[slot, int(windows.newest[slot]) % LENGTH] = row
        windows.changes[slot] += 2

    def amend(self, slot: int) -> None:
        self.windows.values[slot, int(self.windows.newest[slot] - 1) % LENGTH] = self.random.random(FEATURES)
        self.windows.changes[slot] += 2

    def replace(self, slot: int) -> None:
        """Give the slot to another server, with a window of the same step."""
        self.windows.generations[slot] += 1
        self.windows.values[slot] = self.random.random((LENGTH, FEATURES))

    def stage(self, lane: int, slots: list[int]) -> None:
        """Stage a batch, unless the lane has one."""
        chosen = self.lanes[lane]
        if chosen in self.staged or chosen.resident is None:
            return
        staged = chosen.resident.stage(self.windows, np.array(slots), NO_NUMBER, make_calendar)
        assert staged.steps.tolist() == self.windows.newest[slots].tolist()
        assert not staged.torn.any()
        windows = [self.window(slot) for slot in slots]
        targets = [CONTRACT.feature_index[target] for target in CONTRACT.targets]
        assert staged.unknown.tolist() == [np.isnan(window[:, targets]).all(axis=0).tolist() for window in windows]
        self.staged[chosen] = windows

    def window(self, slot: int) -> Float32:
        rolled: Float32 = np.roll(self.windows.values[slot], -((int(self.windows.newest[slot]) + 1) % LENGTH), axis=0)
        return rolled

    def run(self, lane: int) -> None:
        """Run what a lane has staged; the forecasts must be those of the windows at that time."""
        chosen = self.lanes[lane]
        windows = self.staged.pop(chosen, None)
        if windows is None:
            return
        resident = get_resident(chosen)
        assert resident is not None
        finished = resident.run(len(windows))
        expected = np.stack([make_fake_forecast(CONTRACT, window) for window in windows]).transpose(0, 2, 1, 3)
        np.testing.assert_array_equal(finished.forecasts, expected)
        np.testing.assert_array_equal(finished.checks, compute_checks(expected.copy()))
        assert finished.bad_rows == ()


def make_calendar(step: int) -> Float32:
    return np.full((CONTRACT.horizon, 4), step, np.float32)


SLOT, LANE = st.integers(0, CAPACITY - 1), st.integers(0, LANES - 1)
SLOTS = st.lists(SLOT, min_size=1, max_size=2 * CAPACITY)
EVENTS = st.one_of(
    st.tuples(st.sampled_from(["append", "append", "append_half", "amend", "replace"]), SLOT),
    st.tuples(st.just("stage"), LANE, SLOTS),
    st.tuples(st.just("run"), LANE),
)


@given(st.lists(EVENTS, max_size=40))
def test_a_batch_has_the_windows_of_the_time_when_it_was_staged(events: list[tuple[object, ...]]) -> None:
    fleet = Fleet()
    for name, *arguments in events:
        getattr(fleet, str(name))(*arguments)
    for lane in range(LANES):
        fleet.run(lane)


def test_a_window_that_is_being_changed_is_torn_and_uploaded_again() -> None:
    fleet = Fleet()
    fleet.stage(0, [0, 1])
    fleet.run(0)
    fleet.windows.changes[1] |= 1
    resident = fleet.lanes[0].resident
    assert resident is not None
    staged = resident.stage(fleet.windows, np.array([0, 1]), NO_NUMBER, make_calendar)
    assert staged.torn.tolist() == [False, True]
    resident.run(2)
    fleet.windows.changes[1] += 1
    fleet.stage(1, [0, 1])
    fleet.run(1)
    assert fleet.lanes[1].describe() == {"pads": False, "resident": {"uploaded_rows": 4 * LENGTH, "whole_windows": 4}}


def test_lanes_without_a_capacity_have_no_windows() -> None:
    assert get_resident(FakeBackend(CONTRACT).make_lane(0)) is None
