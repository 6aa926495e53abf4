"""Tests `streamd/tools/engine/plan/parallel.py` and its worker: all plans in order; failures leave no process."""

import io
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx")

from streamd.core.errors import BuildError
from streamd.inference.tensorrt.plan_file import unpack_plans
from streamd.tools.engine.graph.onnx_graph import extract_signature
from streamd.tools.engine.plan.builder import BuildSettings, PlanBuilder, Profile
from streamd.tools.engine.plan.library import load_builder
from streamd.tools.engine.plan.maker import PlanMaker, PreparedPlan
from streamd.tools.engine.plan.parallel import BuildPool
from streamd.tools.engine.precision.graphs import PrecisionOptions
from streamd.tools.engine.progress import Progress
from tests.support.fake_tensorrt_builder import CACHE
from tests.support.graph_readers import raw_windows, scaled_network
from tests.tools.engine.conftest import MakeLibrary

ROOT = Path(__file__).resolve().parents[4]
WORKER = "import runpy, sys; sys.modules['rich'] = None; runpy.run_module('tests.support.fake_build_worker')"
"""Without the package that structlog imports if a development tool has installed it: a third of the CPU time."""
COMMAND = (sys.executable, "-c", WORKER)
SETTINGS = BuildSettings(profiles=(Profile.static(1), Profile.static(8)))  # each is a process of half a second


@pytest.fixture
def version(request: pytest.FixtureRequest, install: MakeLibrary, monkeypatch: pytest.MonkeyPatch) -> str:
    """Install a TensorRT in this process and in those of the builds; return its version."""
    chosen: str = getattr(request, "param", "8.6.1")
    install(chosen)
    monkeypatch.setenv("FAKE_TENSORRT", chosen)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return chosen


def prepared(*precisions: str) -> list[PreparedPlan]:
    """Return the prepared plans of a small network."""
    graph = scaled_network()
    options = PrecisionOptions(windows=raw_windows(16), calibration="minmax")
    maker = PlanMaker(PlanBuilder(load_builder(), SETTINGS), graph, extract_signature(graph, "small"), options)
    return [maker.prepare_plan(precision) for precision in precisions]


def pool(jobs: int = 4, settings: BuildSettings = SETTINGS, **more: Any) -> tuple[BuildPool, list[str]]:
    log: list[str] = []
    return BuildPool(settings, jobs, Progress(quiet=True), log.append, command=COMMAND, **more), log


@pytest.mark.parametrize("version", ["8.6.1", "10.16.0"], indirect=True)
def test_every_batch_size_has_a_plan_of_its_own(version: str) -> None:
    building, log = pool()
    made = list(building.make_plans(prepared("fp32", "fp16", "int8")))
    assert [each.precision for each in made] == ["fp32", "fp16", "int8"]
    for each in made:
        stages = 3 if version == "8.6.1" and each.precision != "fp32" else 1
        plans = unpack_plans(bytes(each.plan.content))
        assert [len(plan) for plan in plans] == [stages] * 2
        assert len(each.graphs) == stages
        assert each.alternatives == 2
        layers = [sum(int(bytes(stage).split()[2]) for stage in plan) for plan in plans]
        assert layers == [each.plan.layers] * 2
        assert each.plan.warnings == ("weights are subnormal",) * (2 * stages)
        assert each.plan.seconds > 0
    assert len(log) > 0


def test_one_job_with_one_profile_makes_a_plain_plan(version: str) -> None:
    dynamic = BuildSettings(profiles=(Profile(1, 8, 32),))
    (made,) = pool(1, dynamic)[0].make_plans(prepared("fp32"))
    assert made.alternatives == 1
    assert bytes(made.plan.content).startswith(b"plan of"), "one plan is itself"


def test_a_timing_cache_is_read_and_not_written(version: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.write_bytes(CACHE)
    settings = BuildSettings(profiles=SETTINGS.profiles, timing_cache=cache)
    assert len(list(pool(settings=settings)[0].make_plans(prepared("fp32")))) == 1
    assert cache.read_bytes() == CACHE
    assert [each.name for each in tmp_path.iterdir()] == ["cache"]


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        ("refused in fp16, batch 8", r"fp16, batch 8: the builder ended with 1: .*no tactic fits"),
        ("killed in fp16, batch 1", "fp16, batch 1: the builder was ended by signal 9: it wrote no reason"),
    ],
)
def test_one_failure_ends_all_builds(version: str, monkeypatch: pytest.MonkeyPatch, failure: str, message: str) -> None:
    monkeypatch.setenv("FAKE_BUILDING", failure)
    building, _ = pool()
    with pytest.raises(BuildError, match=message):
        list(building.make_plans(prepared("fp32", "fp16")))
    assert building._running == set()


def test_a_caller_that_stops_early_leaves_no_process(
    version: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    monkeypatch.setenv("FAKE_BUILDING", "endless in fp16, batch 8")
    monkeypatch.setenv("FAKE_STARTED", str(started))
    building, _ = pool(jobs=4)
    plans = building.make_plans(prepared("fp32", "fp16"))
    assert next(plans).precision == "fp32"
    while not started.exists():
        threading.Event().wait(0.01)
    (endless,) = [process for process in building._running if process.poll() is None][-1:]
    plans.close()  # type: ignore[attr-defined]
    assert endless.poll() is not None
    assert building._running == set()


def test_progress_reports_each_build_when_it_is_done(version: str) -> None:
    stream = io.StringIO()
    building = BuildPool(SETTINGS, 2, Progress(stream=stream), lambda line: None, command=COMMAND)
    list(building.make_plans(prepared("fp32")))
    assert [f"fp32, batch {size}: " in stream.getvalue() for size in (1, 8)] == [True] * 2
