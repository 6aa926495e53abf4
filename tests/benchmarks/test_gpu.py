"""Tests `benchmarks/gpu` as far as no GPU is needed: the inputs, the judgement, and that each check finds a fault."""

import argparse
import asyncio
import itertools
import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.gpu import faults, floors, instant_serve, kernels, run, throughput, timeline, wakeup, windows
from benchmarks.gpu.correctness import Reference, Tally, has_passed, make_batches, run_pass
from benchmarks.gpu.harness import ROOT, ResultFile, Suite
from benchmarks.gpu.processes import CpuWatch
from streamd.core.arrays import Float32
from streamd.core.contract import ModelContract
from streamd.core.state.forecast_seals import compute_checks
from streamd.inference.fake import FakeBackend, make_fake_forecast
from streamd.inference.lane import Inputs, get_resident
from streamd.repository.versions import EngineRepository
from streamd.server.config import Config, EngineSection

FEATURES = ("cpu_user", "mem_used", "net_in", "load_average")
CONTRACT = ModelContract(
    features=FEATURES,
    targets=("cpu_user", "net_in"),
    quantiles=(0.1, 0.5, 0.9),
    context_length=288,
    horizon=8,
    step_seconds=300,
    units={"cpu_user": "percent", "mem_used": "percent", "net_in": "bytes/s", "load_average": "1"},
)
LIMIT = 1e-3
COUNT = 40


@pytest.fixture(scope="module")
def reference() -> Reference:
    inputs = windows.make_windows(CONTRACT, COUNT)
    return Reference(inputs, np.stack([make_fake_forecast(CONTRACT, window) for window in inputs.encoder_cont]))


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return Suite(argparse.Namespace(out=tmp_path, backend="fake", seconds=0.02, buckets=(1, 8)), [])


def judge(reference: Reference, rows: list[int], forecasts: Float32) -> dict[str, Any]:
    tally = Tally()
    reference.judge(np.array(rows), forecasts, LIMIT, tally)
    return tally.summarize()


# ---------------------------------------------------------------- inputs
def test_real_windows_all_differ_and_some_lack_cells_and_some_are_large() -> None:
    inputs = windows.make_windows(CONTRACT, COUNT)
    cells = np.nan_to_num(inputs.encoder_cont, nan=-1.0).reshape(COUNT, -1)
    assert len(np.unique(cells, axis=0)) == COUNT
    holes = np.isnan(inputs.encoder_cont[..., 0]).mean(axis=1)
    assert (holes[2::3] > 0.1).all()
    assert np.nanmax(inputs.encoder_cont) > 1e10
    assert np.nanmax(inputs.encoder_cont[..., 0]) <= 100
    assert inputs.encoder_cat[..., 1].max() > 0


def test_the_store_has_the_windows_with_which_it_was_filled() -> None:
    store = windows.make_filled_store(CONTRACT, 50)
    gather = windows.Gatherer(CONTRACT, store)
    slots = np.array([7, 49, 7, 0])
    inputs = Inputs.allocate(CONTRACT, 4)
    inputs.encoder_cont[:] = np.inf
    inputs.encoder_cat[:] = inputs.decoder_cat[:] = 99
    gather(slots, inputs)
    one = np.empty(CONTRACT.input_shapes["encoder_cont"], np.float32)
    for row, slot in enumerate(slots.tolist()):
        store.gather_window(slot, one, np.empty(CONTRACT.context_length, np.int32))
        np.testing.assert_array_equal(inputs.encoder_cont[row], one)
    assert not inputs.encoder_cat.any()
    assert not inputs.decoder_cat.any()
    assert np.isfinite(inputs.decoder_cont).all()


@given(st.integers(1, 300), st.integers(0, 5))
def test_batches_hold_every_window_and_fit_the_buckets(count: int, seed: int) -> None:
    buckets = (1, 8, 32)
    batches = make_batches(count, buckets, seed)
    assert all(1 <= len(batch) <= buckets[-1] for batch in batches)
    assert all(0 <= row < count for batch in batches for row in batch)
    whole = {len(batch) for batch in batches}
    assert whole >= {bucket for bucket in buckets if bucket <= count}


