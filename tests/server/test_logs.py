"""Tests `streamd/server/logs.py` in a process: whatever peers do, each line of the log is an event in JSON."""

import http.client
import json
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.daemon_process import DaemonProcess
from tests.support.version_calls import StartDaemon

HEAD = b"POST /v1/samples HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n"
UPGRADE = (
    b"GET /v1/ingest HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
AWKWARD = {
    "in a body": HEAD + b'{"samples"',
    "as an event stream begins": b"GET /v1/forecasts/stream HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "as a WebSocket begins": UPGRADE,
    "with frames in progress": UPGRADE + b"\x81\x82\x00\x00\x00\x00{}" * 20,
    "in what is not HTTP": b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
}


def send_and_reset(daemon: DaemonProcess, sent: bytes) -> None:
    """Send this and reset the connection, as a killed process does."""
    with socket.create_connection(("127.0.0.1", daemon.port)) as peer:
        peer.sendall(sent)
        assert daemon.get("/healthz")[0] == 200  # the daemon has read it
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("level", ["debug", "info"])
def test_peers_that_are_killed_leave_only_events_at_debug_level(start: StartDaemon, tmp_path: Path, level: str) -> None:
    daemon = start(tmp_path / "state", STREAMD_LOG_LEVEL=level)
    daemon.wait_for("ready")
    seen = len(daemon.lines)
    for sent in AWKWARD.values():
        for _ in range(5):
            send_and_reset(daemon, sent)
    assert daemon.call("GET", "/healthz")[0] == 200
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0  # every line to the end is JSON
    lines = daemon.lines[seen:]
    expected = {"peer_left", "malformed_request"} if level == "debug" else set()
    events = {line["event"] for line in lines if line["event"] not in ("draining", "stopped")}
    assert events >= expected
    assert {line["event"] for line in lines if line["level"] != "debug"} <= {"draining", "stopped"}
    assert not [line for line in lines if "exception" in line]


def test_a_malformed_request_is_answered_with_an_error(shared: DaemonProcess) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", shared.port)
    connection.putrequest("GET", "/healthz", skip_host=True)
    connection.putheader("Content-Length", "many")
    connection.endheaders()
    response = connection.getresponse()
    assert (response.status, response.headers.get_content_type()) == (400, "application/json")
    assert json.loads(response.read())["code"] == "malformed"
    connection.close()


FOREIGN = """
import logging, sys, warnings
from streamd.server.config import LogSection
from streamd.server.logs import configure_logs
configure_logs(LogSection(log_format="json", log_level=sys.argv[1]))
logging.getLogger("aiohttp.server").debug("too little to say")
logging.getLogger("aiohttp.server").warning("from %s", "afar")
warnings.warn("beware", RuntimeWarning)
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("asyncio").exception("a defect")
"""


@pytest.mark.parametrize("level", ["debug", "info", "error"])
def test_a_log_record_of_a_library_is_an_event_in_json(level: str) -> None:
    ran = subprocess.run([sys.executable, "-c", FOREIGN, level], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in ran.stderr.splitlines()]
    failed = lines.pop()
    assert (failed["event"], failed["level"], failed["logger"]) == ("a defect", "error", "asyncio")
    assert "ZeroDivisionError" in failed["exception"]
    if level == "error":
        assert lines == []
        return
    first, second = lines
    assert (first["event"], first["level"], first["logger"]) == ("from afar", "warning", "aiohttp.server")
    assert "beware" in second["event"]
    assert first["timestamp"]


UNCAUGHT = """
import asyncio, threading
from streamd.server.config import LogSection
from streamd.server.logs import configure_logs
configure_logs(LogSection(log_format="json"))

def fail(where):
    raise RuntimeError(where)

async def fail_in_task():
    fail("in a task")

async def run():
    asyncio.get_running_loop().call_soon(fail, "in a callback")
    task = asyncio.create_task(fail_in_task())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    del task

class Finalized:
    def __del__(self):
        fail("in a finalizer")

Finalized()
thread = threading.Thread(target=fail, args=("in a thread",))
thread.start()
thread.join()
asyncio.run(run())
fail("at the end")
"""


def test_an_error_that_no_code_catches_is_an_event_in_json() -> None:
    ran = subprocess.run([sys.executable, "-c", UNCAUGHT], capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in ran.stderr.splitlines()]
    assert ran.returncode == 1
    assert [line["level"] for line in lines] == ["error"] * len(lines)
    places = [line["exception"].rpartition("RuntimeError: ")[2] for line in lines]
    assert sorted(places) == ["at the end", "in a callback", "in a finalizer", "in a task", "in a thread"]


LOGS_A_DEFECT = """
import sys
import structlog
from streamd.server.config import LogSection
from streamd.server.logs import configure_logs

configure_logs(LogSection(log_format=sys.argv[1]))

def fail(token):
    raise RuntimeError("a defect")

try:
    fail("s3cret")
except RuntimeError:
    structlog.get_logger().exception("failed")
"""

RICH = """
class Console:
    def __init__(self, **options): self.file = options["file"]
    def print(self, shown): self.file.write(repr(shown))
class Traceback:
    @classmethod
    def from_exception(cls, kind, error, trace, **options): return trace.tb_next.tb_frame.f_locals
"""
"""A stand-in for the library `rich`, which shows local variables in tracebacks."""


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_traceback_shows_no_local_variables_even_if_rich_is_installed(tmp_path: Path, log_format: str) -> None:
    package = tmp_path / "rich"
    package.mkdir()
    for module in ("__init__", "console", "traceback"):
        (package / f"{module}.py").write_text(RICH, encoding="utf-8")
    command = [sys.executable, "-c", LOGS_A_DEFECT, log_format]
    ran = subprocess.run(command, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True)
    assert "a defect" in ran.stderr
    assert "s3cret" not in ran.stderr
