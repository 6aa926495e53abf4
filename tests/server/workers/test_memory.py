"""Tests `streamd/server/workers`: the engine process reads the memory that workers write."""

from pathlib import Path

from tests.support.memory_version import make_memory_version
from tests.support.memory_week import (
    REMEMBERS,
    WEEK_CONTRACT,
    WEEK_SETTINGS,
    expect_forecast,
    make_week,
    send_week,
)
from tests.support.worker_fleet import StartProcesses


def test_a_week_that_workers_took_is_remembered(start_processes: StartProcesses, tmp_path: Path) -> None:
    make_memory_version(tmp_path / "engines", REMEMBERS, WEEK_CONTRACT)
    daemon = start_processes(**WEEK_SETTINGS, STREAMD_ENGINES=str(tmp_path / "engines"))
    rows = make_week()
    send_week(daemon, rows, list(rows))
    expect_forecast(daemon, REMEMBERS, rows)
