"""The states that a daemon sends to systemd, as a test reads them."""

import queue
import shutil
import socket
import tempfile
import threading

MAX_WAIT_SECONDS = 30.0


class NotifyReceiver:
    """A socket that receives as systemd does, at once: the kernel keeps ten states, and a daemon drops what is more."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="sd")  # a socket's path must be short
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"{self._folder}/notify")
        self._states: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._receive, daemon=True)
        self._thread.start()

    def getsockname(self) -> str:
        """Return the value of `NOTIFY_SOCKET`."""
        return f"{self._folder}/notify"

    def recv(self) -> bytes:
        """Return the next state; raises `queue.Empty` if none comes."""
        return self._states.get(timeout=MAX_WAIT_SECONDS)

    def close(self) -> None:
        """Receive no more."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"", self.getsockname())
        self._thread.join()
        self._socket.close()
        shutil.rmtree(self._folder)

    def _receive(self) -> None:
        while state := self._socket.recv(1_024):
            self._states.put(state)


def receive_state(receiver: NotifyReceiver) -> list[bytes]:
    """Return the lines of the next state; requests for more time to start are passed over."""
    while (state := receiver.recv()).startswith(b"EXTEND_TIMEOUT_USEC="):
        pass
    return state.split(b"\n")
