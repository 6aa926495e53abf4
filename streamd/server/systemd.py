"""Reports the daemon's state to systemd by the datagram of sd_notify(3).

Implemented here because the protocol is one datagram, and the bindings need the headers of libsystemd to install.
"""

import os
import socket
from collections.abc import Mapping


class Notifier:
    """Sends states to the socket that systemd gave; a no-op without one."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the leading zero byte of the abstract namespace.
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self.watchdog_seconds = _read_watchdog_seconds(environ)
        """The interval within which systemd expects a `WATCHDOG=1`; `None` if it does not watch."""

    def notify(self, **states: str) -> None:
        """Send states such as `READY="1"`; an error of the socket is ignored, since the daemon serves without it."""
        if not self._address:
            return
        datagram = "\n".join(f"{name}={value}" for name, value in states.items()).encode()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sender:
            try:
                sender.sendto(datagram, self._address)
            except OSError:
                return


def _read_watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    pid = environ.get("WATCHDOG_PID")
    if pid is not None and pid != str(os.getpid()):
        return None
    text = environ.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isascii() and text.isdigit() and int(text) else None
