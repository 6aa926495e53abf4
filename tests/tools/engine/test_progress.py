"""Tests `streamd/tools/engine/progress.py`: lines without tqdm, a bar with it, nothing when quiet."""

import io
import sys

import pytest

from streamd.tools.engine.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_come_at_most_every_five_seconds() -> None:
    clock = [0.0]
    stream = io.StringIO()
    with Progress(stream=stream, now=lambda: clock[0]).start_job("work", 100) as job:
        for second in range(12):
            clock[0] = float(second)
            job.advance_to(second)
    assert stream.getvalue() == "work: 5 of 100, 5 s\nwork: 10 of 100, 10 s\n"


def test_the_steps_done_never_fall_and_the_total_may_grow() -> None:
    clock = [0.0]
    stream = io.StringIO()
    job = Progress(stream=stream, now=lambda: clock[0]).start_job("work", 10)
    job.advance_to(7)
    clock[0] = 6.0
    job.advance_to(3, 20)
    job.close()
    job.close()
    assert stream.getvalue() == "work: 7 of 20, 6 s\n"


def test_quiet_prints_nothing() -> None:
    stream = Terminal()
    progress = Progress(quiet=True, stream=stream, now=iter(range(0, 100, 10)).__next__)
    with progress.start_job("work", 3) as job:
        job.advance_to(1)
    progress.print_line("done")
    assert stream.getvalue() == ""


def test_a_terminal_without_tqdm_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    stream = Terminal()
    progress = Progress(stream=stream, now=iter(range(0, 100, 10)).__next__)
    with progress.start_job("work", 3) as job:
        job.advance_to(1)
    progress.print_line("done")
    assert stream.getvalue() == "work: 1 of 3, 10 s\ndone\n"


def test_a_terminal_with_tqdm_gets_a_bar() -> None:
    pytest.importorskip("tqdm")
    stream = Terminal()
    progress = Progress(stream=stream)
    with progress.start_job("work", 4) as job:
        job.advance_to(1)
        job.advance_to(4, 5)
        assert job._bar.n == 4
        assert job._bar.total == 5
    progress.print_line("done")
    assert "work" in stream.getvalue()
    assert stream.getvalue().endswith("done\n")
