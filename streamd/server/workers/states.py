"""The states that a process of the daemon reports to its supervisor, as a daemon reports them to systemd.

Each process has a socket of its own, so that a state needs no name of its sender.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress

OPENED, DRAINED = "X_STREAMD_OPENED", "X_STREAMD_DRAINED"
"""States of our own: the state folder is open, and nothing is left that was taken."""

_MAX_STATE_BYTES = 8_192


class StateReceiver:
    """The socket of one process; `handle` gets the fields of each of its states on the running loop."""

    def __init__(self, path: str, handle: Callable[[Mapping[str, str]], None]) -> None:
        self.path = path
        self._handle = handle
        with suppress(FileNotFoundError):
            os.unlink(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._socket.bind(path)
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._read)

    def close(self) -> None:
        """Receive no more."""
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()

    def receive_rest(self) -> None:
        """Handle what was sent before the process ended."""
        self._read()

    def _read(self) -> None:
        with suppress(BlockingIOError):
            while True:
                self._handle(parse_state(self._socket.recv(_MAX_STATE_BYTES)))


def parse_state(datagram: bytes) -> dict[str, str]:
    """Return the fields of a state."""
    pairs = (line.partition("=") for line in datagram.decode(errors="replace").split("\n"))
    return {name: value for name, _, value in pairs}
