"""Rows that the engine process makes of points: the owners of their servers write them."""

import asyncio
import os
from collections import defaultdict

from streamd.core.errors import TooOldError
from streamd.core.state.rows import PackedRow
from streamd.runtime.service import Service
from streamd.runtime.workers.messages import WriteRows
from streamd.runtime.workers.ownership import find_owning_worker
from streamd.runtime.workers.peers import Peers


class PointRows:
    """The writer (`RowWriter`) of an engine process; `open` gives it the service.

    Rows are kept until their owner confirms them, and sent to its next run if this one ends.
    """

    def __init__(self, peers: Peers, workers: int, *, has_workers: bool) -> None:
        self._peers = peers
        self._workers = workers
        self._has_workers = has_workers
        # A random one: a late answer to the former engine process confirms nothing here.
        self._next = int.from_bytes(os.urandom(6), "little")
        self._unwritten: dict[int, list[tuple[int, int, int, bytes, int, int]]] = defaultdict(list)
        self._unconfirmed: dict[int, dict[int, WriteRows]] = {worker: {} for worker in range(workers)}
        self._service: Service | None = None

    def open(self, service: Service) -> None:
        """Write the rows of a service."""
        self._service = service

    def write_row(self, slot: int, step: int, row: PackedRow, status: int | None = None) -> int:
        """Let the owner of a slot write a row whose step is over; returns 0: the owner reports what becomes due.

        Before the first worker has come, the row is written here. Raises `TooOldError` as `WindowStore.write_row` does.
        """
        assert self._service is not None, "rows are made after the start"
        windows, directory = self._service.state.windows, self._service.state.directory
        server = directory.names[slot]
        self._has_workers = self._has_workers or bool(self._peers.presence.here)
        if server is None or not self._has_workers:
            return windows.write_row(slot, step, row, status)
        latest = windows.get_latest_step(slot)
        if latest - step > windows.late_steps:
            raise TooOldError(f"step {step} is {latest - step} behind {latest}, expected at most {windows.late_steps}")
        if not self._unwritten:
            asyncio.get_running_loop().call_soon(self._send_rows)
        generation = directory.get_generation(slot)
        packed = (slot, generation, step, row.data, row.mask, -1 if status is None else status)
        self._unwritten[find_owning_worker(server, self._workers)].append(packed)
        return 0

    def _send_rows(self) -> None:
        unwritten, self._unwritten = self._unwritten, defaultdict(list)
        for owner, rows in unwritten.items():
            self._next += 1
            message = self._unconfirmed[owner][self._next] = WriteRows(self._next, rows)
            if self._peers.presence.is_here(owner):
                self._peers.send(owner, message)

    def confirm(self, worker: int, number: int) -> None:
        """Note that a worker has written the rows of a message."""
        self._unconfirmed[worker].pop(number, None)

    def send_again(self, worker: int) -> None:
        """Send a worker that has started what the former one did not confirm."""
        for message in self._unconfirmed[worker].values():
            self._peers.send(worker, message)
