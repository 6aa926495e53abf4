"""Tests `streamd/inference/tensorrt/resident.py`.

The package's kernels on a real GPU: windows bit for bit as the host has them, forecasts as the host finishes them.
"""

from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pytest

from streamd.core.arrays import Float32
from streamd.core.state.forecast_seals import compute_checks
from streamd.inference import cuda
from streamd.inference.cuda import DeviceBuffer, HostBuffer, KernelModule, Stream
from streamd.inference.lane import HostWindows, Inputs
from streamd.inference.tensorrt.resident import DeviceWindows, ForecastFinisher, ResidentLane
from streamd.runtime.lanes.worker import normalize_predictions
from tests.support.contracts import make_contract

CONTRACT = make_contract()
CAPACITY, MOST = 50, 16
LENGTH, FEATURES = CONTRACT.context_length, len(CONTRACT.features)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not cuda.count_devices(), reason=f"needs a GPU: {cuda.explain_no_device()}"),
]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    cuda.use_device(0)
    with ExitStack() as stack:
        yield stack
    assert cuda.count_live() == {}


def make_calendar(step: int) -> Float32:
    return np.full((CONTRACT.horizon, 4), step, np.float32)


def test_windows_on_the_device_are_those_of_the_host(stack: ExitStack) -> None:
    random = np.random.default_rng(1)
    host = HostWindows(
        newest=random.integers(100, 120, CAPACITY),
        changes=np.zeros(CAPACITY, np.uint32),
        generations=np.zeros(CAPACITY, np.int64),
        values=random.random((CAPACITY, LENGTH, FEATURES), np.float32),
        marks=random.integers(0, 256, (CAPACITY, LENGTH)).astype(np.uint8),
    )
    windows = DeviceWindows(0, CONTRACT, CAPACITY)
    windows.acquire()
    stack.callback(windows.release)
    stream = stack.enter_context(Stream())
    plain = Inputs.allocate(CONTRACT, MOST).view_first(MOST)
    pinned = {
        name: stack.enter_context(HostBuffer(array.nbytes)).array(array.dtype, array.shape)
        for name, array in plain.items()
    }
    pointers = {name: stack.enter_context(DeviceBuffer(array.nbytes)).pointer for name, array in plain.items()}
    lane = ResidentLane(windows, Inputs(**pinned), pointers, stream)
    stack.callback(lane.close)
    for turn in range(5):
        slots = random.choice(CAPACITY, MOST, replace=False)
        for slot in slots.tolist():
            host.newest[slot] += turn
            for step in range(int(host.newest[slot]) - turn + 1, int(host.newest[slot]) + 1):
                host.values[slot, step % LENGTH] = random.random(FEATURES)
            host.changes[slot] += 2 * turn
        lane.windows.stage(host, slots, np.arange(MOST, dtype=np.int32), make_calendar)
        assert lane.windows.enqueue() == MOST
        stream.synchronize()
        for name, array in plain.items():
            cuda.copy_to_host(pinned[name], pointers[name], array.nbytes, stream)
        stream.synchronize()
        for row, slot in enumerate(slots.tolist()):
            begin = (int(host.newest[slot]) + 1) % LENGTH
            statuses = np.roll(host.marks[slot], -begin) & 15
            np.testing.assert_array_equal(pinned["encoder_cont"][row], np.roll(host.values[slot], -begin, axis=0))
            np.testing.assert_array_equal(pinned["encoder_cat"][row, :, 1], statuses)
            np.testing.assert_array_equal(pinned["encoder_cat"][row, :, 0], row)
            np.testing.assert_array_equal(pinned["decoder_cat"][row], [[row, statuses[-1]]] * CONTRACT.horizon)
            np.testing.assert_array_equal(pinned["decoder_cont"][row], make_calendar(int(host.newest[slot])))


def test_forecasts_are_finished_as_on_the_host(stack: ExitStack) -> None:
    random = np.random.default_rng(2)
    shape = (MOST, CONTRACT.horizon, len(CONTRACT.targets), len(CONTRACT.quantiles))
    predictions = random.normal(size=shape).astype(np.float32)
    predictions[3, 1, 1, 1], predictions[5, 0, 0, 0] = np.nan, -np.inf
    module = KernelModule(cuda.read_ptx("windows"))
    stack.callback(module.close)
    stream = stack.enter_context(Stream())
    there = stack.enter_context(DeviceBuffer(predictions.nbytes))
    pinned = stack.enter_context(HostBuffer(predictions.nbytes)).array(np.float32, shape)
    pinned[:] = predictions
    finisher = ForecastFinisher(module, CONTRACT, MOST, there.pointer)
    stack.callback(finisher.close)
    cuda.copy_to_device(there.pointer, pinned, predictions.nbytes, stream)
    finisher.enqueue(MOST, stream)
    stream.synchronize()
    finished = finisher.read(MOST)
    expected, bad_rows = normalize_predictions(predictions)
    np.testing.assert_array_equal(finished.forecasts, expected)
    assert finished.bad_rows == bad_rows == (3, 5)
    assert finished.checks is not None
    np.testing.assert_array_equal(finished.checks, compute_checks(finished.forecasts))
