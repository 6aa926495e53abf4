"""Tests `streamd/server/workers/supervisor.py` and all below it: real processes, one of them killed under load."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.support.daemon_process import DaemonProcess
from tests.support.worker_fleet import (
    STEP_SECONDS,
    FleetSender,
    StartProcesses,
    find_parts,
    is_alive,
    kill_part,
    wait_ready,
    wait_until,
)

KILLS = int(os.environ.get("STREAMD_TEST_KILLS", "1"))
"""How often each process is killed."""


def make_sender(daemon: DaemonProcess, prefix: str = "fleet", servers: int = 24) -> FleetSender:
    features = daemon.get("/v1/status")[1]["contract"]["features"]
    return FleetSender(daemon.port, features, servers, int(time.time()) // STEP_SECONDS, prefix)


def wait_for_steps(sender: FleetSender) -> None:
    begin = sender.acked
    wait_until(lambda: sender.acked > begin + 3)


@pytest.mark.parametrize("name", ["worker 0", "worker 1", "engine"])
def test_a_process_that_is_killed_loses_nothing_acknowledged(processes: DaemonProcess, name: str) -> None:
    daemon = processes
    with make_sender(daemon, name.replace(" ", "-")) as sender:
        for _ in range(KILLS):
            wait_for_steps(sender)
            kill_part(daemon, name)
            wait_for_steps(sender)
    wait_ready(daemon)
    assert sender.find_wrong_rows(daemon) == []

    def is_forecast() -> bool:
        servers = daemon.get("/v1/servers?limit=1000")[1]["servers"]
        servers = [server for server in servers if server["server"] in sender.names]
        return len(servers) == len(sender.names) and all(
            server["last_forecast"] == server["origin"] for server in servers
        )

    wait_until(is_forecast)


def test_workers_take_rows_of_known_servers_while_the_engine_process_is_away(processes: DaemonProcess) -> None:
    daemon = processes
    with make_sender(daemon, "known") as sender:
        wait_until(lambda: sender.acked > sender.first_step + 3)
        engine = find_parts(daemon)["engine"]
        os.kill(engine, signal.SIGSTOP)
        stopped = sender.acked
        wait_until(lambda: sender.acked > stopped + 20)
        os.kill(engine, signal.SIGKILL)
    wait_ready(daemon)
    assert sender.find_wrong_rows(daemon) == []


def test_no_process_outlives_its_supervisor(start_processes: StartProcesses) -> None:
    daemon = start_processes()
    parts = find_parts(daemon)
    assert len(parts) == 3
    daemon.process.kill()
    wait_until(lambda: not any(is_alive(pid) for pid in parts.values()))


def test_a_state_that_must_be_replaced_starts_all_anew(start_processes: StartProcesses, tmp_path: Path) -> None:
    daemon = start_processes()
    before = find_parts(daemon)
    (tmp_path / "state" / "windows.streamd").rename(tmp_path / "moved")
    kill_part(daemon, "engine")
    wait_until(lambda: set(find_parts(daemon).values()).isdisjoint(before.values()) and len(find_parts(daemon)) == 3)
    wait_ready(daemon)
    with make_sender(daemon) as sender:
        wait_for_steps(sender)
    assert sender.find_wrong_rows(daemon) == []
