"""Tests `streamd/server/process.py`: the exit status is right whatever the threads do; threads that end are joined."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from streamd.repository.versions import EngineRepository
from tests.support.daemon_process import ROOT, DaemonProcess
from tests.support.tiny_version import ENGINES, make_tiny_version
from tests.support.version_calls import StartDaemon

LONG = next(path.name for path in EngineRepository(ENGINES).list_folders() if "tft" in path.name)
"""A version whose batches run for a while with the only bucket here: the signal comes in the middle of one."""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The settings of a daemon whose versions are `TINY` and `LONG`."""
    engines = tmp_path_factory.mktemp("engines")
    make_tiny_version(engines)
    shutil.copytree(ENGINES / LONG, engines / LONG)
    return {"STREAMD_ENGINES": str(engines), "STREAMD_BUCKETS": "16", "STREAMD_LANES": "2"}


def stop_and_check(daemon: DaemonProcess, number: signal.Signals = signal.SIGTERM) -> None:
    daemon.signal(number)
    assert daemon.wait() == 0, daemon.lines
    assert "stopped" in [line["event"] for line in daemon.lines]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_while_the_first_lanes_warm(
    start: StartDaemon, tmp_path: Path, settings: dict[str, str], number: signal.Signals
) -> None:
    daemon = start(tmp_path, "--engine", LONG, **settings)
    daemon.wait_for("lanes_warming")
    stop_and_check(daemon, number)


def test_a_signal_stops_it_while_a_reload_loads(start: StartDaemon, tmp_path: Path, settings: dict[str, str]) -> None:
    config = tmp_path / "config.toml"
    config.write_text("")
    daemon = start(tmp_path / "state", "--config", str(config), **settings)
    daemon.wait_for("ready")
    config.write_text(f'[engine]\nengine = "{LONG}"\n')
    daemon.signal(signal.SIGHUP)
    assert daemon.wait_for("lanes_warming")["engine"] == LONG
    stop_and_check(daemon)


def test_a_signal_stops_it_while_a_candidate_loads(
    start: StartDaemon, tmp_path: Path, settings: dict[str, str]
) -> None:
    daemon = start(tmp_path, **settings, STREAMD_CANDIDATE=LONG)
    daemon.wait_for("ready")
    assert daemon.wait_for("lanes_warming")["engine"] == LONG
    stop_and_check(daemon)


SCRIPT = """
import asyncio, threading, sys
from streamd.server import process
from streamd.server.config import LogSection
from streamd.server.logs import configure_logs

configure_logs(LogSection(log_format="json"))
process.LEAVE_SECONDS = 0.01

class Stub:
    async def run(self):
        {work}
        return 3

sys.exit(asyncio.run(process.run_daemon(Stub())))
"""


@pytest.mark.parametrize(
    ("work", "left"),
    [
        ("asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)", "streamd_0"),
        ("threading.Thread(target=threading.Event().wait, name='lane x', daemon=True).start()", "lane x"),
        ("threading.Thread(target=threading.Event().wait, name='another').start()", "another"),
        ("await asyncio.to_thread(str)", None),
    ],
)
def test_a_thread_that_never_ends_is_named_and_left_behind(work: str, left: str | None) -> None:
    command = [sys.executable, "-c", SCRIPT.format(work=work)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 3, ended.stderr
    assert ("threads_left" in ended.stdout + ended.stderr) == (left is not None)
    assert left is None or left in ended.stdout + ended.stderr


@pytest.mark.parametrize("error", ["StateError", "ValueError"])
def test_a_start_that_fails_beside_such_a_thread_ends_with_1(error: str) -> None:
    work = (
        "from streamd.core.errors import StateError\n"
        "        asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)\n"
        f"        raise {error}('no such luck')"
    )
    command = [sys.executable, "-c", SCRIPT.format(work=work)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1, ended.stderr
    assert "no such luck" in ended.stderr
    assert ("Traceback" in ended.stderr) == (error == "ValueError")
