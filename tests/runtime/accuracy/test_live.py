"""Tests `streamd/runtime/accuracy/live.py`.

Truth is read from the windows, slots that get another server are dropped, and the reports are right.
"""

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from streamd.core.accuracy.pending import AccuracyLimits
from streamd.core.accuracy.scores import TrainingScores
from streamd.core.arrays import Float32
from streamd.core.scheduling.costs import CostTable
from streamd.core.state.samples import Sample
from streamd.inference.fake import FakeBackend
from streamd.runtime.accuracy.live import LiveAccuracy, read_training_scores
from streamd.runtime.lanes.worker import LaneWorker
from streamd.runtime.service import ServiceLimits
from streamd.runtime.service_report import describe_status
from streamd.runtime.state.state import State
from streamd.runtime.wiring import build_service
from tests.support.state_files import opened, send

LIMITS = AccuracyLimits(scored_servers=4, settle_steps=1, tolerance_steps=2, range_steps=3)
STABLE, CANDIDATE = b"patch_20260101_000000", b"patch_20260201_000000"
TRAINING = TrainingScores(0.1, ("smd",))


def send_rows(state: State, server: str, first: int, values: list[float]) -> int:
    """Send one row for each value: `mem` is the value, `cpu` twice as much; returns the server's slot."""
    for step, value in enumerate(values, first):
        if not math.isnan(value):
            send(state, server, step, {"cpu": 2 * value, "mem": value, "net": 0.0})
    return state.directory.slots[server]


def post(accuracy: LiveAccuracy, slot: int, step: int, model: bytes, forecast: Float32) -> None:
    """Post one forecast, as a batch of one."""
    accuracy.forecasts_posted(np.array([slot]), np.array([step]), model, forecast[None])


def forecast_of(state: State, mem: float, cpu: float) -> Float32:
    """Return a forecast that is the same at every step, its quantiles 1 apart; the targets are `mem` and `cpu`."""
    middle = np.array([mem, cpu], np.float32)[:, None, None]
    return np.broadcast_to(middle + np.array([-1, 0, 1], np.float32), state.contract.forecast_shape).copy()


def forecast_everything(state: State, accuracy: LiveAccuracy, server: str = "web-01", steps: int = 20) -> None:
    """Forecast a server that rises and falls by both versions at each step, and score as rows arrive."""
    slot = send_rows(state, server, 100, [0.0, 2.0] * 4)
    for step in range(108, 108 + steps):
        post(accuracy, slot, step - 1, STABLE, forecast_of(state, 1.0, 2.0))
        post(accuracy, slot, step - 1, CANDIDATE, forecast_of(state, 3.0, 2.0))
        send_rows(state, server, step, [2.0 * (step % 2)])
        accuracy.sweep()


