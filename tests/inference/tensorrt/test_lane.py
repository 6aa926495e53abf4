"""Tests `streamd/inference/tensorrt/lane.py`.

TensorRT lanes over a fake CUDA and a fake TensorRT, as 8.6 and as 10 have it.
"""

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamd.core.errors import BackendUnavailableError, BatchFailedError, DeviceLostError, LaneLostError
from streamd.inference import cuda
from streamd.inference.fake import make_fake_forecast
from streamd.inference.leaked import leak_deliberately
from streamd.inference.tensorrt.engine import Plan
from streamd.inference.tensorrt.lane import TensorRtBackend, TensorRtLane
from streamd.inference.tensorrt.library import load_tensorrt
from tests.support.contracts import make_contract
from tests.support.fake_cuda import FakeCuda, Runtime
from tests.support.fake_tensorrt_runtime import FakeTensorRt

CONTRACT = make_contract()
BUCKETS = (1, 4, 8)
STATIC = [[bucket] * 3 for bucket in BUCKETS]


def make_plan(folder: Path, profiles: list[list[int]] = STATIC, **more: object) -> Plan:
    path = folder / "model_fp16.engine"
    path.write_text(json.dumps({"profiles": profiles, **more}))
    return Plan(path, "fp16")


def fill(lane: TensorRtLane, seed: int = 0) -> None:
    lane.inputs.encoder_cont[:] = np.random.default_rng(seed).random(lane.inputs.encoder_cont.shape)


def expect_right(lane: TensorRtLane, count: int) -> None:
    forecasts = lane.run(count)
    assert forecasts.shape == (count, 4, 2, 3)
    for row in range(count):
        np.testing.assert_array_equal(forecasts[row], make_fake_forecast(CONTRACT, lane.inputs.encoder_cont[row]))


def test_every_size_runs_as_the_next_bucket_with_one_graph_launch(library: FakeTensorRt, tmp_path: Path) -> None:
    lane = TensorRtBackend(make_plan(tmp_path), CONTRACT, BUCKETS).make_lane(0)
    assert lane.describe() == {"graphs": {"1": "captured", "4": "captured", "8": "captured"}}
    assert (lane.name, lane.device, lane.buckets, lane.pads) == ("cuda:0/0", "cuda:0", BUCKETS, True)
    calls = library.cuda.calls
    for count in range(1, 9):
        fill(lane, count)
        del calls[:]
        expect_right(lane, count)
        assert calls[-3:] == ["cudaGraphLaunch", "cudaEventRecord", "cudaEventSynchronize"]
        assert "cudaMemcpyAsync" not in calls
    for count in (0, 9):
        with pytest.raises(BatchFailedError, match=f"a batch of {count}, expected 1 to 8"):
            lane.run(count)
    lane.close()
    lane.close()
    assert library.cuda.left == 0


def test_lanes_share_an_engine_and_the_last_one_releases_it(library: FakeTensorRt, tmp_path: Path) -> None:
    backend = TensorRtBackend(make_plan(tmp_path), CONTRACT, BUCKETS, devices=(0, 1), lanes_per_device=2)
    assert backend.default_lanes == 4
    lanes = [backend.make_lane(index) for index in range(4)]
    assert [lane.name for lane in lanes] == ["cuda:0/0", "cuda:1/0", "cuda:0/1", "cuda:1/1"]
    assert library.loaded == 2
    assert cuda.count_live() == {
        "engines": 2, "contexts": 12, "streams": 4, "events": 4, "graphs": 12, "host_buffers": 20, "device_buffers": 24,
    }  # fmt: skip
    for lane in lanes:
        fill(lane)
        expect_right(lane, 5)
        lane.close()
    assert cuda.count_live() == {}
    assert library.cuda.left == 0
    lane = backend.make_lane(1)
    assert library.loaded == 3
    lane.close()


def test_a_dynamic_engine_that_cannot_be_captured_is_enqueued(library: FakeTensorRt, tmp_path: Path) -> None:
    lane = TensorRtBackend(make_plan(tmp_path, [[1, 4, 8]]), CONTRACT, BUCKETS).make_lane(0)
    reasons = lane.describe()["graphs"]
    assert all(how.startswith("not captured") and "loop of dynamic shape" in how for how in reasons.values()), reasons
    fill(lane)
    expect_right(lane, 3)
    lane.close()


def test_a_static_profile_is_preferred_to_a_dynamic_one(library: FakeTensorRt, tmp_path: Path) -> None:
    lane = TensorRtBackend(make_plan(tmp_path, [[1, 4, 8], [4, 4, 4]]), CONTRACT, BUCKETS).make_lane(0)
    assert [how == "captured" for how in lane.describe()["graphs"].values()] == [False, True, False]
    lane.close()


