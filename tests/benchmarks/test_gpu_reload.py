"""Tests `benchmarks/gpu/reload.py` and its counts, without a daemon: the version's copy, the counts, the judgement."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks.gpu.reload import GROUP, GROUPS, judge, make_later_copy
from benchmarks.gpu.reload_counts import ForecastCounts
from streamd.repository.versions import load_version
from tests.support.made_versions import digest, make

FIRST, SECOND = "patch_tensorrt_20261121_235959", "patch_tensorrt_20261122_000000"


def test_the_copy_is_a_valid_version_a_second_later(tmp_path: Path) -> None:
    first = make(tmp_path, FIRST)
    manifest = json.loads((first / "config.json").read_text()) | {"name": FIRST}
    (first / "config.json").write_text(json.dumps(manifest))
    listed = {name: digest(first / name) for name in ("config.json", "model.onnx")}
    (first / "conversion_info.json").write_text(json.dumps({"sha256": listed, "plans": {}}))
    second = load_version(make_later_copy(first))
    assert second.name == SECOND
    assert second.contract == load_version(first).contract
    assert json.loads((second.path / "config.json").read_text()) == {**manifest, "name": SECOND}


def test_a_copy_without_hashes_is_valid_too(tmp_path: Path) -> None:
    assert load_version(make_later_copy(make(tmp_path, FIRST))).name == SECOND


# ---------------------------------------------------------------- counts
def count(*frames: dict[str, Any]) -> ForecastCounts:
    async def count_all() -> ForecastCounts:
        forecasts = ForecastCounts()
        for moment, frame in enumerate(frames):
            forecasts.count_frame(msgspec.msgpack.encode(frame), float(moment))
        return forecasts

    return asyncio.run(count_all())


def batch(model: str | list[str], *forecasts: tuple[str, float]) -> dict[str, Any]:
    servers, origins = zip(*forecasts, strict=True)
    return {"type": "forecasts", "model": model, "servers": servers, "origins": origins, "values": b""}


def test_forecasts_are_counted_by_version() -> None:
    one = {"type": "forecast", "model": SECOND, "server": "c", "origin": 300.0}
    found = count(
        {"type": "subscribed", "model": FIRST},
        batch(FIRST, ("a", 300.0), ("b", 300.0)),
        batch([FIRST, SECOND], ("a", 600.0), ("b", 600.0)),
        one,
        {"type": "lagged", "dropped": 3},
    ).summarize()
    assert found["by_version"] == {FIRST: 3, SECOND: 2}
    assert (found["distinct"], found["lagged"], found["frames_of_both_versions"]) == (5, 3, 1)
    assert found["duplicated"] == found["out_of_order"] == 0


def test_a_forecast_of_the_other_version_for_the_same_row_is_a_duplicate() -> None:
    found = count(batch(FIRST, ("a", 300.0)), batch(SECOND, ("a", 300.0))).summarize()
    assert (found["distinct"], found["duplicated"]) == (1, 1)


def test_an_older_row_after_a_newer_one_is_out_of_order() -> None:
    found = count(batch(SECOND, ("a", 600.0)), batch(FIRST, ("a", 300.0))).summarize()
    assert (found["distinct"], found["duplicated"], found["out_of_order"]) == (2, 0, 1)


def test_an_error_frame_of_the_daemon_is_raised() -> None:
    with pytest.raises(RuntimeError, match="not so"):
        count({"type": "error", "code": "malformed", "message": "not so"})


def test_the_pause_and_the_first_forecast_are_those_of_the_interval() -> None:
    forecasts = count(batch(FIRST, ("a", 300.0)))
    forecasts.start_interval(10.0)
    assert forecasts.find_first(FIRST) is None
    forecasts.count_frame(msgspec.msgpack.encode(batch(SECOND, ("a", 600.0))), 13.0)
    forecasts.count_frame(msgspec.msgpack.encode(batch(SECOND, ("a", 900.0))), 14.0)
    assert forecasts.find_first(SECOND) == 13.0
    assert forecasts.find_longest_pause(15.0) == 3.0
    assert forecasts.find_longest_pause(18.0) == 4.0


# ---------------------------------------------------------------- judgement
def make_run() -> dict[str, Any]:
    changes = [
        {"kind": kind, "cold": place == 0, "seconds": 4.0 if place == 0 else 0.1, "under_load": True}
        | {"backend": "tensorrt", "precision": "fp16"}
        for _ in range(GROUPS)
        for place, kind in enumerate(GROUP)
    ]
    return {
        "versions": (FIRST, SECOND),
        "backend": "tensorrt",
        "precision": "fp16",
        "changes": changes,
        "lost": {},
        "forecasts": {"received": 50, "lagged": 0},
        "subscriber": {"by_version": {FIRST: 20, SECOND: 30}, "distinct": 50, "duplicated": 0, "lagged": 0},
    }


def test_a_run_that_loses_nothing_passes() -> None:
    assert judge(make_run()) == []


WRONG: dict[str, Callable[[dict[str, Any]], object]] = {
    "missing: 2": lambda run: run["lost"].update(missing=2),
    "twice": lambda run: run["subscriber"].update(duplicated=1),
    "the subscriber got 48": lambda run: run["subscriber"].update(distinct=48),
    "unknown versions": lambda run: run["subscriber"]["by_version"].update(other=1),
    "no forecast of": lambda run: run["subscriber"]["by_version"].pop(SECOND),
    "change 2: the rollback took 1.00 s": lambda run: run["changes"][1].update(seconds=1.0),
    "change 3: serves on onnxruntime-cpu": lambda run: run["changes"][2].update(backend="onnxruntime-cpu"),
    "19 changes were done": lambda run: run["changes"][-1].update(under_load=False),
    "4 changes were cold": lambda run: run["changes"][0].update(cold=False),
}


@pytest.mark.parametrize("text", WRONG)
def test_each_fault_of_a_run_is_reported(text: str) -> None:
    run = make_run()
    WRONG[text](run)
    (failure,) = judge(run)
    assert text in failure
