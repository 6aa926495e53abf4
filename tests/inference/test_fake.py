"""Tests `streamd/inference/fake.py`.

The fake lane does what its script says.
"""

import random
import threading
from functools import partial

import numpy as np
import pytest

from streamd.core.errors import BackendUnavailableError, BatchFailedError, LaneLostError
from streamd.inference.fake import FakeBackend, FakeLane, make_fake_forecast
from streamd.inference.opening import open_all
from tests.support.contracts import make_contract

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
        np.testing.assert_array_equal(forecasts[row], make_fake_forecast(CONTRACT, lane.inputs.encoder_cont[row]))
    assert len({forecast.tobytes() for forecast in forecasts}) == 5


def test_a_forecast_is_the_last_value_that_is_there() -> None:
    window = np.full((8, 3), np.nan, np.float32)
    window[5] = (50.0, 60.0, 70.0)
    window[6, 1] = 61.0
    forecast = make_fake_forecast(CONTRACT, window)
    np.testing.assert_allclose(forecast[0, :, 1], [61.001, 50.001], rtol=1e-6)
    np.testing.assert_allclose(forecast[3, 0], [60.604, 61.004, 61.404], rtol=1e-6)
    assert make_fake_forecast(CONTRACT, np.full((8, 3), np.nan, np.float32))[0, 0, 1] == np.float32(0.001)


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
    backend.script.gates["fake-0"].set()
    thread.join()
    assert done == [2]


def run_in_thread(lane: FakeLane, done: list[str]) -> threading.Thread:
    """Run a lane until it waits for its gate; `done` gets its name when it is through."""

    def run() -> None:
        lane.run(1)
        done.append(lane.name)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_lanes_are_done_in_the_order_in_which_they_are_let_go() -> None:
    backend = FakeBackend(CONTRACT)
    backend.script.hold = True
    done: list[str] = []
    lanes = [backend.make_lane(index) for index in range(3)]
    threads = [run_in_thread(lane, done) for lane in lanes]
    for index in (2, 0, 1):
        lanes[index].gate.set()
        threads[index].join()
    assert done == ["fake-2", "fake-0", "fake-1"]


def test_a_lane_that_hangs_is_ended_by_the_test_and_hangs_nobody_else() -> None:
    backend = FakeBackend(CONTRACT)
    hung, sound = backend.make_lane(0), backend.make_lane(1)
    hung.is_hanging = True
    done: list[str] = []
    thread = run_in_thread(hung, done)
    assert len(sound.run(1)) == 1
    assert done == []
    backend.release_all()
    thread.join()
    assert done == ["fake-0"]
    assert len(hung.run(1)) == 1, "it hangs no more"


def test_a_rebuilt_lane_has_a_gate_of_its_own() -> None:
    backend = FakeBackend(CONTRACT)
    former, newer = backend.make_lane(0), backend.make_lane(0)
    assert backend.script.gates["fake-0"] is newer.gate
    assert former.gate is not newer.gate
    assert backend.lanes == [former, newer]


def test_latency_is_of_the_bucket_where_lanes_pad_and_jitter_of_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    def waits(seed: int, *, pads: bool) -> list[float]:
        backend, waited = FakeBackend(CONTRACT, pads=pads), list[float]()
        backend.script.latency_seconds = lambda windows: 100.0 * windows
        backend.script.jitter_seconds, backend.script.seed = 1.0, seed
        lane = backend.make_lane(0)
        monkeypatch.setattr(lane.gate, "wait", waited.append)
        for count in (1, 2, 9):
            lane.run(count)
        return waited

    assert [int(seconds / 100) for seconds in waits(3, pads=True)] == [1, 8, 32]
    assert [int(seconds / 100) for seconds in waits(3, pads=False)] == [1, 2, 9]
    assert waits(3, pads=True) == waits(3, pads=True)
    assert waits(3, pads=True) != waits(4, pads=True)
    drawn = random.Random("3:fake-0")
    assert waits(3, pads=False)[0] == 100.0 + drawn.uniform(0.0, 1.0)


def test_padding_is_none_of_a_window_s_business() -> None:
    backend = FakeBackend(CONTRACT, pads=True)
    lane = backend.make_lane(0)
    lane.inputs.encoder_cont[:] = np.nan
    lane.inputs.encoder_cont[:2] = 5.0
    backend.script.poison = lambda window: bool(np.isnan(window).all())
    assert lane.run(2).shape == (2, 4, 2, 3)


@pytest.mark.parametrize("count", [0, 33])
def test_a_batch_that_no_bucket_holds_is_refused(count: int) -> None:
    with pytest.raises(BatchFailedError, match="expected 1 to 32"):
        FakeBackend(CONTRACT).make_lane(0).run(count)


def test_a_device_that_is_lost_takes_its_lanes_and_leaves_another_s() -> None:
    backend = FakeBackend(CONTRACT, devices=2)
    lanes = [backend.make_lane(index) for index in range(4)]
    assert [lane.device for lane in lanes] == ["fake:0", "fake:1", "fake:0", "fake:1"]
    assert backend.default_lanes == 4
    backend.lose_device("fake:1")
    for lane in lanes[1::2]:
        for call in (lane.check, lambda lane=lane: lane.run(1)):
            with pytest.raises(LaneLostError, match=r"fake:1 is gone") as caught:
                call()
            assert caught.value.device_gone
    for lane in lanes[::2]:
        lane.check()
        lane.run(1)
    with pytest.raises(BackendUnavailableError, match="fake:1"):
        backend.make_lane(1)
    backend.restore_device("fake:1")
    backend.make_lane(1).check()
    with pytest.raises(LaneLostError):
        lanes[1].check()


def test_lanes_fail_to_be_made_by_script() -> None:
    backend = FakeBackend(CONTRACT)
    backend.script.make_errors.extend([None, BackendUnavailableError("no memory")])
    backend.make_lane(0)
    with pytest.raises(BackendUnavailableError, match="no memory"):
        backend.make_lane(1)
    backend.make_lane(1)
    assert [lane.name for lane in backend.lanes] == ["fake-0", "fake-1"]


def test_closing_is_noted() -> None:
    _, lane = make_lane()
    assert (lane.is_closed, lane.closings) == (False, 0)
    lane.close()
    assert (lane.is_closed, lane.closings) == (True, 1)


def test_all_lanes_are_opened_or_none() -> None:
    backend = FakeBackend(CONTRACT)
    assert [lane.name for lane in open_all(partial(backend.make_lane, index) for index in range(2))] == [
        lane.name for lane in backend.lanes
    ]
    backend.script.make_errors.extend([None, BackendUnavailableError("no room")])
    with pytest.raises(BackendUnavailableError, match="no room"):
        open_all(partial(backend.make_lane, index) for index in range(3))
    assert [lane.is_closed for lane in backend.lanes] == [False, False, True]