def test_a_profile_that_is_refused_is_told_before_the_context_is_told_shapes(
    library: FakeTensorRt, tmp_path: Path
) -> None:
    library.unshared_profiles.add(1)
    told = "cuda:0/0: a batch of 4 was refused: profile 1 is in use by another context"
    with pytest.raises(BackendUnavailableError, match=told):
        TensorRtBackend(make_plan(tmp_path), CONTRACT, BUCKETS).make_lane(0)
    assert library.cuda.left == 0


@pytest.mark.parametrize("spin", [False, True])
def test_who_waits_sleeps_unless_asked_to_spin(library: FakeTensorRt, tmp_path: Path, spin: bool) -> None:
    lane = TensorRtBackend(make_plan(tmp_path), CONTRACT, (4,), spin=spin).make_lane(0)
    flags = library.cuda.events.values()
    assert [bool(each & Runtime.cudaEventBlockingSync) for each in flags] == [not spin]
    fill(lane)
    expect_right(lane, 3)
    lane.close()


def test_graphs_can_be_declined(library: FakeTensorRt, tmp_path: Path) -> None:
    lane = TensorRtBackend(make_plan(tmp_path), CONTRACT, (4,), graphs=False).make_lane(0)
    assert lane.describe() == {"graphs": {"4": "not asked for"}}
    fill(lane)
    expect_right(lane, 2)
    library.refusals.append("no memory for that")
    with pytest.raises(BatchFailedError, match="no memory for that"):
        lane.run(2)
    expect_right(lane, 2)
    lane.close()


@pytest.mark.parametrize(
    ("plan", "buckets", "reason"),
    [
        ({}, (1, 16), "no profile takes a batch of 16"),
        ({"output": (4, 3, 3)}, BUCKETS, "the engine's outputs are"),
    ],
)
def test_an_engine_that_does_not_fit_is_refused_and_nothing_is_left(
    library: FakeTensorRt, tmp_path: Path, plan: dict[str, object], buckets: tuple[int, ...], reason: str
) -> None:
    backend = TensorRtBackend(make_plan(tmp_path, **plan), CONTRACT, buckets)  # type: ignore[arg-type]
    with pytest.raises(BackendUnavailableError, match=reason):
        backend.make_lane(0)
    assert cuda.count_live() == {}
    assert library.cuda.left == 0


def test_an_output_s_axis_that_the_plan_leaves_open_is_read_from_the_context(
    library: FakeTensorRt, tmp_path: Path
) -> None:
    lane = TensorRtBackend(make_plan(tmp_path, open="settled"), CONTRACT, BUCKETS).make_lane(0)
    for count in (1, 3, 8):
        fill(lane, count)
        expect_right(lane, count)
    lane.close()


@pytest.mark.parametrize(("how", "told"), [("unknown", r"8: \(8, -1"), ("by batch", r"1: \(1, 4, .*8: \(8, 32, ")])
def test_an_output_without_one_shape_for_every_row_is_refused(
    library: FakeTensorRt, tmp_path: Path, how: str, told: str
) -> None:
    with pytest.raises(BackendUnavailableError, match=rf"output 'predictions' by batch is .*{told}.*expected a row"):
        TensorRtBackend(make_plan(tmp_path, open=how), CONTRACT, BUCKETS).make_lane(0)
    assert cuda.count_live() == {}
    assert library.cuda.left == 0


def test_a_truncated_plan_names_its_file_tensorrt_s_reason_and_the_way_out(
    library: FakeTensorRt, tmp_path: Path
) -> None:
    plan = make_plan(tmp_path)
    plan.path.write_bytes(plan.path.read_bytes()[:9])
    with pytest.raises(BackendUnavailableError, match=r"model_fp16.engine.*magic tag does not match.*engine build"):
        TensorRtBackend(plan, CONTRACT, BUCKETS).make_lane(0)
    plan.path.unlink()
    with pytest.raises(BackendUnavailableError, match="No such file"):
        TensorRtBackend(plan, CONTRACT, BUCKETS).make_lane(0)
    assert cuda.count_live() == {}


def test_a_lane_for_which_there_is_no_memory_says_so_and_leaves_nothing(library: FakeTensorRt, tmp_path: Path) -> None:
    library.cuda.free_bytes = 4000
    with pytest.raises(BackendUnavailableError, match=r"cudaErrorMemoryAllocation.*MiB are free: open fewer lanes"):
        TensorRtBackend(make_plan(tmp_path), CONTRACT, BUCKETS).make_lane(0)
    assert cuda.count_live() == {}
    assert library.cuda.left == 0


