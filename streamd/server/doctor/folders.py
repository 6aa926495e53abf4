"""Checks of the state folder: space, permissions, the daemon that holds it, and the layout of its files.

Reads headers only, and takes no lock: a daemon that starts meanwhile is not disturbed.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from streamd.core.state.layout import HEADER_BYTES, parse_header
from streamd.regular_files import open_regular, read_regular
from streamd.server.config import StateSection
from streamd.server.doctor.findings import Finding, make_error, make_ok, make_warning

SLOT_BYTES = 55_000
"""About the disk space and memory of one server: its window, its week's memory and its forecast, once used."""

SCARCE_BYTES = 64 * 2**20
"""With less free space, not even a small fleet's state fits."""

STATE_FILES = ("windows.streamd", "forecasts.streamd", "memory.streamd")

_LOCK_INODE, _LOCK_PID = 5, 4  # columns of /proc/locks


def check_state(settings: StateSection, locks: Path = Path("/proc/locks")) -> Iterator[Finding]:
    """Check the state folder and its files."""
    folder = Path(settings.state_dir)
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    yield from _check_permissions(folder, existing)
    yield from _check_space(folder, existing, settings)
    yield from _check_set_aside(folder)
    for name in STATE_FILES:
        if (path := folder / name).exists():
            yield from _check_file(path, settings)
    holder = find_lock_holder(folder / STATE_FILES[0], locks)
    if holder is not None:
        yield make_ok("state", f"a daemon has it open (process {holder})")


def _check_permissions(folder: Path, existing: Path) -> Iterator[Finding]:
    if not existing.is_dir():
        yield make_error("state", f"{existing} is not a folder", "set state_dir to a folder")
    elif not os.access(existing, os.R_OK | os.W_OK | os.X_OK):
        yield make_error(
            "state",
            f"{existing} cannot be written by this user ({os.geteuid()})",
            "run this as the user of the daemon, or give the folder to it with chown",
        )
    elif existing != folder:
        yield make_ok("state", f"{folder} does not exist yet; the first start creates it")


def _check_space(folder: Path, existing: Path, settings: StateSection) -> Iterator[Finding]:
    disk = os.statvfs(existing)
    if disk.f_flag & os.ST_RDONLY:
        yield make_error("disk", f"{existing} is mounted read-only", "mount it writable; see `dmesg` for the reason")
        return
    used = sum((folder / name).stat().st_blocks * 512 for name in STATE_FILES if (folder / name).exists())
    free, needed = disk.f_bavail * disk.f_frsize, settings.max_servers * SLOT_BYTES - used
    more = f"{max(needed, 0) / 2**30:.1f} GiB more if all {settings.max_servers} servers report"
    sizes = f"{free / 2**30:.1f} GiB free, {more}"
    remedy = "free space, move state_dir, or lower max_servers"
    if free < SCARCE_BYTES:
        yield make_error("disk", sizes, remedy)
    elif free < needed:
        yield make_warning("disk", sizes, remedy)
    else:
        yield make_ok("disk", sizes)


def _check_set_aside(folder: Path) -> Iterator[Finding]:
    if names := sorted(path.name for path in folder.glob("*.old")):
        yield make_warning(
            "state",
            f"a former start set aside what it could not read: {', '.join(names[:5])}",
            "copy them away for an analysis, then remove them",
        )


def _check_file(path: Path, settings: StateSection) -> Iterator[Finding]:
    try:
        header = read_state_header(path)
    except OSError as exc:
        yield make_error(
            "state", f"{path}: cannot be read: {exc.strerror or exc}", "run this as the user of the daemon"
        )
        return
    if header is None:
        yield make_warning(
            "state", f"{path}: its header is damaged", "the next start sets it aside and begins with an empty one"
        )
    elif header.get("capacity") != settings.max_servers:
        yield make_ok("state", f"{path.name} holds {header.get('capacity')} servers; the next start migrates it")
    else:
        yield make_ok("state", f"{path.name} is readable")


def read_state_header(path: Path) -> dict[str, Any] | None:
    """Return the header of a file of the state; `None` if it is damaged. Raises `OSError`."""
    with open_regular(path) as file:
        page = file.read(HEADER_BYTES)
    return parse_header(page) if len(page) == HEADER_BYTES else None


def find_lock_holder(path: Path, locks: Path = Path("/proc/locks")) -> int | None:
    """Return the process that has locked a file, by the kernel's list; `None` if none is seen."""
    try:
        inode = path.stat().st_ino
        lines = read_regular(locks).decode().splitlines()
    except OSError:
        return None
    for line in lines:
        columns = line.split()
        if len(columns) > _LOCK_INODE and columns[1] == "FLOCK" and columns[_LOCK_INODE].endswith(f":{inode}"):
            return int(columns[_LOCK_PID])
    return None
