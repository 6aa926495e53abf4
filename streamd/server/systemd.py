"""Tells systemd how the daemon does: sd_notify(3)'s datagram, as its manual page gives it.

Written here because the protocol is one datagram and the bindings need libsystemd's headers to install.
"""

import os
import socket
from collections.abc import Mapping


class Notifier:
    """Sends states to the socket that systemd named; does nothing where there is none."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the abstract namespace's leading zero byte.
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self.watchdog_seconds = _watchdog_seconds(environ)
        """How often systemd wants to hear; none where it does not watch."""

    def notify(self, **states: str) -> None:
        """Send states such as READY="1"; a socket that is gone is none of the daemon's business."""
        if not self._address:
            return
        datagram = "\n".join(f"{name}={value}" for name, value in states.items()).encode()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sender:
            try:
                sender.sendto(datagram, self._address)
            except OSError:
                return


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    pid = environ.get("WATCHDOG_PID")
    if pid is not None and pid != str(os.getpid()):
        return None
    text = environ.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isascii() and text.isdigit() and int(text) else None
