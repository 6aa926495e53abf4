"""Opens and reads regular files without ever waiting without limit, and syncs folders; imports nothing of streamd.

Pipes, devices and sockets are refused, since opening a pipe waits for a writer. A file system that stops answering
leads to a `TimeoutError`.
"""

import errno
import io
import os
import queue
import stat
import threading
from pathlib import Path

STALL_SECONDS = 60.0
"""A file system that returns no byte for so long is considered hung."""

_PIECE_BYTES = 4 * 2**20

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def open_regular(path: Path) -> io.BufferedReader:
    """Open a file to read its bytes, without waiting for a writer; raises `OSError` if it is not a regular file."""
    # With O_NONBLOCK a pipe opens at once; for a regular file the flag has no effect.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        require_regular(descriptor, path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path) -> bytes:
    """Read a regular file; raises `OSError`."""
    with open_regular(path) as file:
        return file.read()


def require_regular(descriptor: int, path: Path) -> None:
    """Raise `OSError` if an open descriptor is not one of a regular file."""
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "not a file")
        raise OSError(errno.EINVAL, f"it is {kind}, expected a regular file", str(path))


def sync_folder(path: Path) -> None:
    """Write a folder's names through to the disk; raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_with_timeout(path: Path, stall_seconds: float = STALL_SECONDS) -> bytes:
    """Read a regular file; raises `OSError`, and `TimeoutError` if no byte arrives for so long.

    On a timeout the daemon thread that reads is abandoned: it delays neither the caller nor the exit of the process.
    """
    pieces: queue.SimpleQueue[bytes | OSError] = queue.SimpleQueue()
    threading.Thread(target=_read_pieces, args=(path, pieces), name=f"read {path.name}", daemon=True).start()
    content = bytearray()
    while True:
        try:
            piece = pieces.get(timeout=stall_seconds)
        except queue.Empty:
            message = f"the file system gave no answer for {stall_seconds:g} s"
            raise TimeoutError(errno.ETIMEDOUT, message, str(path)) from None
        if isinstance(piece, OSError):
            raise piece
        if not piece:
            return bytes(content)
        content += piece


def _read_pieces(path: Path, pieces: "queue.SimpleQueue[bytes | OSError]") -> None:
    try:
        with open_regular(path) as file:
            while piece := file.read(_PIECE_BYTES):
                pieces.put(piece)
            pieces.put(b"")
    except OSError as exc:
        pieces.put(exc)