# ---------------------------------------------------------------- judgement
def test_right_forecasts_pass(reference: Reference) -> None:
    rows = [3, 9, 3, 21]
    found = judge(reference, rows, reference.forecasts[rows])
    assert has_passed(found, LIMIT)
    assert found["relative_error"] == 0


def test_swapped_rows_are_found(reference: Reference) -> None:
    found = judge(reference, [3, 9, 21], reference.forecasts[[3, 21, 9]])
    assert found["rows_of_another_window"] == 2
    assert not has_passed(found, LIMIT)


def test_an_error_of_a_small_target_is_not_hidden_by_a_large_one(reference: Reference) -> None:
    rows = list(range(COUNT))
    wrong = reference.forecasts.copy()
    wrong[:, :, 0] *= 1.5  # percents, beside bytes that are millions
    found = judge(reference, rows, wrong)
    assert found["relative_error"] < LIMIT < found["per_target_scaled_error"]
    assert not has_passed(found, LIMIT)


def test_different_forecasts_of_a_repeated_window_are_found(reference: Reference) -> None:
    twice = reference.forecasts[[5, 5]].copy()
    twice[1] *= 1.01
    found = judge(reference, [5, 5], twice)
    assert found["repeats_beyond_limit"] == found["repeats_not_bit_equal"] == 1


def test_a_forecast_that_is_not_finite_is_found(reference: Reference) -> None:
    broken = reference.forecasts[:4].copy()
    broken[2, 0, 0, 0] = np.nan
    found = judge(reference, [0, 1, 2, 3], broken)
    assert found["windows_not_finite"] == 1
    assert not has_passed(found, LIMIT)


def test_lanes_with_right_forecasts_pass(reference: Reference) -> None:
    backend = FakeBackend(CONTRACT, (1, 8), pads=True)
    lanes = [backend.make_lane(index) for index in range(3)]
    tally = run_pass(lanes, reference, make_batches(COUNT, (1, 8), 1), LIMIT)
    assert has_passed(tally.summarize(), LIMIT)


def test_a_failing_lane_is_reported(reference: Reference) -> None:
    backend = FakeBackend(CONTRACT, (1, 8), pads=True)
    lanes = [backend.make_lane(index) for index in range(2)]
    backend.script.errors.append(ValueError("broken"))
    figures = run_pass(lanes, reference, make_batches(COUNT, (1, 8), 1), LIMIT).summarize()
    assert len(figures["errors"]) == 1
    assert not has_passed(figures, LIMIT)


# ---------------------------------------------------------------- measurements
def test_lanes_are_run_and_counted() -> None:
    backend = FakeBackend(CONTRACT, (1, 8), pads=True)
    lanes = [backend.make_lane(index) for index in range(2)]
    rate, latencies = throughput.run_lanes(lanes, 8, throughput.no_fill, 0.05)
    assert rate > 0
    assert latencies
    assert {lane for lane, _ in backend.script.runs} == {"fake-0", "fake-1"}
    assert {count for _, count in backend.script.runs} == {8}


def test_the_error_of_a_lane_that_fails_while_it_is_measured_is_raised() -> None:
    backend = FakeBackend(CONTRACT, (1, 8), pads=True)
    backend.script.errors.append(ValueError("broken"))
    with pytest.raises(ValueError, match="broken"):
        throughput.run_lanes([backend.make_lane(0)], 8, throughput.no_fill, 5.0)


def cell(lanes: int, bucket: int, rate: float, p99_ms: float, variant: str = "graph") -> dict[str, Any]:
    figures = {"forecasts_per_second": rate, "p99_ms": p99_ms, "p50_ms": p99_ms}
    return {"variant": variant, "lanes": lanes, "bucket": bucket, **figures}


