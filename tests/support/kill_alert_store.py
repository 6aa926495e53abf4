"""Kills a process at a statement of its store of alerts, to see what it leaves on the disk."""

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from streamd.runtime.alerts.store import AlertStore, StoredChange, open_alert_store

Change = Callable[[AlertStore, Callable[[], None]], None]
"""Changes a store, and calls the function after each change that is whole."""


def write_until_killed(folder: Path, batches: Sequence[Sequence[StoredChange]], kill_at: int | None) -> tuple[int, int]:
    """Write batches in a process that is killed before its `kill_at`-th statement, or not at all.

    Returns how many batches were written whole by then, and how many statements were begun.
    """

    def write(store: AlertStore, done: Callable[[], None]) -> None:
        for batch in batches:
            store.write(batch)
            done()

    return change_until_killed(folder, write, kill_at)


def change_until_killed(folder: Path, change: Change, kill_at: int | None) -> tuple[int, int]:
    """Change a store in a process that is killed before its `kill_at`-th statement, or not at all.

    Returns how many changes were whole by then, and how many statements were begun.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _change(folder, change, kill_at, writer)
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as reports:
        told = reports.read()
    return told.count(b"w"), told.count(b"s")


def _change(folder: Path, change: Change, kill_at: int | None, writer: int) -> None:
    begun = 0

    def trace(statement: str) -> None:
        nonlocal begun
        if begun == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        begun += 1
        os.write(writer, b"s")

    store = open_alert_store(folder)
    store.trace(trace)

    def done() -> None:
        os.write(writer, b"w")

    change(store, done)
