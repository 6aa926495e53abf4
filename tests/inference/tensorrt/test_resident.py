"""Tests `streamd/inference/tensorrt/resident.py`.

Windows on a fake device: what lanes gather there is what the host has, whoever uploaded it.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from streamd.core.arrays import Float32
from streamd.core.contract import MAX_STATUS
from streamd.core.errors import BatchFailedError, LaneLostError
from streamd.core.state.forecast_seals import compute_checks
from streamd.inference import cuda
from streamd.inference.fake import make_fake_forecast
from streamd.inference.lane import HostWindows
from streamd.inference.tensorrt.engine import Plan
from streamd.inference.tensorrt.lane import TensorRtBackend, TensorRtLane
from tests.support.contracts import make_contract
from tests.support.fake_cuda import CudaErrorT
from tests.support.fake_kernels import view
from tests.support.fake_tensorrt_runtime import FakeTensorRt

CONTRACT = make_contract()
BUCKETS = (1, 4, 8)
CAPACITY = 6
LENGTH, FEATURES = CONTRACT.context_length, len(CONTRACT.features)


def make_plan(folder: Path) -> Plan:
    path = folder / "model_fp16.engine"
    path.write_text(json.dumps({"profiles": [[bucket] * 3 for bucket in BUCKETS]}))
    return Plan(path, "fp16")


@dataclass
class Host:
    """Windows that the test appends to and amends, as the store does."""

    windows: HostWindows
    random: np.random.Generator

    def append(self, slot: int, steps: int = 1) -> None:
        windows = self.windows
        for _ in range(steps):
            windows.newest[slot] += 1
            self.fill(slot, int(windows.newest[slot]))
        windows.changes[slot] += 2 * steps

    def amend(self, slot: int, behind: int) -> None:
        self.fill(slot, int(self.windows.newest[slot]) - behind)
        self.windows.changes[slot] += 2

    def fill(self, slot: int, step: int) -> None:
        self.windows.values[slot, step % LENGTH] = self.random.random(FEATURES)
        self.windows.marks[slot, step % LENGTH] = self.random.integers(0, MAX_STATUS + 1) | 0x80

    def window(self, slot: int) -> Float32:
        begin = (int(self.windows.newest[slot]) + 1) % LENGTH
        rolled: Float32 = np.roll(self.windows.values[slot], -begin, axis=0)
        return rolled


@pytest.fixture
def host() -> Host:
    windows = HostWindows(
        newest=np.full(CAPACITY, 99, np.int64),
        changes=np.zeros(CAPACITY, np.uint32),
        generations=np.zeros(CAPACITY, np.int64),
        values=np.zeros((CAPACITY, LENGTH, FEATURES), np.float32),
        marks=np.zeros((CAPACITY, LENGTH), np.uint8),
    )
    host = Host(windows, np.random.default_rng(1))
    for slot in range(CAPACITY):
        host.append(slot, LENGTH)
    return host


def make_calendar(step: int) -> Float32:
    return np.full((CONTRACT.horizon, 4), step, np.float32)


def stage(lane: TensorRtLane, host: Host, *slots: int) -> None:
    assert lane.resident is not None
    places = np.array(slots, np.int64)
    lane.resident.stage(host.windows, places, np.array([3], np.int32), make_calendar)


def expect(forecasts: npt.NDArray[np.float32], windows: list[Float32]) -> None:
    assert len(forecasts) == len(windows)
    for forecast, window in zip(forecasts, windows, strict=True):
        expected = np.sort(make_fake_forecast(CONTRACT, window).transpose(1, 0, 2), axis=-1)
        np.testing.assert_array_equal(forecast, expected)


def run(lane: TensorRtLane, host: Host, *slots: int) -> None:
    """Stage and run; the forecasts must be those of the host's windows."""
    stage(lane, host, *slots)
    assert lane.resident is not None
    finished = lane.resident.run(len(slots))
    expect(finished.forecasts, [host.window(slot) for slot in slots])
    assert finished.checks is not None
    np.testing.assert_array_equal(finished.checks, compute_checks(finished.forecasts))
    assert finished.bad_rows == ()