def test_the_summary_has_the_terms_of_the_goals() -> None:
    cells = [
        cell(1, 32, 12_000, 3.0),
        cell(8, 32, 48_000, 7.9),
        cell(8, 256, 81_000, 20.0),
        cell(1, 256, 53_000, 5.0),
        cell(1, 256, 270_000, 0.9, "graph, no gather"),
        cell(1, 64, 9_000, 4.0, "dynamic shapes, plain enqueue"),
        cell(8, 256, 99_000, 1.0, "graph, no gather"),
    ]
    found = throughput.summarize_cells(cells)
    assert found["best"]["forecasts_per_second"] == 81_000
    assert found["best_with_p99_within_8_ms"]["forecasts_per_second"] == 53_000
    assert found["bucket_32_eight_lanes_over_one"] == 4.0
    assert found["bucket_256_on_one_lane_p99_ms"] == {"graph": 5.0, "graph, no gather": 0.9}
    assert found["best_over_dynamic_plain_enqueue"] == 9.0
    assert not found["at_least_500000_per_second"]


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=12))
def test_the_union_of_intervals_has_the_length_that_they_cover(given_intervals: list[tuple[int, int]]) -> None:
    intervals = [(float(begin), float(begin + length)) for begin, length in given_intervals]
    covered = set(itertools.chain.from_iterable(range(int(a), int(b)) for a, b in intervals))
    assert timeline.compute_union_seconds(intervals) == len(covered)


def test_a_timeline_accounts_for_the_time_of_the_lanes() -> None:
    backend = FakeBackend(CONTRACT, (8,), pads=True)
    lanes = [backend.make_lane(index) for index in range(2)]
    recorder = timeline.Recorder(lanes, 8, throughput.no_fill, events=False)
    asyncio.run(recorder.run(0.2))
    found = timeline.account_time(recorder, 0.2)
    assert found["batches"] > 0
    assert 0 < sum(found["share_of_lane_time"].values()) <= 1
    assert all(batch.received >= batch.ordered >= batch.waited >= batch.began for batch in recorder.batches)


class HostEvent:
    """Stands in for a CUDA event, by the host's clock."""

    def __init__(self, *, timing: bool) -> None:
        assert timing
        self.at = 0.0
        self.open = True

    def record(self, stream: Any) -> None:
        assert stream == "stream"
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        assert self.open

    def elapsed_ms(self, since: "HostEvent") -> float:
        return 1e3 * (self.at - since.at)

    def close(self) -> None:
        self.open = False


class StartingLane:
    """A fake lane with the device lane's two halves."""

    def __init__(self, lane: Any) -> None:
        self._lane = lane
        self._executor = argparse.Namespace(_stream="stream")
        self.inputs = lane.inputs

    def run(self, count: int) -> Any:
        return self._lane.run(count)

    def start(self, count: int) -> None:
        self._result = self._lane.run(count)

    def wait(self, count: int) -> Any:
        return self._result


def test_the_share_of_the_gpu_in_a_timeline_is_computed_from_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "Event", HostEvent)
    monkeypatch.setattr(timeline, "EVENTS_A_LANE", 5_000)
    backend = FakeBackend(CONTRACT, (8,), pads=True)
    recorder = timeline.Recorder([StartingLane(backend.make_lane(0))], 8, throughput.no_fill, events=True)
    asyncio.run(recorder.run(0.2))
    found = timeline.account_time(recorder, 0.2)
    assert found["batches_with_marks"] == found["batches"] > 0
    assert 0 < found["gpu_busy_share"] <= 1
    # One lane runs one batch at a time.
    assert found["lanes_on_the_gpu_at_once"] == pytest.approx(found["gpu_busy_share"], abs=1e-3)
    assert all(batch.gpu_ended >= batch.gpu_began > 0 for batch in recorder.batches)


def test_bytes_of_a_forecast_are_those_of_its_tensors() -> None:
    inputs = Inputs.allocate(CONTRACT, 1)
    found = floors.count_bytes(CONTRACT)
    assert found["to_device"] == sum(buffer.nbytes for buffer in inputs.view_first(1).values())
    assert found["to_host"] == 4 * CONTRACT.horizon * len(CONTRACT.targets) * len(CONTRACT.quantiles)


