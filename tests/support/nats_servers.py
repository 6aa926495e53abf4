"""Starts servers of NATS for tests: one, or three that are a cluster. They end with the test."""

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

needs_nats_server = pytest.mark.skipif(shutil.which("nats-server") is None, reason="nats-server is not installed")

START_SECONDS = 20.0


class NatsServers:
    """Servers of NATS with JetStream in a folder, which can be killed and started again, each on ports of its own."""

    def __init__(self, folder: Path, count: int = 1, settings: str = "", *, has_jetstream: bool = True) -> None:
        self.folder = folder
        self._has_jetstream = has_jetstream
        self.ports = find_free_ports(count)
        self._routes = find_free_ports(count)
        self._settings = settings
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def urls(self) -> tuple[str, ...]:
        """The URLs of all servers."""
        return tuple(f"nats://127.0.0.1:{port}" for port in self.ports)

    def start(self, *numbers: int) -> None:
        """Start servers by number, all without any; wait until each takes connections."""
        for number in numbers or range(len(self.ports)):
            path = self.folder / f"{number}.conf"
            path.write_text(self._write_settings(number), encoding="utf-8")
            with (self.folder / f"{number}.log").open("ab") as output:
                self._processes[number] = subprocess.Popen(
                    ["nats-server", "-c", str(path)], stdout=output, stderr=output, start_new_session=True
                )
        for number in numbers or range(len(self.ports)):
            wait_port(self.ports[number])

    def kill(self, *numbers: int) -> None:
        """Kill servers by number, all without any."""
        for number in numbers or list(self._processes):
            process = self._processes.pop(number)
            process.kill()
            process.wait()

    def pause(self, *numbers: int) -> None:
        """Let servers be silent, all without any: their sockets stay open."""
        for number in numbers or list(self._processes):
            self._processes[number].send_signal(signal.SIGSTOP)

    def resume(self, *numbers: int) -> None:
        """Let servers that were paused go on."""
        for number in numbers or list(self._processes):
            self._processes[number].send_signal(signal.SIGCONT)

    def _write_settings(self, number: int) -> str:
        text = f"server_name: n{number}\nlisten: 127.0.0.1:{self.ports[number]}\n{self._settings}\n"
        if self._has_jetstream:
            text += f'jetstream {{ store_dir: "{self.folder}/{number}", max_mem: 64M, max_file: 16G }}\n'
        if len(self.ports) > 1:
            routes = ", ".join(f"nats://127.0.0.1:{port}" for port in self._routes)
            text += f"cluster {{ name: c, listen: 127.0.0.1:{self._routes[number]}, routes: [{routes}] }}\n"
        return text


@contextlib.contextmanager
def run_nats(folder: Path, count: int = 1, settings: str = "") -> Iterator[NatsServers]:
    """Run servers of NATS until the block ends."""
    servers = NatsServers(folder, count, settings)
    servers.start()
    try:
        yield servers
    finally:
        servers.kill()


def find_free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def wait_port(port: int) -> None:
    """Wait until a port takes connections."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