def test_lanes_share_the_windows_and_upload_what_is_new(library: FakeTensorRt, tmp_path: Path, host: Host) -> None:
    backend = TensorRtBackend(make_plan(tmp_path), CONTRACT, BUCKETS, capacity=CAPACITY)
    one, other = backend.make_lane(0), backend.make_lane(1)
    run(one, host, 0, 1, 2)
    assert one.describe()["resident"] == {"uploaded_rows": 3 * LENGTH, "whole_windows": 3}
    host.append(1)
    host.append(2, 2)
    run(other, host, 1, 2, 0)
    assert one.describe()["resident"] == {"uploaded_rows": 3 * LENGTH + 3, "whole_windows": 3}
    host.amend(1, 1)
    host.append(1)
    run(one, host, 1)
    assert one.describe()["resident"]["whole_windows"] == 4
    one.close()
    run(other, host, 5, 1)
    other.close()
    assert cuda.count_live() == {}
    assert library.cuda.left == 0


def test_batches_move_in_the_order_in_which_they_were_staged(library: FakeTensorRt, tmp_path: Path, host: Host) -> None:
    backend = TensorRtBackend(make_plan(tmp_path), CONTRACT, BUCKETS, capacity=CAPACITY)
    one, other = backend.make_lane(0), backend.make_lane(1)
    run(one, host, 4)
    host.append(4)
    before = host.window(4)
    stage(one, host, 4)
    host.append(4)
    stage(other, host, 4)
    assert one.resident is not None
    assert other.resident is not None
    expect(other.resident.run(1).forecasts, [host.window(4)])
    expect(one.resident.run(1).forecasts, [before])
    assert one.describe()["resident"]["whole_windows"] == 1
    host.append(4)
    stage(one, host, 4)
    one.close()  # without having run: its rows are on the device all the same
    host.append(4)
    run(other, host, 4)
    assert other.describe()["resident"]["whole_windows"] == 1
    other.close()


def test_windows_of_callers_are_copied_behind_the_staged_ones(
    library: FakeTensorRt, tmp_path: Path, host: Host
) -> None:
    lane = TensorRtBackend(make_plan(tmp_path), CONTRACT, BUCKETS, capacity=CAPACITY).make_lane(0)
    stage(lane, host, 2, 3)
    lane.inputs.encoder_cont[2:5] = host.random.random((3, LENGTH, FEATURES))
    own = lane.inputs.encoder_cont[2:5].copy()
    assert lane.resident is not None
    expect(lane.resident.run(5).forecasts, [host.window(2), host.window(3), *own])
    lane.inputs.encoder_cont[:4] = host.random.random((4, LENGTH, FEATURES))
    predictions = lane.run(4)
    expect(predictions.transpose(0, 2, 1, 3), list(lane.inputs.encoder_cont[:4]))
    run(lane, host, 2)
    lane.close()


def test_what_the_network_reads_beside_the_values(library: FakeTensorRt, tmp_path: Path, host: Host) -> None:
    lane = TensorRtBackend(make_plan(tmp_path), CONTRACT, BUCKETS, capacity=CAPACITY).make_lane(0)
    host.append(5)
    run(lane, host, 0, 1, 5)
    pointers = lane.executor.pointers
    past = view(pointers["encoder_cat"], np.int32, 3, LENGTH, 2)
    ahead = view(pointers["decoder_cat"], np.int32, 3, CONTRACT.horizon, 2)
    days = view(pointers["decoder_cont"], np.float32, 3, CONTRACT.horizon, 4)
    for row, slot in enumerate((0, 1, 5)):
        newest = int(host.windows.newest[slot])
        statuses = np.roll(host.windows.marks[slot], -((newest + 1) % LENGTH)) & MAX_STATUS
        np.testing.assert_array_equal(past[row, :, 1], statuses)
        np.testing.assert_array_equal(ahead[row, :, 1], statuses[-1])
        np.testing.assert_array_equal(days[row], make_calendar(newest))
    assert (past[..., 0] == 3).all()
    assert (ahead[..., 0] == 3).all()
    lane.close()


