"""Tests `streamd/tools/scene/processes.py`: programs that end when they should, with their children."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from streamd.tools.scene.processes import SceneError, SceneProcess, find_lasting_port, stop_processes

STUBBORN = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "1000"])
print(child.pid, flush=True)
child.wait()
"""


def wait_for_line(process: SceneProcess) -> str:
    while not process.read_log().endswith("\n"):
        process.check_running()
    return process.read_log().strip()


def is_alive(pid: int) -> bool:
    path = Path(f"/proc/{pid}/stat")
    return path.exists() and path.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_a_program_is_ended_with_its_children(tmp_path: Path) -> None:
    process = SceneProcess("stubborn", [sys.executable, "-c", STUBBORN], tmp_path)
    process.start()
    child = int(wait_for_line(process))
    process.check_running()
    process.stop(seconds=0.1)
    with pytest.raises(SceneError, match="stubborn ended with -9"):
        process.check_running()
    while is_alive(child):  # init reaps it
        pass
    process.kill()  # harmless


def test_the_end_of_the_log_says_why_a_program_ended(tmp_path: Path) -> None:
    process = SceneProcess("hasty", [sys.executable, "-c", "print('no such option'); raise SystemExit(3)"], tmp_path)
    process.start()
    while process.is_running:
        pass
    with pytest.raises(SceneError, match=r"hasty ended with 3\nthe end of .*hasty\.log:\n  no such option"):
        process.check_running()
    stop_processes([process])


def test_a_program_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # without setpriv, which would start and then fail
    with pytest.raises(SceneError, match=r"nothing does not start: .*/no/such/program"):
        SceneProcess("nothing", ["/no/such/program"], tmp_path).start()


def test_programs_are_killed_with_the_scene(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from streamd.tools.scene.processes import SceneProcess
process = SceneProcess("sleeper", ["sleep", "1000"], Path({str(tmp_path)!r}))
process.start()
print(process._process.pid, flush=True)
sys.stdin.read()
"""
    scene = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert scene.stdin is not None
    assert scene.stdout is not None
    pid = int(scene.stdout.readline())
    # The program is tethered once setpriv has replaced itself by it.
    while Path(f"/proc/{pid}/comm").read_text() != "sleep\n":
        pass
    scene.send_signal(signal.SIGKILL)
    scene.wait()
    scene.stdin.close()
    scene.stdout.close()
    while is_alive(pid):
        pass


def test_a_lasting_port_is_free_and_not_ephemeral() -> None:
    port = find_lasting_port()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))
        other = find_lasting_port()
    assert other != port
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert port < low
