"""Reads files that decide who may call the daemon, and refuses those that others could have written.

Nothing here repeats the content of a file, whatever is wrong with it.
"""

import os
import stat
from pathlib import Path

import structlog

from streamd.core.errors import ConfigError
from streamd.regular_files import open_regular

log = structlog.get_logger(__name__)

MAX_GUARDED_BYTES = 16 * 2**20
"""A larger file is refused unread: it is not one of tokens or certificates."""


def read_guarded(path: Path, what: str, *, is_secret: bool = True, is_credential: bool = False) -> bytes:
    """Read a file; a warning is logged if it is secret and others may read it.

    A credential of systemd is not checked: systemd guards its folder. Raises `ConfigError` naming the file and `what`
    it is if it cannot be read, is too large, or could be written by others than root and the user of the daemon.
    """
    try:
        with open_regular(path) as file:
            status = os.fstat(file.fileno())
            if not is_credential:
                _require_guarded(path, what, status, is_secret=is_secret)
            content = file.read(MAX_GUARDED_BYTES + 1)
    except OSError as exc:
        raise ConfigError(f"{path}: {what} cannot be read: {exc.strerror or exc}") from exc
    if len(content) > MAX_GUARDED_BYTES:
        raise ConfigError(f"{path}: has over {MAX_GUARDED_BYTES} bytes, expected {what}")
    return content


def _require_guarded(path: Path, what: str, status: os.stat_result, *, is_secret: bool) -> None:
    mode = stat.S_IMODE(status.st_mode)
    # As ssh does: who can write the file can give rights to anyone, and its owner can always write it.
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(f"{path}: {what} may be written by others (mode {mode:04o}), expected 0600")
    if status.st_uid not in (0, os.geteuid()):
        raise ConfigError(
            f"{path}: {what} belongs to the user {status.st_uid}, expected root or the user {os.geteuid()}"
        )
    if is_secret and mode & stat.S_IROTH:
        log.warning("readable_by_others", path=str(path), mode=f"{mode:04o}", expected="0600")