def test_the_truth_is_read_from_the_windows_by_target(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        accuracy = LiveAccuracy(state, LIMITS)
        accuracy.follow(STABLE.decode(), training=TRAINING)
        slot = send_rows(state, "web-01", 100, [0.0, 2.0] * 4)
        post(accuracy, slot, 107, STABLE, forecast_of(state, 1.0, 2.0))
        send_rows(state, "web-01", 108, [3.0, 3.0, math.nan, 3.0])
        assert accuracy.sweep() == 1
        report = accuracy.describe()["versions"][STABLE.decode()]
        assert (report["loss"], report["drift_ratio"]) == (None, None), "the horizon's last step has not settled"
        send_rows(state, "web-01", 112, [3.0, 3.0])
        assert accuracy.sweep() == 1
        assert accuracy.sweep() == 0
        report = accuracy.describe()["versions"][STABLE.decode()]
        # Two steps are scored at the first sweep and one at the second, each with the deviation of all rows before it.
        past = [0.0, 2.0] * 4
        first, second = float(np.std([*past, 3, 3])), float(np.std([*past, 3, 3, 3]))
        mem = (0.1 * 3 + 0.5 * 2 + 0.9 * 1) / 3 * (3 / first + 1 / second) / 4
        cpu = (0.1 * 5 + 0.5 * 4 + 0.9 * 3) / 3 / 2 * (3 / first + 1 / second) / 4
        assert report["targets"]["mem"]["loss"] == pytest.approx(mem, abs=1e-6)
        assert report["targets"]["cpu"]["loss"] == pytest.approx(cpu, abs=1e-6)
        assert report["targets"]["mem"] | {"loss": 0} == {
            "loss": 0,
            "values": 3,
            "inside": {"0.1-0.9": 0.0},
            "below": {"0.1": 0.0, "0.5": 0.0, "0.9": 0.0},
        }
        assert report["loss"] == pytest.approx((mem + cpu) / 2, abs=1e-6)
        assert report["drift_ratio"] == pytest.approx((mem + cpu) / 2 / 0.1, abs=1e-5)
        assert (report["forecasts"], report["scored_steps"]) == (1, 3)
        assert [each["steps"] for each in report["by_range"]] == ["1-3", "4-4"]


def test_a_forecast_is_scored_from_its_own_step_if_the_window_has_advanced(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        accuracy = LiveAccuracy(state, LIMITS)
        slot = send_rows(state, "web-01", 100, [0.0, 2.0] * 4 + [900.0])
        post(accuracy, slot, 107, STABLE, forecast_of(state, 1.0, 2.0))
        accuracy.sweep()
        assert accuracy.describe()["versions"][STABLE.decode()]["scored_steps"] == 0, "row 108 has not settled"
        send_rows(state, "web-01", 109, [1.0])
        accuracy.sweep()
        # Row 108 is the truth. Row 100 had left the window when the forecast was posted: the past is 101 to 108.
        deviation = float(np.std([2, 0, 2, 0, 2, 0, 2, 900]))
        loss = (0.1 * 900 + 0.5 * 899 + 0.9 * 898) / 3 / deviation
        assert accuracy.scorer.pending[slot].losses[STABLE.decode()][0, 0] == pytest.approx(loss)


def test_a_forecast_is_copied(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        accuracy = LiveAccuracy(state, LIMITS)
        slot = send_rows(state, "web-01", 100, [0.0, 2.0] * 4)
        forecast = forecast_of(state, 1.0, 2.0)
        post(accuracy, slot, 107, STABLE, forecast)
        forecast[:] = 77.0
        np.testing.assert_array_equal(
            accuracy.scorer.pending[slot].forecasts[STABLE.decode()], forecast_of(state, 1.0, 2.0)
        )


def test_two_versions_are_compared_on_the_same_servers_and_origins(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        accuracy = LiveAccuracy(state, LIMITS)
        accuracy.follow(STABLE.decode())
        accuracy.follow(CANDIDATE.decode(), shadow=True)
        forecast_everything(state, accuracy)
        (compared,) = accuracy.describe()["comparisons"]
        assert (compared["first"], compared["second"]) == (STABLE.decode(), CANDIDATE.decode())
        assert compared["forecasts"] == 4, "a new one begins every five steps"
        assert compared["second_loss"] > compared["first_loss"] > 0
        assert compared["difference"] > 0
        assert compared["standard_error"] is not None
        assert [each["steps"] for each in compared["by_range"]] == ["1-3", "4-4"]
        assert all(each["forecasts"] >= 3 for each in compared["by_range"])


def test_a_slot_that_gets_another_server_is_dropped_without_a_forget(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        accuracy = LiveAccuracy(state, LIMITS)
        slot = send_rows(state, "web-01", 100, [0.0, 2.0] * 4)
        post(accuracy, slot, 107, STABLE, forecast_of(state, 1.0, 2.0))
        state.directory.release(slot)
        assert send_rows(state, "web-02", 100, [5.0] * 16) == slot
        assert accuracy.sweep() == 0
        report = accuracy.describe()
        assert (report["held"], report["sampled"]["forgotten"]) == (0, 1)
        assert report["versions"][STABLE.decode()]["scored_steps"] == 0


def test_forget_drops_at_once(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        accuracy = LiveAccuracy(state, LIMITS)
        slot = send_rows(state, "web-01", 100, [0.0, 2.0] * 4)
        post(accuracy, slot, 107, STABLE, forecast_of(state, 1.0, 2.0))
        accuracy.forget(slot)
        accuracy.forget(slot)
        assert accuracy.describe()["sampled"]["forgotten"] == 1


def test_a_sweep_is_bounded_and_the_next_continues(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        accuracy = LiveAccuracy(state, LIMITS)
        servers = ["a", "b", "c"]
        for server in servers:
            slot = send_rows(state, server, 100, [0.0, 2.0] * 4)
            post(accuracy, slot, 107, STABLE, forecast_of(state, 1.0, 2.0))
        for server in servers:
            send_rows(state, server, 108, [1.0, 1.0, 1.0])
        assert [accuracy.sweep(most=2) for _ in range(3)] == [2, 1, 0]
        assert [hold.done_steps for hold in accuracy.scorer.pending.values()] == [2, 2, 2]


def test_scores_start_again_after_a_restart(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        accuracy = LiveAccuracy(state, LIMITS)
        forecast_everything(state, accuracy)
        assert accuracy.describe()["versions"][STABLE.decode()]["loss"] is not None
    with opened(tmp_path) as state:
        accuracy = LiveAccuracy(state, LIMITS)
        assert accuracy.describe()["versions"] == {}
        slot = state.directory.slots["web-01"]
        post(accuracy, slot, 127, STABLE, forecast_of(state, 1.0, 2.0))
        send_rows(state, "web-01", 128, [1.0] * 5)
        accuracy.sweep()
        assert accuracy.describe()["versions"][STABLE.decode()]["scored_steps"] == 4


def test_a_version_that_is_unfollowed_is_not_reported(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        accuracy = LiveAccuracy(state, LIMITS)
        accuracy.follow(STABLE.decode(), training=TRAINING)
        forecast_everything(state, accuracy)
        accuracy.unfollow(STABLE.decode())
        report = accuracy.describe()
        assert list(report["versions"]) == [CANDIDATE.decode()]
        assert report["comparisons"] == []
        assert accuracy.training == {}


# ---------------------------------------------------------------- in the service
async def test_the_service_scores_what_its_pipeline_posts(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        service = build_service(state, STABLE.decode(), {}, ServiceLimits(accuracy=LIMITS))
        backend = FakeBackend(state.contract, (1,))
        worker = LaneWorker(backend.make_lane(0), asyncio.get_running_loop(), service.pipeline.handle_result)
        try:
            slot = send_rows(state, "web-01", 100, [0.0, 2.0] * 4)
            service.begin()  # rows that closed before the start are due
            service.pipeline.open_lanes([worker], CostTable({1: 1.0}, pads=False))
            await service.pipeline.wait_idle()
            send_rows(state, "web-01", 108, [1.0] * 5)
            assert list(service.accuracy.scorer.pending) == [slot]
            service.accuracy.sweep()
            report = describe_status(service, lambda server: True)["accuracy"]["versions"][STABLE.decode()]
            assert (report["forecasts"], report["scored_steps"]) == (1, 4)
            assert report["loss"] is not None
            text = service.metrics.render().decode()
            assert f'streamd_live_scored_steps_total{{version="{STABLE.decode()}"}} 4.0' in text
        finally:
            service.pipeline.stop()
            assert await asyncio.to_thread(worker.join, 60.0)
            service.close()


async def test_the_service_drops_a_server_that_is_forgotten(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        service = build_service(state, STABLE.decode(), {}, ServiceLimits(accuracy=LIMITS))
        slot = send_rows(state, "web-01", 100, [0.0, 2.0] * 4)
        post(service.accuracy, slot, 107, STABLE, forecast_of(state, 1.0, 2.0))
        names = [f"new-{number}" for number in range(state.directory.capacity)]
        samples = [Sample(name, 100.0 * state.contract.step_seconds, {"cpu": 1.0}) for name in names]
        await service.ingest.take_samples(enumerate(samples))
        assert "web-01" not in state.directory.slots
        assert service.accuracy.scorer.pending == {}
        service.close()


# ---------------------------------------------------------------- reports
def samples_of(accuracy: LiveAccuracy) -> dict[str, list[tuple[dict[str, str], float]]]:
    class Families(Collector):
        def collect(self) -> Any:
            return accuracy.collect_metrics()

    registry = CollectorRegistry()
    registry.register(Families())
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def test_metrics_and_status_have_the_same_values(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        accuracy = LiveAccuracy(state, LIMITS)
        accuracy.follow(STABLE.decode(), training=TRAINING)
        accuracy.follow(CANDIDATE.decode(), shadow=True)
        forecast_everything(state, accuracy)
        status, samples = accuracy.describe(), samples_of(accuracy)
        for labels, value in samples["streamd_live_pinball"]:
            report = status["versions"][labels["version"]]["targets"][labels["target"]]["loss"]
            assert value == pytest.approx(report, abs=1e-6)
        for labels, value in samples["streamd_live_coverage"]:
            report = status["versions"][labels["version"]]["targets"][labels["target"]]["inside"][labels["interval"]]
            assert value == pytest.approx(report, abs=1e-6)
        assert len(samples["streamd_live_pinball"]) == len(samples["streamd_live_coverage"]) == 4
        (labels, value) = samples["streamd_live_drift_ratio"][0]
        assert labels == {"version": STABLE.decode()}, "the training of the other version is unknown"
        assert value == pytest.approx(status["versions"][STABLE.decode()]["drift_ratio"], abs=1e-5)
        assert {value for _, value in samples["streamd_live_scored_steps_total"]} == {
            report["scored_steps"] for report in status["versions"].values()
        }
        (compared,) = status["comparisons"]
        for name in ("difference", "standard_error", "forecasts"):
            ((labels, value),) = samples[f"streamd_live_paired_{name}"]
            assert labels == {"first": compared["first"], "second": compared["second"]}
            assert value == pytest.approx(compared[name], abs=1e-6)
        assert samples["streamd_live_held"][0][1] == status["held"]


def test_an_unknown_value_is_null_in_status_and_absent_in_metrics(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        accuracy = LiveAccuracy(state, LIMITS)
        accuracy.follow(STABLE.decode(), training=TRAINING)
        report = json.loads(json.dumps(accuracy.describe(), allow_nan=False))["versions"][STABLE.decode()]
        assert (report["loss"], report["drift_ratio"], report["training_loss"]) == (None, None, 0.1)
        assert report["targets"]["cpu"]["inside"] == {"0.1-0.9": None}
        samples = samples_of(accuracy)
        assert "streamd_live_pinball" not in samples
        assert samples["streamd_live_scored_steps_total"] == [({"version": STABLE.decode()}, 0.0)]


# ---------------------------------------------------------------- training scores
def test_training_scores_are_read_from_the_folder_of_a_version(tmp_path: Path) -> None:
    assert read_training_scores(tmp_path) is None
    path = tmp_path / "training_info.json"
    for text in ("{", "[]", "{}", "\udcff"):
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        assert read_training_scores(tmp_path) is None
    path.write_text(json.dumps({"figures": {"smd": {"nPL": 0.1}}}))
    assert read_training_scores(tmp_path) == TRAINING


@pytest.mark.parametrize("version", sorted((Path(__file__).parents[3] / "engines").glob("*_tensorrt_*")), ids=str)
def test_shipped_versions_have_training_scores(version: Path) -> None:
    figures = read_training_scores(version)
    assert figures is not None
    assert {"smd", "asd"} <= set(figures.fleets)
    assert 0.05 < figures.loss < 0.15
