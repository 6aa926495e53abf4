"""Tests `streamd/tools/loadtest/demo.py`: tables, fan charts and bars in terminals of all kinds, and the replay."""

import asyncio
import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from streamd.tools.loadtest import demo
from streamd.tools.loadtest.child import ChildDaemon, ChildError, find_free_port
from streamd.tools.loadtest.demo_fleet import STREAM_STEPS
from streamd.tools.loadtest.fan_chart import Fan, draw_fan
from streamd.tools.loadtest.forecast_table import TargetForecast, find_most_varied
from streamd.tools.loadtest.options import EXAMPLE_FLEET
from streamd.tools.loadtest.terminal import Terminal, format_milliseconds, format_thousands
from streamd.tools.loadtest.verdict import ReplayVerdict
from tests.support.fake_daemon import FakeDaemon

ROOT = Path(__file__).resolve().parents[3]
TERMINALS = [
    Terminal(60),
    Terminal(80),
    Terminal(100, has_unicode=True),
    Terminal(160, has_colour=True, has_unicode=True, is_interactive=True),
]
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def plain(line: str) -> str:
    return ESCAPES.sub("", line)


class Screen(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_the_environment_decides_what_is_shown() -> None:
    assert Terminal.detect(Screen(), {"COLUMNS": "90"}) == Terminal(
        90, has_colour=True, has_unicode=True, is_interactive=True
    )
    assert not Terminal.detect(Screen(), {"COLUMNS": "90", "NO_COLOR": "1"}).has_colour
    assert not Terminal.detect(Screen(), {"TERM": "dumb"}).is_interactive
    piped = Terminal.detect(io.StringIO(), {"COLUMNS": "20"})
    assert piped == Terminal(60)


def test_bars_and_numbers() -> None:
    assert Terminal().draw_bar(0.5, 10) == "#####....."
    assert plain(Terminal(has_unicode=True).draw_bar(0.55, 10)) == "█████▌░░░░"
    assert format_thousands(12345.6) == "12,346"
    assert [format_milliseconds(value) for value in (None, 1.25, 250.4, 12_000)] == ["-", "1.2 ms", "250 ms", "12.0 s"]


@pytest.mark.parametrize("terminal", TERMINALS, ids=str)
def test_a_fan_chart_fills_its_frame(terminal: Terminal) -> None:
    ramp = np.linspace(0, 10, 40)
    fan = Fan(history=ramp, low=ramp - 1, median=ramp, high=ramp + 1, actual=ramp[:20])
    for height in (1, 2, 8):
        lines = draw_fan(fan, 40, height, terminal)
        assert [len(plain(line)) for line in lines] == [40] * height
    three = np.full(5, 3.0)
    flat = Fan(history=three, low=three, median=three, high=np.full(5, np.nan), actual=np.zeros(0))
    assert len(draw_fan(flat, 12, 2, terminal)) == 2


def test_a_target_that_is_unknown_is_drawn_empty_and_is_never_the_most_varied() -> None:
    past, nothing = np.arange(3.0), np.full(3, np.nan)
    flat = Fan(history=past, low=past * 0, median=past * 0, high=past * 0, actual=np.zeros(0))
    unknown = Fan(history=nothing, low=nothing, median=nothing, high=nothing, actual=np.zeros(0))
    rows = [[TargetForecast("a", "cpu", unknown), TargetForecast("a", "mem", flat)]]
    assert find_most_varied(rows).target == "mem"
    assert rows[0][0].format_cells(3) == ("-",) * 5
    assert draw_fan(unknown, 7, 2, Terminal()) == ["   |   "] * 2


def test_a_plain_fan_chart_shows_history_band_and_median() -> None:
    past, ahead = np.array([0.0, 1.0, 2.0]), np.full(3, 2.0)
    fan = Fan(history=past, low=ahead - 1, median=ahead, high=ahead + 1, actual=np.zeros(0))
    assert draw_fan(fan, 7, 4, Terminal()) == ["   |:::", "  *|===", " * |:::", "*  |   "]


async def test_the_demo_replays_the_sample_and_shows_every_server() -> None:
    async with FakeDaemon().running() as daemon:
        found = await demo.run_demo(daemon.url, ROOT / EXAMPLE_FLEET, asyncio.Event(), rows_per_second=4000)
    assert found.result.faults == {}
    assert found.result.measured.expected == 12 * STREAM_STEPS == found.result.measured.received
    for terminal in TERMINALS:
        text = [plain(line) for line in demo.format_demo(found, terminal)]
        assert max(map(len, text)) <= max(terminal.width, 110)
        for forecasts in found.forecasts:
            assert any(line.startswith(f"  {forecasts[0].server} ") for line in text)
        assert any("nothing missing" in line for line in text)


def make_verdict(expected: int, received: int, superseded: int = 0, lagged: int = 0) -> ReplayVerdict:
    return ReplayVerdict(
        expected=expected,
        received=received,
        superseded=superseded,
        lagged=lagged,
        interrupted=0,
        missing=0,
        overcounted=0,
        failed=0,
        forgotten=0,
        subscribers=[],
    )


def test_the_sum_of_the_due_rows_names_all_of_them() -> None:
    whole = make_verdict(4332, received=1401, superseded=2925, lagged=6)
    measured = make_verdict(1440, received=1384, superseded=51, lagged=5)
    assert demo.format_ends(demo.count_ends(measured)) == (
        "1,440 = 1,384 received + 51 superseded by newer rows + 5 replaced before the reader took them"
    )
    fill = demo.subtract_ends(demo.count_ends(whole), demo.count_ends(measured))
    assert demo.format_ends(fill) == (
        "2,892 = 17 received + 2,874 superseded by newer rows + 1 replaced before the reader took them"
    )


def test_the_sum_of_rows_that_were_all_received_has_one_term() -> None:
    assert demo.format_ends(demo.count_ends(make_verdict(12, received=12))) == "12 = 12 received"


def test_a_daemon_that_fails_to_start_shows_its_log(tmp_path: Path) -> None:
    child = ChildDaemon(tmp_path / "nowhere", tmp_path, find_free_port())
    child.start()
    try:
        with pytest.raises(ChildError, match=r"ended with [0-9]+ before it was ready\nthe end of .*streamd\.log"):
            child.wait_ready(30)
    finally:
        child.stop()


async def test_an_interrupted_replay_reports_its_results_so_far(tmp_path: Path) -> None:
    async with FakeDaemon().running() as daemon:
        command = [sys.executable, str(ROOT / "scripts/replay.py"), "--url", daemon.url, "--rate", "20", "--quiet"]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        while not daemon.frames:
            await asyncio.sleep(0)
        process.send_signal(signal.SIGINT)
        out, _ = await process.communicate()
    assert process.returncode == 130
    assert "before the end" in out.decode()
