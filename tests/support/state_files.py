"""A state folder for tests, and samples into it."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from streamd.core.arrays import Float32
from streamd.core.contract import ModelContract
from streamd.core.state.rows import RowReader
from streamd.runtime.state.opening import open_state
from streamd.runtime.state.state import State, WindowLimits
from tests.support.contracts import make_contract

if TYPE_CHECKING:
    import pytest

LIMITS = WindowLimits(capacity=4, need=2, late_steps=8, grace_seconds=10.0)
NOW = 1_000.0

Values = dict[str, float | None]


@contextmanager
def opened(
    folder: Path, contract: ModelContract | None = None, limits: WindowLimits = LIMITS, now: float = NOW
) -> Iterator[State]:
    """Open a state folder and close it at the end."""
    state = open_state(folder, contract or make_contract(), limits, now)
    try:
        yield state
    finally:
        state.close()


def send(state: State, server: str, step: int, values: Values, status: int | None = None, now: float = NOW) -> int:
    """Write one sample, as ingest does; returns how many rows became due."""
    slot = state.directory.slots.get(server)
    if slot is None:
        slot, _ = state.admit(server, now)
    state.directory.touch(slot, now)
    return state.windows.write_sample(slot, step, RowReader(state.contract.features).read_row(values), status, now)


def whole(value: float, contract: ModelContract | None = None) -> Values:
    """Return a complete row in which no two features have the same value."""
    features = (contract or make_contract()).features
    return {name: value + place / 4 for place, name in enumerate(features)}


def fill(state: State, server: str, rows: int, first_step: int = 100, now: float = NOW) -> int:
    """Send whole rows; returns the server's slot."""
    for step in range(first_step, first_step + rows):
        send(state, server, step, whole(float(step), state.contract), now=now)
    return state.directory.slots[server]


def window_of(state: State, server: str) -> Float32:
    """Return a server's window, `(context_length, features)`."""
    values = np.empty(state.contract.input_shapes["encoder_cont"], np.float32)
    statuses = np.empty(state.contract.context_length, np.int32)
    state.windows.gather_window(state.directory.slots[server], values, statuses)
    return values


def last_status(state: State, server: str) -> int:
    """Return the status of a server's newest closed row."""
    values = np.empty(state.contract.input_shapes["encoder_cont"], np.float32)
    statuses = np.empty(state.contract.context_length, np.int32)
    state.windows.gather_window(state.directory.slots[server], values, statuses)
    return int(statuses[-1])


def rows_of(state: State, server: str) -> dict[int, dict[str, float]]:
    """Return the values of a server's window by step and feature."""
    newest = state.windows.get_newest_step(state.directory.slots[server])
    found: dict[int, dict[str, float]] = {}
    for step, row in enumerate(window_of(state, server), newest - state.contract.context_length + 1):
        there: Any = {
            name: float(value) for name, value in zip(state.contract.features, row, strict=True) if value == value
        }
        if there:
            found[step] = there
    return found


def run_python(code: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run a program in another process, in the repository's root."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


def fill_the_disk(monkeypatch: "pytest.MonkeyPatch", code: int = errno.ENOSPC) -> None:
    def refuse(fd: int, offset: int, size: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