def test_a_memory_is_copied_for_staged_windows_and_for_those_of_callers(
    library: FakeTensorRt, tmp_path: Path, host: Host
) -> None:
    # With periods of two steps, which its window holds: the daemon would refuse it, and a lane does not care.
    contract = library.contract = replace(CONTRACT, memory_length=5, memory_step_seconds=600)
    lane = TensorRtBackend(make_plan(tmp_path), contract, BUCKETS, capacity=CAPACITY).make_lane(0)
    memory = lane.inputs.memory_cont
    assert memory is not None
    for staged, count in ((3, 3), (2, 4), (0, 2), (1, 1)):
        memory[:] = host.random.random(memory.shape)
        if staged:
            stage(lane, host, *range(staged))
        lane.inputs.encoder_cont[staged:count] = host.random.random((count - staged, LENGTH, FEATURES))
        assert lane.resident is not None
        lane.resident.run(count)
        on_device = view(lane.executor.pointers["memory_cont"], np.float32, count, 5, FEATURES)
        np.testing.assert_array_equal(on_device, memory[:count])
    lane.close()


def test_forecasts_that_are_not_finite_are_found(library: FakeTensorRt, tmp_path: Path, host: Host) -> None:
    lane = TensorRtBackend(make_plan(tmp_path), CONTRACT, BUCKETS, capacity=CAPACITY).make_lane(0)
    host.windows.values[1] = np.inf
    stage(lane, host, 0, 1)
    assert lane.resident is not None
    assert lane.resident.run(2).bad_rows == (1,)
    lane.close()


def test_a_device_without_room_or_kernels_copies_windows_and_says_so(library: FakeTensorRt, tmp_path: Path) -> None:
    backend = TensorRtBackend(make_plan(tmp_path), CONTRACT, BUCKETS, capacity=CAPACITY)
    library.cuda.fail("cuModuleLoadData", CudaErrorT.cudaErrorInvalidValue)
    lane = backend.make_lane(0)
    assert lane.resident is None
    assert "cuModuleLoadData" in lane.describe()["resident"]
    lane.inputs.encoder_cont[:] = 1.5
    np.testing.assert_array_equal(lane.run(1)[0], make_fake_forecast(CONTRACT, lane.inputs.encoder_cont[0]))
    lane.close()
    large = TensorRtBackend(make_plan(tmp_path), CONTRACT, BUCKETS, capacity=1 << 20)
    library.cuda.free_bytes = 1 << 24
    lane = large.make_lane(0)
    assert lane.resident is None
    assert "MiB are free" in lane.describe()["resident"]
    lane.close()


def test_after_a_move_that_failed_everything_is_uploaded_again(
    library: FakeTensorRt, tmp_path: Path, host: Host
) -> None:
    backend = TensorRtBackend(make_plan(tmp_path), CONTRACT, BUCKETS, capacity=CAPACITY)
    one, other = backend.make_lane(0), backend.make_lane(1)
    run(one, host, 0, 1)
    host.append(0)
    stage(one, host, 0)
    stage(other, host, 0)  # counts on the row that the batch before it brings
    library.cuda.fail("cuLaunchKernel", CudaErrorT.cudaErrorInvalidValue)
    assert one.resident is not None
    assert other.resident is not None
    with pytest.raises(LaneLostError, match="cuLaunchKernel"):
        one.resident.run(1)
    with pytest.raises(LaneLostError, match="a batch before this one failed"):
        other.resident.run(1)
    run(other, host, 0, 1)
    assert other.describe()["resident"]["whole_windows"] == 4
    one.close()
    other.close()


def test_a_batch_that_is_refused_leaves_the_windows_as_they_are(
    library: FakeTensorRt, tmp_path: Path, host: Host
) -> None:
    lane = TensorRtBackend(make_plan(tmp_path), CONTRACT, BUCKETS, graphs=False, capacity=CAPACITY).make_lane(0)
    library.refusals.append("no")
    stage(lane, host, 0)
    assert lane.resident is not None
    with pytest.raises(BatchFailedError):
        lane.resident.run(1)
    run(lane, host, 0)
    assert lane.describe()["resident"]["whole_windows"] == 1
    lane.close()


def test_a_lost_device_releases_all_and_begins_anew(library: FakeTensorRt, tmp_path: Path, host: Host) -> None:
    backend = TensorRtBackend(make_plan(tmp_path), CONTRACT, BUCKETS, capacity=CAPACITY)
    lane = backend.make_lane(0)
    run(lane, host, 0)
    library.cuda.broken.add(0)
    stage(lane, host, 0)
    assert lane.resident is not None
    with pytest.raises(LaneLostError):
        lane.resident.run(1)
    lane.close()
    lane = backend.make_lane(0)
    run(lane, host, 0)
    lane.close()
