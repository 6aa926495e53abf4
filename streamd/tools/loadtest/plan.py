"""The send plan: the connection, the frame and the time of each row. Decides and sends nothing; has no clock."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from streamd.tools.fleets.fleet import Bools, Fleet, Ints


@dataclass(frozen=True, slots=True)
class Pace:
    """The speed of sending; with neither rate nor speed, as fast as the daemon acks (closed loop)."""

    rate: float | None = None
    """Rows a second of the whole fleet."""
    speed: float | None = None
    """Multiple of real time."""
    burst: bool = False
    """With a speed: all servers send at the beginning of a step instead of evenly over it."""

    @property
    def is_open_loop(self) -> bool:
        """Whether frames are sent at their planned time, even if the daemon is slow."""
        return self.rate is not None or self.speed is not None


@dataclass(frozen=True, slots=True)
class RowBatch:
    """The n rows of one frame, or a part of their features.

    Constructed with positional arguments: there is one for each frame.
    """

    steps: Ints
    """`(n,)`: the step index of each row."""
    servers: Ints
    """`(n,)`: the server index of each row."""
    part: int
    """The index of the part: the frame has each feature whose index is `part` modulo `parts`."""
    parts: int
    due_seconds: float
    """The time to send the frame, from the beginning of the stretch; 0 in a closed loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendPlan:
    """The rows of a fleet over several connections: `fill_steps` steps as history, then the measured stretch."""

    fleet: Fleet
    selected: Bools
    """`(T, N) bool`: the rows to send."""
    connections: int
    fill_steps: int
    step_seconds: int
    pace: Pace
    samples_a_frame: int = 1
    parts: int = 1
    fill_samples_a_frame: int = 500

    def list_servers(self, connection: int) -> Ints:
        """Return the servers of a connection, `(n,)`: one connection keeps the rows of a server in order."""
        return np.arange(connection, len(self.fleet.servers), self.connections, dtype=np.intp)

    def plan_history(self, connection: int) -> Iterator[RowBatch]:
        """Yield the history: one server after another, whole windows in few frames."""
        servers = self.list_servers(connection)
        which, steps = np.nonzero(self.selected[: self.fill_steps, servers].T)
        for start in range(0, len(steps), self.fill_samples_a_frame):
            part = slice(start, start + self.fill_samples_a_frame)
            yield RowBatch(steps[part], servers[which[part]], 0, 1, 0.0)

    def plan_stream(self, connection: int) -> Iterator[RowBatch]:
        """Yield the measured stretch: step after step, all servers of the connection in each."""
        servers = self.list_servers(connection)
        sent = 0
        for step in range(self.fill_steps, self.fleet.steps):
            reporting = servers[self.selected[step, servers]]
            for start in range(0, len(reporting), self.samples_a_frame):
                rows = reporting[start : start + self.samples_a_frame]
                sent += len(rows)
                # Connections take turns: all of their frames at one moment would be a burst that no real fleet sends.
                turn = len(rows) * (self.connections - 1 - connection) / self.connections
                into_step = (start + len(rows) - turn) / len(reporting)
                due = self._due_seconds(step, into_step, sent - turn, len(servers))
                steps = np.full(len(rows), step, dtype=np.intp)
                for part in range(self.parts):
                    yield RowBatch(steps, rows, part, self.parts, due)

    def count_rows(self) -> tuple[int, int]:
        """Return the number of rows of the history and of the measured stretch."""
        return int(self.selected[: self.fill_steps].sum()), int(self.selected[self.fill_steps :].sum())

    def _due_seconds(self, step: int, share: float, sent: float, servers: int) -> float:
        """Return the time to send a frame, in seconds from the beginning of the stretch.

        The last connection's frame is due when its last row exists, the others' frames at even distances before it.
        `share` is the position of that moment within the step's rows, 0 to 1; `sent` is the number of rows that the
        connection has sent by then.
        """
        if self.pace.rate is not None:
            # Each connection carries its servers' share of the rate.
            return sent * len(self.fleet.servers) / (servers * self.pace.rate)
        if self.pace.speed is not None:
            into_step = 0.0 if self.pace.burst else share
            return (step - self.fill_steps + into_step) * self.step_seconds / self.pace.speed
        return 0.0
