"""Which rows go over which connection, in which frame, and when: decided here, sent elsewhere. No clock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from streamd.tools.fleets.fleet import Bools, Fleet, Ints


@dataclass(frozen=True, slots=True)
class Pace:
    """When rows are to be sent; with neither set, as fast as the daemon acks (closed loop).

    ``rate``: rows a second of the whole fleet. ``speed``: multiple of real time. ``burst``: with a speed, all
    servers send at the beginning of a step instead of evenly over it.
    """

    rate: float | None = None
    speed: float | None = None
    burst: bool = False

    @property
    def open_loop(self) -> bool:
        """Whether frames go at their time, whatever the daemon does."""
        return self.rate is not None or self.speed is not None


@dataclass(frozen=True, slots=True)
class RowBatch:
    """The rows of one frame, or one part of their features.

    ``steps`` and ``servers`` are index pairs ``[n]``; ``part`` of ``parts`` says which features;
    ``due_seconds`` is when the frame is to be sent, from the beginning of the stretch (0 in a closed loop).
    """

    steps: Ints
    servers: Ints
    part: int
    parts: int
    due_seconds: float


@dataclass(frozen=True, slots=True)
class SendPlan:
    """A fleet's rows over C connections: ``fill_steps`` steps as history, then the measured stretch."""

    fleet: Fleet
    wanted: Bools  # [T, N], the rows to send
    connections: int
    fill_steps: int
    step_seconds: int
    pace: Pace
    samples_a_frame: int = 1
    parts: int = 1
    fill_samples_a_frame: int = 500

    def servers_of(self, connection: int) -> Ints:
        """A server's rows stay on one connection, so they stay in order."""
        return np.arange(connection, len(self.fleet.servers), self.connections, dtype=np.intp)

    def fill(self, connection: int) -> Iterator[RowBatch]:
        """History: one server after another, whole windows in few frames."""
        servers = self.servers_of(connection)
        which, steps = np.nonzero(self.wanted[: self.fill_steps, servers].T)
        for start in range(0, len(steps), self.fill_samples_a_frame):
            part = slice(start, start + self.fill_samples_a_frame)
            yield RowBatch(steps[part], servers[which[part]], 0, 1, 0.0)

    def stream(self, connection: int) -> Iterator[RowBatch]:
        """The measured stretch: step after step, all servers of the connection in each."""
        servers = self.servers_of(connection)
        sent = 0
        for step in range(self.fill_steps, self.fleet.steps):
            reporting = servers[self.wanted[step, servers]]
            for start in range(0, len(reporting), self.samples_a_frame):
                rows = reporting[start : start + self.samples_a_frame]
                sent += len(rows)
                # Connections take turns: at one moment the frames of all would be a burst that no fleet sends.
                turn = len(rows) * (self.connections - 1 - connection) / self.connections
                into_step = (start + len(rows) - turn) / len(reporting)
                due = self._due_seconds(step, into_step, sent - turn, len(servers))
                steps = np.full(len(rows), step, dtype=np.intp)
                for part in range(self.parts):
                    yield RowBatch(steps, rows, part, self.parts, due)

    def rows(self) -> tuple[int, int]:
        """How many rows the history and the measured stretch have."""
        return int(self.wanted[: self.fill_steps].sum()), int(self.wanted[self.fill_steps :].sum())

    def _due_seconds(self, step: int, share: float, sent: float, servers: int) -> float:
        """When a frame is due: of the last connection when its last row exists, of the others by turns up to then.

        ``share``: how far into the step's rows that is, 0..1; ``sent``: how many rows of the connection it takes.
        """
        if self.pace.rate is not None:
            # Each connection carries its servers' share of the rate.
            return sent * len(self.fleet.servers) / (servers * self.pace.rate)
        if self.pace.speed is not None:
            into_step = 0.0 if self.pace.burst else share
            return (step - self.fill_steps + into_step) * self.step_seconds / self.pace.speed
        return 0.0
