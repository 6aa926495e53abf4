"""Tests `streamd/tools/engine/bench/report.py` and `picture.py`: the table, the page and the picture of results."""

from typing import Any
from xml.etree import ElementTree

import pytest

pytest.importorskip("onnx")

from streamd.tools.engine.bench.measure import Cell
from streamd.tools.engine.bench.picture import draw_bench_picture
from streamd.tools.engine.bench.report import format_bench_page, format_bench_table


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


def test_the_table_the_page_and_the_picture_show_the_results() -> None:
    result = results()
    lines = format_bench_table(result).splitlines()
    assert lines[-3].split()[:6] == ["8", "2", "tensorrt", "<new>", "fp32", "24"]
    assert lines[-3].split()[6] == "3.00"
    assert lines[-3].split()[-2:] == ["3", "50"]
    assert lines[-1] == "left out int8: not built"
    page = format_bench_page(result)
    assert "| 8 | 2 | tensorrt <new> fp32 | 24 | 3.00 |" in page
    assert "- accuracy\n- int8: not built\n" in page
    assert "NVIDIA Fake" in page
    picture = ElementTree.fromstring(draw_bench_picture(result))
    space = "{http://www.w3.org/2000/svg}"
    texts = [each.text for each in picture.iter(f"{space}text")]
    assert "a & b: windows a second" in texts
    assert "24/s, p50 2.00 ms" in texts
    widths = [float(each.get("width", "0").rstrip("%")) for each in picture.iter(f"{space}rect")][-4:]
    assert max(widths) == widths[-1] == pytest.approx(3 * widths[0], rel=0.01)