def test_the_drift_of_clocks_is_interpolated_between_two_comparisons() -> None:
    # The GPU's clock began at 0 when the host's was at 1000, and loses one in a hundred.
    first = kernels.Clock(offset_ns=1_000, uncertainty_ns=0, resolution_ns=1, at_ns=1_000)
    last = kernels.Clock(offset_ns=2_000, uncertainty_ns=0, resolution_ns=1, at_ns=101_000)
    for host_ns in (1_000, 51_000, 101_000):
        gpu_ns = round((host_ns - 1_000) * 0.99)
        assert kernels.convert_to_host_ns(first, last, gpu_ns) == pytest.approx(host_ns, abs=15)


class HostMemory:
    """Stands in for pinned memory; its "GPU" is a thread that answers pings with a clock 5 ms behind."""

    def __init__(self, nbytes: int) -> None:
        self.cells = np.zeros(nbytes // 8, np.uint64)
        self.pointer = self.cells.ctypes.data
        self.nbytes = nbytes
        memories.append(self)

    def array(self, dtype: Any, shape: tuple[int, ...]) -> Any:
        return self.cells

    def __enter__(self) -> "HostMemory":
        return self

    def __exit__(self, *_: object) -> None:
        pass


memories: list[HostMemory] = []
BEHIND_NS = 5_000_000


class AnsweringKernels:
    def launch(self, name: str, stream: Any, flag: int, out: int, count: int, limit_ns: int) -> None:
        assert name == "ping"
        assert out == flag + 8
        threading.Thread(target=self._answer, args=(memories[-1].cells, count)).start()

    @staticmethod
    def _answer(cells: Any, count: int) -> None:
        for number in range(1, count + 1):
            while cells[0] < number:
                pass
            cells[1] = time.perf_counter_ns() - BEHIND_NS
            cells[2] = number


class NoStream:
    def synchronize(self) -> None:
        pass


def test_the_offset_of_the_clocks_is_within_the_stated_uncertainty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "HostBuffer", HostMemory)
    clock = kernels.calibrate(AnsweringKernels(), NoStream(), pings=20)  # type: ignore[arg-type]
    assert abs(clock.offset_ns - BEHIND_NS) <= clock.uncertainty_ns


class StampingDevice:
    """Stands in for the GPU: an event that is done after a while, and stamped then."""

    def __init__(self) -> None:
        self.cell = [0]

    def use(self) -> None:
        pass

    def launch(self, busy_ns: int, *, blocking: bool) -> "StampingDevice":
        self.ends = time.perf_counter_ns() + 1_000
        return self

    def is_done(self) -> bool:
        if time.perf_counter_ns() < self.ends:
            return False
        self.cell[0] = time.perf_counter_ns()
        return True

    def synchronize(self) -> None:
        self.ends = 0
        self.is_done()


@pytest.mark.parametrize("way", wakeup.WAYS)
@pytest.mark.parametrize("busy", [False, True])
def test_every_way_of_waiting_is_measured(way: str, busy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakeup, "LEAST_SAMPLES", 8)
    same = kernels.Clock(0, 0, 1, 0)

    async def measure() -> wakeup.WakeupTimes:
        notifier = wakeup.WAYS[way](StampingDevice(), asyncio.get_running_loop())  # type: ignore[arg-type]
        try:
            return await wakeup.measure(notifier, 0.0, busy=busy)
        finally:
            notifier.close()

    figures = asyncio.run(measure()).summarize(same, same)
    assert figures["samples"] >= 1  # A busy loop may starve the others; the cell ends nevertheless.
    assert 0 < figures["least_us"] <= figures["p50_us"] <= figures["p99_us"]
    assert (figures["other_slices_per_second"] > 0) == busy


# ---------------------------------------------------------------- results and faults
def test_a_failing_part_is_recorded_and_the_next_one_runs(suite: Suite, capsys: pytest.CaptureFixture[str]) -> None:
    result = ResultFile(suite, "some")
    with suite.run_part("first"):
        result.append("cells", 1)
        int("broken")
    with suite.run_part("second"):
        result.append("cells", np.float32(2))
    assert [failure.partition(":")[0] for failure in suite.failures] == ["first"]
    assert json.loads(result.path.read_text())["cells"] == [1, 2]
    assert "broken" in capsys.readouterr().out


