"""Tests `streamd/server/disk.py` in a process: a file that hangs or is a pipe is refused, and the daemon still ends."""

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamd.repository.record import PromotionRecord, write_promotion_record
from tests.support.daemon_process import DaemonProcess
from tests.support.served_versions import CALENDAR, SETTINGS, WINDOW, make_both
from tests.support.version_calls import predict, promote, read_serving

HANGING = """
import json, os, sys
real = os.open

def hang(path, flags, *more, **named):
    if os.fspath(path) == os.environ["HUNG"] and os.path.exists(os.environ["HUNG_WHILE"]):
        print(json.dumps({"event": "hanging"}), file=sys.stderr, flush=True)
        real(os.environ["HUNG_PIPE"], os.O_RDONLY)  # blocks like a disk that does not answer: the pipe has no writer
    return real(path, flags, *more, **named)

os.open = hang
from streamd.cli import main
from streamd.server import process
process.LEAVE_SECONDS = 0.2
sys.exit(main(sys.argv[1:]))
"""
"""A daemon for which opening the file `HUNG` blocks while the file `HUNG_WHILE` exists.

It waits for threads at its end for a moment only: here each of them hangs.
"""

FILES = {
    "the manifest": f"engines/{CALENDAR}/config.json",
    "the graph": f"engines/{CALENDAR}/model.onnx",
    "the record": "engines/promoted.json",
    "the settings": "config.toml",
}


class HangingFiles:
    """The files of a daemon, one of which blocks while `switch` exists."""

    def __init__(self, folder: Path, file: str) -> None:
        self.folder = folder
        self.engines = make_both(folder / "engines")
        write_promotion_record(self.engines, PromotionRecord(WINDOW))
        self.config = folder / "config.toml"
        self.config.write_text("")
        self.switch = folder / "hangs"
        os.mkfifo(folder / "pipe")
        self.env = {
            **SETTINGS,
            "STREAMD_ENGINES": str(self.engines),
            "HUNG": str(folder / FILES[file]),
            "HUNG_WHILE": str(self.switch),
            "HUNG_PIPE": str(folder / "pipe"),
        }
        self.started: list[DaemonProcess] = []

    def begin(self, **env: str) -> DaemonProcess:
        daemon = DaemonProcess.begin(
            self.folder / "state",
            *("--config", str(self.config)),
            env={**self.env, **env},
            program=("-c", HANGING),
        )
        self.started.append(daemon)
        return daemon

    def start(self, **env: str) -> DaemonProcess:
        daemon = self.begin(**env)
        daemon.port = daemon.wait_for("listening")["port"]
        daemon.wait_for("ready")
        return daemon

    def change(self) -> None:
        """Promote the other version for the next reload, and let the file block from now on."""
        write_promotion_record(self.engines, PromotionRecord(CALENDAR))
        self.switch.touch()