@pytest.mark.parametrize("call", ["cudaGraphLaunch", "cudaEventRecord", "cudaEventSynchronize"])
@pytest.mark.parametrize(("number", "gone"), [(700, True), (1, False)])
def test_a_cuda_error_loses_the_lane(library: FakeTensorRt, tmp_path: Path, call: str, number: int, gone: bool) -> None:
    lane = TensorRtBackend(make_plan(tmp_path), CONTRACT, BUCKETS).make_lane(0)
    lane.check()
    library.cuda.fail(call, number)
    with pytest.raises(LaneLostError, match=call) as raised:
        lane.run(1)
    assert raised.value.device_gone is gone
    lane.close()


def test_after_a_sticky_error_idle_lanes_say_so_and_new_ones_come_when_all_old_ones_are_closed(
    library: FakeTensorRt, tmp_path: Path
) -> None:
    backend = TensorRtBackend(make_plan(tmp_path), CONTRACT, BUCKETS)
    lanes = [backend.make_lane(index) for index in range(2)]
    library.cuda.broken.add(0)
    for lane in lanes:
        with pytest.raises(LaneLostError) as raised:
            lane.check()
        assert raised.value.device_gone
    lanes[0].close()
    with pytest.raises(BackendUnavailableError, match="still hold parts of it"):
        backend.make_lane(0)
    lanes[1].close()
    assert cuda.count_live() == {}
    library.cuda.reset_helps = False
    with pytest.raises(DeviceLostError, match=r"IllegalAddress.*restart it to use the device again"):
        backend.make_lane(0)
    library.cuda.reset_helps = True
    lane = backend.make_lane(0)
    fill(lane)
    expect_right(lane, 7)
    lane.close()


def test_devices_that_are_not_there_are_named(library: FakeTensorRt, tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailableError, match=r"devices \[2\] do not exist, expected 0 to 1"):
        TensorRtBackend(make_plan(tmp_path), CONTRACT, BUCKETS, devices=(0, 2))


def test_an_older_plan_runs_in_its_lean_runtime(library: FakeTensorRt, tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    lean = tmp_path / "libnvinfer_lean.so.8"
    backend = TensorRtBackend(Plan(plan.path, "fp16", lean), CONTRACT, BUCKETS)
    lane = backend.make_lane(0)
    assert library.parents == [str(lean)]
    lane.close()


def test_without_a_driver_tensorrt_is_not_even_imported(device: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    device.devices = 0
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    load_tensorrt.cache_clear()
    with pytest.raises(BackendUnavailableError, match="InsufficientDriver"):
        load_tensorrt()
    device.devices = 1
    for name in ("tensorrt_lean", "tensorrt_lean_bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BackendUnavailableError, match=r"pip install 'streamd\[tensorrt\]'"):
        load_tensorrt()


def test_the_lean_runtime_serves_where_it_is_all_there_is(device: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_lean", FakeTensorRt("10.16.1", device, CONTRACT, "tensorrt_lean"))
    load_tensorrt.cache_clear()
    assert (load_tensorrt().lean, load_tensorrt().major_version) == (True, 10)
    load_tensorrt.cache_clear()


def test_on_a_broken_device_nothing_of_tensorrt_s_is_destroyed(
    library: FakeTensorRt, tmp_path: Path, kept: list[Any]
) -> None:
    backend = TensorRtBackend(make_plan(tmp_path), CONTRACT, BUCKETS)
    lane = backend.make_lane(0)
    lane.close()
    assert kept == [], "a device that is well gets its memory back"
    lane = backend.make_lane(0)
    library.cuda.broken.add(0)
    with pytest.raises(LaneLostError):
        lane.check()
    lane.close()
    kinds = [type(each).__name__ for each in kept]
    assert len(kept) == len(BUCKETS) + 2, f"a context a bucket, the runtime, the engine: {kinds}"
    assert cuda.count_live() == {}, "nothing is in the way of another process"


def test_what_is_kept_to_the_end_outlives_its_last_name() -> None:
    class Thing:
        gone: list[str] = []  # noqa: RUF012 - one list for the test

        def __del__(self) -> None:
            self.gone.append("gone")

    thing = Thing()
    leak_deliberately(thing)
    number = sys.getrefcount(thing)
    del thing
    assert Thing.gone == []
    assert number >= 3


def test_a_plan_that_was_replaced_is_not_loaded_again(library: FakeTensorRt, tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    plan = replace(plan, sha256=hashlib.sha256(plan.path.read_bytes()).hexdigest())
    backend, before = TensorRtBackend(plan, CONTRACT, BUCKETS), plan.path.read_bytes()
    first = backend.make_lane(0)
    plan.path.write_bytes(before + b" ")
    second = backend.make_lane(1)  # the engine that is loaded is shared, whatever the file is by now
    expect_right(second, 4)
    for lane in (first, second):
        lane.close()
    with pytest.raises(BackendUnavailableError, match=r"model_fp16\.engine: changed since it was checked"):
        backend.make_lane(0)
    plan.path.write_bytes(before)
    backend.make_lane(0).close()
    assert library.cuda.left == 0
