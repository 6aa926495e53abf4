"""`streamd engine bench`: figures of real runs, in turns, what was left out, and files that leave a version sound."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

pytest.importorskip("onnx")

from streamd.cli import main
from streamd.core.errors import BackendUnavailableError, BatchFailedError
from streamd.inference.api.backends import OPENERS, OpenOptions, Runners
from streamd.inference.api.sources import EngineSource, find_source
from streamd.inference.runner import Array
from streamd.repository.plans import Machine
from streamd.repository.versions import load_version
from streamd.tools.engine import command
from streamd.tools.engine.bench.measure import Bench, Cell, Variant, run_lanes
from streamd.tools.engine.bench.picture import draw_bench_picture
from streamd.tools.engine.bench.report import format_bench_page, format_bench_table
from tests.support.graph_readers import scaled_network
from tests.support.made_versions import add_plan
from tests.support.small_networks import ScriptedRunner
from tests.support.small_version import make_fleet, make_version


class FakeMonitor:
    """A device of which each runner takes 100 bytes, and that is always 50 % busy."""

    used = 0

    def read_used_bytes(self) -> int | None:
        return self.used

    @contextmanager
    def sample_utilization(self) -> Iterator[list[float]]:
        yield [50.0]


class FakeRunner(ScriptedRunner):
    def __init__(self, name: str, monitor: Any, log: list[str]) -> None:
        super().__init__((1, 4), script=lambda number, rows: log.append(f"{name} {len(rows)}"), name=name)
        monitor.used += 100


def measured(**options: Any) -> tuple[list[Cell], list[str], list[FakeRunner], Bench]:
    monitor: Any = FakeMonitor()
    log: list[str] = []
    runners: list[FakeRunner] = []

    def open_lanes(name: str, lanes: int) -> list[FakeRunner]:
        if name == "c":
            raise BackendUnavailableError("there is none")
        opened = [FakeRunner(name, monitor, log) for _ in range(lanes)]
        runners.extend(opened)
        return opened

    variants = [
        Variant(name, "fp32", partial(open_lanes, name), sizes) for name, sizes in (("a", ()), ("b", (4,)), ("c", ()))
    ]
    windows = {"x": np.zeros((3, 2))}
    with Bench(variants, windows, (1, 2), monitor, turn_seconds=0.0, turns=2, warmup_runs=1, **options) as bench:
        cells = bench.run_cells((1, 4))
    return cells, log, runners, bench


def test_cells_take_turns_and_batches_are_filled() -> None:
    cells, log, runners, bench = measured()
    assert [(cell.variant, cell.batch, cell.lanes) for cell in cells] == [
        *(("a fp32", 1, 1), ("a fp32", 1, 2), ("a fp32", 4, 1), ("b fp32", 4, 1), ("a fp32", 4, 2), ("b fp32", 4, 2)),
    ]
    once = [*("a 1", "a 1", "a 1", "a 4", "b 4", "a 4", "a 4", "b 4", "b 4")]
    assert log == once * 3, "a warm-up and two turns, each variant beside the other; three windows fill a batch of four"
    assert bench.failed == {"c fp32": "there is none"}
    assert [runner.closed for runner in runners] == [1] * 4
    assert {cell.gpu_memory_bytes for cell in cells} == {200}
    assert all(cell.gpu_percent == [50.0, 50.0] for cell in cells)
    assert all(len(cell.latencies_ms) >= 2 * cell.lanes for cell in cells)


def test_statistics_are_those_of_all_latencies() -> None:
    cell = Cell(
        variant="a fp32",
        backend="a",
        precision="fp32",
        batch=8,
        lanes=2,
        latencies_ms=[float(each) for each in range(1, 101)],
        seconds=2.0,
    )
    told = cell.describe()
    assert told["windows_per_second"] == 400.0
    expected = {"mean": 50.5, "std": 28.8661, "min": 1.0, "p50": 50.5, "p95": 95.05, "p99": 99.01, "max": 100.0}
    assert told["latency_ms"] == expected
    assert (told["gpu_memory_bytes"], told["gpu_utilization_percent"]) == (None, None)


def test_lanes_run_at_once_and_what_one_raises_is_raised() -> None:
    together = threading.Barrier(3)
    feeds = {"x": np.zeros((1, 2))}

    def meet(number: int, rows: Array) -> None:
        together.wait()

    lanes = [ScriptedRunner(script=meet) for _ in range(3)]
    latencies, seconds = run_lanes(lanes, feeds, 0.0)
    assert len(latencies) == 3
    assert seconds > 0

    def fail(number: int, rows: Array) -> None:
        raise BatchFailedError("no")

    with pytest.raises(BatchFailedError, match="no"):
        run_lanes([ScriptedRunner(script=fail)], feeds, 0.0)


def test_a_version_is_measured_and_stays_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    version = make_version(tmp_path / "engines")
    fleet = make_fleet(tmp_path)
    build = ["engine", "build", "--version", str(version), "--backend", "onnxruntime", "--precision", "fp32,fp16"]
    assert main([*build, "--calibration-data", str(fleet), "--quiet"]) == 0
    built = Path(capsys.readouterr().out.strip())
    arguments = ["engine", "bench", str(built), "--data", str(fleet), "--batches", "1,4", "--lanes", "1,2"]
    arguments += ["--seconds", "0.001", "--turns", "2", "--quiet", "--json"]
    for _ in range(2):
        assert main(arguments) == 0
        said = json.loads(capsys.readouterr().out)
        load_version(built)
    assert json.loads((built / "benchmark_results.json").read_text()) == said
    assert {(cell["variant"], cell["batch"], cell["lanes"]) for cell in said["results"]} == {
        (f"onnxruntime-cpu {precision}", batch, lanes)
        for precision in ("fp32", "fp16")
        for batch in (1, 4)
        for lanes in (1, 2)
    }
    assert {"pytorch", "onnxruntime-cuda fp32"} <= set(said["left_out"])
    assert said["hardware"]["cores"] >= 1
    assert said["versions"]["onnxruntime"]
    assert said["command"] == ["streamd", *arguments]
    assert all(cell["windows_per_second"] > 0 and cell["runs"] >= 2 for cell in said["results"])
    assert any("accuracy" in text for text in said["not_measured"])
    ElementTree.fromstring((built / "benchmark.svg").read_text())
    assert "| batch | lanes | variant |" in (built / "benchmark.md").read_text()


def test_a_plan_is_measured_at_its_own_batch_sizes_with_all_lanes_on_one_engine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    version = make_version(tmp_path / "engines")
    add_plan(version, "fp16", version_compatible=True)
    asked: list[OpenOptions] = []

    def open_plan(source: EngineSource, options: OpenOptions) -> Runners:
        asked.append(options)
        graph = find_source(version / "model.onnx")
        return Runners(OPENERS["onnxruntime-cpu"](graph, options).runners, "fp16")

    monkeypatch.setattr(command, "_probe", lambda: Machine("NVIDIA H200", "9.0", "8.6.1"))
    monkeypatch.setitem(OPENERS, "tensorrt", open_plan)
    arguments = ["engine", "bench", str(version), "--data", str(make_fleet(tmp_path)), "--batches", "4,8"]
    arguments += ["--lanes", "1,2", "--seconds", "0.001", "--turns", "1", "--quiet", "--json"]
    assert main([*arguments, "--lean-runtime", "libnvinfer_lean.so.8"]) == 0
    cells = json.loads(capsys.readouterr().out)["results"]
    assert [(each["batch"], each["lanes"]) for each in cells if each["variant"] == "tensorrt fp16"] == [(8, 1), (8, 2)]
    (options,) = asked
    assert (options.buckets, options.lanes, options.lean_runtime) == ((8,), 2, Path("libnvinfer_lean.so.8"))


def test_any_network_is_measured_where_it_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnx

    onnx.save(scaled_network(), str(tmp_path / "any.onnx"))
    arguments = ["engine", "bench", "--onnx", str(tmp_path / "any.onnx"), "--batches", "2", "--lanes", "1"]
    arguments += ["--seconds", "0.001", "--turns", "1", "--quiet"]
    assert main(arguments) == 0
    assert list(tmp_path.iterdir()) == [tmp_path / "any.onnx"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert {each.name for each in (tmp_path / "out").iterdir()} == {
        "benchmark_results.json",
        "benchmark.md",
        "benchmark.svg",
    }
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "any.onnx"
    assert lines[2].split()[:4] == ["2", "1", "onnxruntime-cpu", "fp32"]


@pytest.mark.parametrize("flags", [["--turns", "0"], ["--seconds", "0"], ["--threads", "0"]])
def test_wrong_usage_is_told(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["engine", "bench", "--onnx", "a", *flags]) == 2
    assert "expected" in capsys.readouterr().err


def results() -> dict[str, Any]:
    cells = [
        Cell(
            variant=f"{name} fp32",
            backend=name,
            precision="fp32",
            batch=8,
            lanes=lanes,
            latencies_ms=[latency],
            seconds=1.0,
        )
        for name, latency in (("pytorch-cpu", 4.0), ("tensorrt <new>", 2.0))
        for lanes in (1, 2)
    ]
    cells[-1].latencies_ms *= 3
    cells[-1].gpu_memory_bytes, cells[-1].gpu_percent = 3 * 2**20, [40.0, 60.0]
    return {
        "version": "a & b",
        "when": "today",
        "command": ["streamd"],
        "hardware": {"processor": "P", "cores": 2, "gpu": {"name": "NVIDIA Fake"}},
        "versions": {"numpy": "2"},
        "settings": {"turns": 1, "turn_seconds": 1.0, "threads_per_cpu_lane": 1, "windows": "some"},
        "left_out": {"int8": "not built"},
        "not_measured": ["accuracy"],
        "results": [cell.describe() for cell in cells],
    }


def test_the_table_the_page_and_the_picture_tell_the_figures() -> None:
    said = results()
    lines = format_bench_table(said).splitlines()
    assert lines[-3].split()[:6] == ["8", "2", "tensorrt", "<new>", "fp32", "24"]
    assert lines[-3].split()[6] == "3.00"
    assert lines[-3].split()[-2:] == ["3", "50"]
    assert lines[-1] == "left out int8: not built"
    page = format_bench_page(said)
    assert "| 8 | 2 | tensorrt <new> fp32 | 24 | 3.00 |" in page
    assert "- accuracy\n- int8: not built\n" in page
    assert "NVIDIA Fake" in page
    picture = ElementTree.fromstring(draw_bench_picture(said))
    space = "{http://www.w3.org/2000/svg}"
    texts = [each.text for each in picture.iter(f"{space}text")]
    assert "a & b: windows a second" in texts
    assert "24/s, p50 2.00 ms" in texts
    widths = [float(each.get("width", "0").rstrip("%")) for each in picture.iter(f"{space}rect")][-4:]
    assert max(widths) == widths[-1] == pytest.approx(3 * widths[0], rel=0.01)
