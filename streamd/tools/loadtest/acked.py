"""Lists of acknowledged rows: written after a replay, read to resume it, compared with a daemon's windows.

Sends nothing.
"""

import csv
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from streamd.tools.fleets.fleet import Bools, Fleet
from streamd.tools.loadtest.daemon import DaemonClient, ServerWindow
from streamd.tools.loadtest.errors import UsageError

ACKED_HEADER = ["server", "step", "time"]


@dataclass(frozen=True, slots=True)
class AckedComparison:
    """The comparison of a list of acknowledged rows with the daemon's windows: acked = found + outside + lost."""

    acked: int
    found: int
    outside: int
    """Rows older than the window that the daemon keeps."""
    lost: list[tuple[str, int]]
    """Server and step of each row that should be in a window and is not."""


def write_acked(path: Path, fleet: Fleet, accepted: Bools, step_seconds: int) -> None:
    """Write a line for each accepted row: its server, its step and the time at which the step begins."""
    servers, steps = np.nonzero(accepted.T)
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(ACKED_HEADER)
        for server, step in zip(servers.tolist(), (steps + fleet.first_step).tolist(), strict=True):
            lines.writerow([fleet.servers[server], step, step * step_seconds])


def read_acked(path: Path) -> dict[str, list[int]]:
    """Read the steps of each server, in the order of the list. Raises `UsageError`."""
    found: dict[str, list[int]] = defaultdict(list)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # A spreadsheet may have added a byte order mark.
            lines = csv.reader(file)
            if next(lines, None) != ACKED_HEADER:
                raise UsageError(f"{path}: expected a list of acked rows with the header {','.join(ACKED_HEADER)}")
            for server, step, _ in lines:
                found[server].append(int(step))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: {error}; expected a list of acked rows") from error
    return found


def remove_acked(selected: Bools, fleet: Fleet, acked: dict[str, list[int]]) -> Bools:
    """Return `selected`, `(T, N) bool`, without the rows of a list."""
    left = selected.copy()
    for number, server in enumerate(fleet.servers):
        steps = np.array(acked.get(server, []), dtype=np.int64) - fleet.first_step
        left[steps[(steps >= 0) & (steps < len(left))], number] = False
    return left


async def compare_acked(daemon: DaemonClient, acked: dict[str, list[int]], context_length: int) -> AckedComparison:
    """Look up each acknowledged row in its server's window."""
    known = {one.server for one in await daemon.fetch_servers()}
    names = [name for name in acked if name in known]
    windows = {window.server: window for window in await daemon.fetch_windows(names)}
    found = outside = 0
    lost: list[tuple[str, int]] = []
    for server, steps in acked.items():
        held, oldest = _find_held_steps(windows.get(server), context_length)
        for step in steps:
            if step in held:
                found += 1
            elif step < oldest:
                outside += 1
            else:
                lost.append((server, step))
    return AckedComparison(found + outside + len(lost), found, outside, lost)


def _find_held_steps(window: ServerWindow | None, context_length: int) -> tuple[set[int], float]:
    """Return the steps of which a window has a row, and the oldest step that it can hold."""
    if window is None:
        return set(), float("-inf")
    return set(window.list_steps()), round(window.origin / window.step_seconds) - context_length
