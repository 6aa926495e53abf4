"""The states that a daemon sends to systemd, as a test reads them from the socket."""

import socket


def receive_state(receiver: socket.socket) -> list[bytes]:
    """Return the lines of the next state; requests for more time to start are passed over."""
    while (state := receiver.recv(1_024)).startswith(b"EXTEND_TIMEOUT_USEC="):
        pass
    return state.split(b"\n")
