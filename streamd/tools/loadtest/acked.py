"""Lists of acked rows: written after a replay, read again to skip them, compared with a daemon's windows."""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from streamd.tools.fleets.fleet import Bools, Fleet
from streamd.tools.loadtest.daemon import DaemonClient, Window
from streamd.tools.loadtest.errors import UsageError

ACKED_HEADER = ["server", "step", "time"]


@dataclass(frozen=True, slots=True)
class AckedComparison:
    """Of a list with a daemon's windows; ``outside``: rows older than the window that the daemon keeps."""

    acked: int
    found: int
    outside: int
    lost: list[tuple[str, int]]


def write_acked(path: Path, fleet: Fleet, accepted: Bools, step_seconds: int) -> None:
    """One line for each accepted row: its server, its step and the time at which the step begins."""
    servers, steps = np.nonzero(accepted.T)
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(ACKED_HEADER)
        for server, step in zip(servers.tolist(), (steps + fleet.first_step).tolist(), strict=True):
            lines.writerow([fleet.servers[server], step, step * step_seconds])


def read_acked(path: Path) -> dict[str, list[int]]:
    """Steps of each server, in the list's order. Raises UsageError."""
    found: dict[str, list[int]] = defaultdict(list)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # a spreadsheet may have written a mark
            lines = csv.reader(file)
            if next(lines, None) != ACKED_HEADER:
                raise UsageError(f"{path}: expected a list of acked rows with the header {','.join(ACKED_HEADER)}")
            for server, step, _ in lines:
                found[server].append(int(step))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: {error}; expected a list of acked rows") from error
    return found


def without(wanted: Bools, fleet: Fleet, acked: dict[str, list[int]]) -> Bools:
    """``wanted [T, N]`` less the rows of a list."""
    left = wanted.copy()
    for number, server in enumerate(fleet.servers):
        steps = np.array(acked.get(server, []), dtype=np.int64) - fleet.first_step
        left[steps[(steps >= 0) & (steps < len(left))], number] = False
    return left


async def verify(daemon: DaemonClient, acked: dict[str, list[int]], context_length: int) -> AckedComparison:
    """Is every acked row in its server's window? Rows that the window has moved past can't be told."""
    known = {one.server for one in await daemon.known()}
    windows = {window.server: window for window in await daemon.windows([name for name in acked if name in known])}
    found = outside = 0
    lost: list[tuple[str, int]] = []
    for server, steps in acked.items():
        held, oldest = _held(windows.get(server), context_length)
        for step in steps:
            if step in held:
                found += 1
            elif step < oldest:
                outside += 1
            else:
                lost.append((server, step))
    return AckedComparison(found + outside + len(lost), found, outside, lost)


def _held(window: Window | None, context_length: int) -> tuple[set[int], float]:
    if window is None:
        return set(), float("-inf")
    return set(window.steps()), round(window.origin / window.step_seconds) - context_length
