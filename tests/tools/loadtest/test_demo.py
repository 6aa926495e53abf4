"""What people see: tables, fans and bars in wide, narrow, plain and colourful terminals; and the demo's replay."""

from __future__ import annotations

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
from streamd.tools.loadtest.child import ChildDaemon, ChildError, free_port
from streamd.tools.loadtest.options import SAMPLE
from streamd.tools.loadtest.picture import Fan, draw_series
from streamd.tools.loadtest.terminal import Terminal, milliseconds, thousands
from tests.support.fake_daemon import FakeDaemon

ROOT = Path(__file__).resolve().parents[3]
TERMINALS = [
    Terminal(60),
    Terminal(80),
    Terminal(100, unicode=True),
    Terminal(160, colour=True, unicode=True, live=True),
]
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def plain(line: str) -> str:
    return ESCAPES.sub("", line)


class Screen(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_the_environment_decides_what_is_shown() -> None:
    assert Terminal.of(Screen(), {"COLUMNS": "90"}) == Terminal(90, colour=True, unicode=True, live=True)
    assert not Terminal.of(Screen(), {"COLUMNS": "90", "NO_COLOR": "1"}).colour
    assert not Terminal.of(Screen(), {"TERM": "dumb"}).live
    piped = Terminal.of(io.StringIO(), {"COLUMNS": "20"})
    assert piped == Terminal(60)


def test_bars_and_numbers() -> None:
    assert Terminal().bar(0.5, 10) == "#####....."
    assert plain(Terminal(unicode=True).bar(0.55, 10)) == "█████▌░░░░"
    assert thousands(12345.6) == "12,346"
    assert [milliseconds(value) for value in (None, 1.25, 250.4, 12_000)] == ["-", "1.2 ms", "250 ms", "12.0 s"]


@pytest.mark.parametrize("terminal", TERMINALS, ids=str)
def test_a_fan_fills_its_frame(terminal: Terminal) -> None:
    ramp = np.linspace(0, 10, 40)
    fan = Fan(ramp, ramp - 1, ramp, ramp + 1, ramp[:20])
    for height in (1, 2, 8):
        lines = draw_series(fan, 40, height, terminal)
        assert [len(plain(line)) for line in lines] == [40] * height
    flat = Fan(np.full(5, 3.0), np.full(5, 3.0), np.full(5, 3.0), np.full(5, np.nan), np.zeros(0))
    assert len(draw_series(flat, 12, 2, terminal)) == 2


def test_a_plain_fan_shows_past_band_and_median() -> None:
    past, ahead = np.array([0.0, 1.0, 2.0]), np.full(3, 2.0)
    fan = Fan(past, ahead - 1, ahead, ahead + 1, np.zeros(0))
    assert draw_series(fan, 7, 4, Terminal()) == ["   |:::", "  *|===", " * |:::", "*  |   "]


async def test_the_demo_replays_the_sample_and_shows_every_server() -> None:
    async with FakeDaemon().running() as daemon:
        found = await demo.play(daemon.url, ROOT / SAMPLE, asyncio.Event(), rows_per_second=4000)
    assert found.result.faults == {}
    assert found.result.measured.expected == 12 * demo.STREAM_STEPS == found.result.measured.received
    for terminal in TERMINALS:
        text = [plain(line) for line in demo.show(found, terminal)]
        assert max(map(len, text)) <= max(terminal.width, 110)
        for outlooks in found.outlooks:
            assert any(line.startswith(f"  {outlooks[0].server} ") for line in text)
        assert any("nothing missing" in line for line in text)


def test_a_daemon_that_fails_to_start_shows_its_log(tmp_path: Path) -> None:
    child = ChildDaemon(tmp_path / "nowhere.toml", tmp_path, free_port())
    child.start()
    try:
        with pytest.raises(ChildError, match=r"ended with [0-9]+ before it was ready\nthe end of .*streamd\.log"):
            child.wait_ready(30)
    finally:
        child.stop()


async def test_an_interrupted_replay_tells_what_it_has(tmp_path: Path) -> None:
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