@pytest.fixture
def hanging(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[HangingFiles]:
    files = HangingFiles(tmp_path, request.param)
    yield files
    for daemon in files.started:
        daemon.end()


@pytest.mark.parametrize("hanging", FILES, indirect=True)
def test_a_reload_gives_up_a_file_system_that_hangs_and_the_daemon_ends(hanging: HangingFiles) -> None:
    daemon = hanging.start(STREAMD_READ_TIMEOUT_SECONDS="0.5")
    hanging.change()
    daemon.signal(signal.SIGHUP)
    line = daemon.wait_for("reload_failed")
    assert "not done within 0.5 s" in line["error"]
    assert line["serving"] == WINDOW
    assert daemon.get("/v1/status")[1]["reload"]["error"] == line["error"]
    assert predict(daemon) == read_serving(daemon) == WINDOW
    # 2. Once the file system answers, a reload works again.
    hanging.switch.unlink()
    daemon.signal(signal.SIGHUP)
    daemon.wait_for("engine_switched")
    assert predict(daemon) == read_serving(daemon) == CALENDAR
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0, "though a thread still waits for the disk"
    stopped, left = daemon.lines[-2:]
    assert (stopped["event"], stopped["complete"]) == ("stopped", True)
    assert (left["event"], left["threads"]) == ("threads_left", ["background"]), "the process does not wait for a disk"


@pytest.mark.parametrize("hanging", FILES, indirect=True)
def test_a_daemon_ends_while_its_reload_hangs(hanging: HangingFiles) -> None:
    daemon = hanging.start()
    hanging.change()
    daemon.signal(signal.SIGHUP)
    daemon.wait_for("hanging")
    assert daemon.get("/readyz")[0] == 200, "the loop goes on"
    assert daemon.get("/v1/status")[1]["reload"]["state"] == "loading"
    assert predict(daemon) == WINDOW
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0
    stopped, left = daemon.lines[-2:]
    assert (stopped["event"], stopped["complete"]) == ("stopped", True)
    assert (left["event"], left["threads"]) == ("threads_left", ["background"]), "the process does not wait for a disk"


@pytest.mark.parametrize("hanging", ["the manifest"], indirect=True)
def test_a_promotion_is_answered_while_the_file_system_hangs(hanging: HangingFiles) -> None:
    daemon = hanging.start(STREAMD_READ_TIMEOUT_SECONDS="0.5")
    hanging.switch.touch()
    status, answer = promote(daemon, CALENDAR)
    assert (status, answer["code"]) == (422, "repository")
    assert f"{CALENDAR}: not done within 0.5 s" in answer["message"]
    hanging.switch.unlink()
    assert promote(daemon, CALENDAR)[0] == 200


@pytest.mark.parametrize("hanging", ["the manifest", "the graph", "the record"], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_start_that_hangs_is_stopped_by_a_signal(hanging: HangingFiles, number: signal.Signals) -> None:
    hanging.change()
    daemon = hanging.begin()
    daemon.wait_for("hanging")
    daemon.signal(number)
    assert daemon.wait() == 0
    assert [line["event"] for line in daemon.lines[-2:]] == ["stopped_while_starting", "threads_left"]


@pytest.mark.parametrize("hanging", ["the manifest"], indirect=True)
def test_a_start_that_hangs_ends_with_the_reason(hanging: HangingFiles) -> None:
    hanging.change()
    daemon = hanging.begin(STREAMD_READ_TIMEOUT_SECONDS="0.5")
    daemon.wait_for("hanging")
    reason, left = [line.decode() for line in daemon.log][-2:]
    assert daemon.process.wait() == 1
    assert f"{hanging.engines}: not done within 0.5 s" in reason
    assert json.loads(left)["event"] == "threads_left"


# ---------------------------------------------------------------- a pipe or a socket in place of a file
@pytest.mark.parametrize("hanging", FILES, indirect=True)
@pytest.mark.parametrize("kind", ["a pipe", "a socket"])
def test_a_reload_refuses_a_pipe_or_a_socket_in_place_of_a_file(hanging: HangingFiles, kind: str) -> None:
    daemon = hanging.start()
    hanging.change()
    hanging.switch.unlink()
    path = Path(hanging.env["HUNG"])
    content = path.read_bytes()
    path.unlink()
    if kind == "a pipe":
        os.mkfifo(path)
    else:
        with socket.socket(socket.AF_UNIX) as bound:
            folder = os.open(path.parent, os.O_RDONLY)  # a socket's path must be short
            bound.bind(f"/proc/self/fd/{folder}/{path.name}")
            os.close(folder)
    daemon.signal(signal.SIGHUP)
    assert path.name in daemon.wait_for("reload_failed")["error"]
    assert read_serving(daemon) == WINDOW
    path.unlink()
    path.write_bytes(content)
    daemon.signal(signal.SIGHUP)
    daemon.wait_for("engine_switched")
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0


@pytest.mark.parametrize("hanging", ["the record"], indirect=True)
def test_a_start_passes_over_and_reports_a_pipe_in_place_of_the_record(hanging: HangingFiles) -> None:
    (hanging.engines / "promoted.json").unlink()
    os.mkfifo(hanging.engines / "promoted.json")
    daemon = hanging.start()
    (missed,) = daemon.get("/readyz")[1]["passed_over"]
    assert missed["name"] == "promoted.json"
    assert "it is a pipe" in missed["reason"]
    assert json.dumps(missed) in json.dumps(daemon.get("/v1/status")[1])
