"""The fake lane does what its script says."""

import threading

import numpy as np
import pytest

from streamd.core.errors import BatchFailedError, LaneLostError
from streamd.device.fake import FakeBackend, FakeLane, forecast_of
from tests.core.contracts import make_contract

CONTRACT = make_contract()


def make_lane() -> tuple[FakeBackend, FakeLane]:
    backend = FakeBackend(CONTRACT)
    lane = backend.make_lane(0)
    lane.inputs.encoder_cont[:] = np.arange(lane.inputs.encoder_cont.size).reshape(lane.inputs.encoder_cont.shape)
    return backend, lane


def test_a_window_s_forecast_is_its_own_wherever_it_lies() -> None:
    _, lane = make_lane()
    forecasts = lane.run(5)
    assert forecasts.shape == (5, 4, 2, 3)
    for row in range(5):
        np.testing.assert_array_equal(forecasts[row], forecast_of(CONTRACT, lane.inputs.encoder_cont[row]))
    assert len({forecast.tobytes() for forecast in forecasts}) == 5


def test_a_forecast_is_the_last_value_that_is_there() -> None:
    window = np.full((8, 3), np.nan, np.float32)
    window[5] = (50.0, 60.0, 70.0)
    window[6, 1] = 61.0
    forecast = forecast_of(CONTRACT, window)
    np.testing.assert_allclose(forecast[0, :, 1], [61.001, 50.001], rtol=1e-6)
    np.testing.assert_allclose(forecast[3, 0], [60.604, 61.004, 61.404], rtol=1e-6)
    assert forecast_of(CONTRACT, np.full((8, 3), np.nan, np.float32))[0, 0, 1] == np.float32(0.001)


def test_the_script_fails_batches_rows_and_lanes() -> None:
    backend, lane = make_lane()
    script = backend.script
    script.errors.append(BatchFailedError("once"))
    with pytest.raises(BatchFailedError, match="once"):
        lane.run(2)
    poisoned = lane.inputs.encoder_cont[1, 0, 0]
    script.poison = lambda window: bool(window[0, 0] == poisoned)
    lane.run(1)
    with pytest.raises(BatchFailedError, match="poisoned"):
        lane.run(2)
    script.poison = lambda window: False
    script.not_finite = lambda window: bool(window[0, 0] == poisoned)
    assert np.isfinite(lane.run(3)).all(axis=(1, 2, 3)).tolist() == [True, False, True]
    script.lost = True
    for _ in range(2):
        with pytest.raises(LaneLostError):
            lane.run(1)
    assert [count for _, count in script.runs] == [2, 1, 2, 3, 1, 1]


def test_a_held_lane_waits_for_its_release() -> None:
    backend, lane = make_lane()
    began = threading.Event()
    backend.script.hold = True
    backend.script.on_run = lambda name, inputs: began.set()
    done: list[int] = []
    thread = threading.Thread(target=lambda: done.append(len(lane.run(2))))
    thread.start()
    began.wait()
    assert done == []
    backend.script.release["fake-0"].set()
    thread.join()
    assert done == [2]


def test_closing_is_noted() -> None:
    _, lane = make_lane()
    assert not lane.closed
    lane.close()
    assert lane.closed