def test_an_unknown_section_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.parse(["--out", str(tmp_path), "--sections", "correctness,nonsense"])
    assert "nonsense" in capsys.readouterr().err


@pytest.mark.parametrize("damage", faults.DAMAGES.values(), ids=faults.DAMAGES)
def test_damages_change_a_plan_and_its_hash_can_be_updated(tmp_path: Path, damage: faults.Damage) -> None:
    plan = tmp_path / "model_fp16.engine"
    plan.write_bytes(bytes(range(256)) * 4)
    before = plan.read_bytes()
    (tmp_path / "conversion_info.json").write_text(json.dumps({"sha256": {plan.name: "old"}, "plans": {}}))
    damage(plan)
    assert plan.read_bytes() != before
    faults.update_hashes(tmp_path)
    assert len(json.loads((tmp_path / "conversion_info.json").read_text())["sha256"][plan.name]) == 64


def test_a_plan_can_be_declared_to_be_for_another_gpu(tmp_path: Path) -> None:
    path = tmp_path / "conversion_info.json"
    path.write_text(json.dumps({"plans": {"fp16": {"gpu": "NVIDIA H200", "compute_capability": "9.0", "file": "x"}}}))
    faults.claim_another_gpu(tmp_path / "model_fp16.engine")
    plan = json.loads(path.read_text())["plans"]["fp16"]
    assert plan["gpu"] != "NVIDIA H200"
    assert plan["compute_capability"] != "9.0"
    assert plan["file"] == "x"


# ---------------------------------------------------------------- the whole daemon
def test_lanes_that_cost_nothing_give_real_forecasts() -> None:
    engine = EngineRepository(ROOT / "engines").choose()
    contract = engine.contract
    forecasts = instant_serve.open_instant(engine, Config()).make_lane(0).run(3)
    assert forecasts.shape == (3, contract.horizon, len(contract.targets), len(contract.quantiles))
    assert np.isfinite(forecasts).all()
    assert len(np.unique(forecasts[:, 0, 0, 3])) == 3


def test_lanes_that_cost_nothing_finish_their_forecasts_unless_windows_are_copied() -> None:
    engine = EngineRepository(ROOT / "engines").choose()
    lane = instant_serve.open_instant(engine, Config()).make_lane(0)
    resident = get_resident(lane)
    assert resident is not None
    finished = resident.run(3)
    assert (np.diff(finished.forecasts, axis=-1) >= 0).all()
    assert np.array_equal(finished.forecasts, np.sort(lane.run(3).transpose(0, 2, 1, 3), axis=-1))
    assert finished.checks is not None
    assert np.array_equal(finished.checks, compute_checks(finished.forecasts))
    copying = Config(engine=EngineSection(resident_windows=False))
    assert get_resident(instant_serve.open_instant(engine, copying).make_lane(0)) is None


def test_of_several_processes_the_busiest_loop_counts_and_each_is_kept() -> None:
    watch = object.__new__(CpuWatch)
    watch.seconds, watch.shares = [1.0], {}
    watch._append_shares({"loop engine": 0.25, "loop worker 0": 0.5, "whole engine": 0.5, "whole worker 0": 0.75})
    assert watch.shares["daemon loop"] == [0.0, 0.5], "a process that came later has 0 for the time before"
    assert watch.shares["daemon whole"] == [0.0, 1.25]
    assert watch.shares["loop engine"] == [0.0, 0.25]
    assert watch.shares["busiest client"] == [0.0, 0.0]


def test_busy_shares_are_those_of_the_stretch_only() -> None:
    watch = object.__new__(CpuWatch)
    watch.seconds = [10.0, 11.0, 12.0, 13.0, 14.0]
    watch.shares = {"daemon loop": [9.0, 9.0, 0.25, 0.5, 9.0], "lanes": [9.0, 9.0, 0.0, 0.0, 9.0]}
    assert watch.busy(11.0, 13.5) == {"daemon loop": 0.375, "lanes": 0.0}
    assert watch.busy(20.0, 30.0) == {"daemon loop": 0.0, "lanes": 0.0}
