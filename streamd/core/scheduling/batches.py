"""Batches: the windows that run together, and what becomes of them. Data only.

Servers' windows are columns, because a fleet has thousands of them a second; callers' windows are objects.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Numbers, Slots, Times
from streamd.core.scheduling.batch_reasons import BatchReason
from streamd.core.state.memory_reads import MemoryRead
from streamd.core.unknown_targets import UnknownSearch


@dataclass(frozen=True, slots=True)
class ServerItem:
    """A server's newest window, as it was when its batch was taken."""

    slot: int
    generation: int
    step: int
    context: int
    since: float
    """When the row became due (monotonic seconds)."""


@dataclass(slots=True)
class RequestItem:
    """One window of a caller's request. It does not change; to freeze it would double the time to make one."""

    request: object
    index: int
    since: float


Item = ServerItem | RequestItem


def _make_empty(dtype: type) -> npt.NDArray[Any]:
    return np.empty(0, dtype)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ServerRows:
    """The columns of some servers' newest windows, as they were when their batch was taken; all `(n,)`."""

    slots: Slots = field(default_factory=partial(_make_empty, np.int64))
    generations: Numbers = field(default_factory=partial(_make_empty, np.int64))
    steps: Numbers = field(default_factory=partial(_make_empty, np.int64))
    """The step of the newest row in each window."""
    contexts: Numbers = field(default_factory=partial(_make_empty, np.int64))
    """The number of rows that each window really has."""
    since: Times = field(default_factory=partial(_make_empty, np.float64))
    """When each row became due (monotonic seconds)."""

    def __len__(self) -> int:
        return len(self.slots)

    def select(self, chosen: npt.NDArray[Any] | slice) -> "ServerRows":
        """Return some of the rows: by their indices, by a mask `(n,)`, or by a slice."""
        return ServerRows(
            slots=self.slots[chosen],
            generations=self.generations[chosen],
            steps=self.steps[chosen],
            contexts=self.contexts[chosen],
            since=self.since[chosen],
        )

    def sort_by_step(self) -> "ServerRows":
        """Return the rows in the order of their steps; rows of one step keep their order."""
        steps = self.steps
        if len(steps) < 2 or (steps[1:] >= steps[:-1]).all():
            return self
        return self.select(np.argsort(steps, kind="stable"))

    def list_items(self) -> list[ServerItem]:
        """Return the rows one by one."""
        columns = (self.slots, self.generations, self.steps, self.contexts, self.since)
        return [ServerItem(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


NO_SERVERS = ServerRows()
"""No rows: one object for all batches, since empty arrays are never changed."""


def join_rows(parts: Sequence[ServerRows]) -> ServerRows:
    """Return all rows of several parts, in order."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return NO_SERVERS
    return ServerRows(
        slots=np.concatenate([part.slots for part in parts]),
        generations=np.concatenate([part.generations for part in parts]),
        steps=np.concatenate([part.steps for part in parts]),
        contexts=np.concatenate([part.contexts for part in parts]),
        since=np.concatenate([part.since for part in parts]),
    )


@dataclass(slots=True, eq=False)
class Batch:
    """Windows that run together: in a lane's buffers the rows of the servers are first, then those of the callers.

    Servers whose windows end at the same step are neighbours: such windows are gathered at once.
    """

    servers: ServerRows = field(default_factory=lambda: NO_SERVERS)
    requests: list[RequestItem] = field(default_factory=list)
    moves: int = 0
    """The number of lanes that were lost while they ran it."""
    started: float = 0.0
    """When it was taken for a lane (monotonic seconds)."""
    reason: BatchReason = BatchReason.ALL_WAITING
    """The reason why it has its size."""
    memory: MemoryRead | None = None
    """How the memories of its servers are read once it runs; `None` if its version asks for none, or none is kept."""
    unknown: UnknownSearch | None = None
    """How its unknown targets are found once it runs; set when its windows are given to a lane."""

    def __len__(self) -> int:
        return len(self.servers) + len(self.requests)

    def split(self, count: int) -> tuple["Batch", "Batch"]:
        """Return the first `count` windows and the rest as two batches that moved as often, for the same reason."""
        servers = min(count, len(self.servers))
        requests = count - servers
        parts = slice(0, servers), slice(servers, None)
        first, rest = (Batch(self.servers.select(part), moves=self.moves, reason=self.reason) for part in parts)
        first.requests, rest.requests = self.requests[:requests], self.requests[requests:]
        return first, rest

    def find_oldest_since(self) -> float | None:
        """Return when the longest waiting window became due (monotonic seconds); `None` if it has no window."""
        times = [request.since for request in self.requests]
        if len(self.servers):
            times.append(float(self.servers.since.min()))
        return min(times, default=None)

    def list_items(self) -> list[Item]:
        """Return the windows one by one, in the order of their rows."""
        return [*self.servers.list_items(), *self.requests]


@dataclass(slots=True, eq=False)
class BatchOutcome:
    """The work that a batch leaves to its caller. What has to run again is queued already."""

    rows: Numbers = field(default_factory=lambda: NO_SERVERS.slots)
    """The rows of the batch whose forecasts are to be delivered, rising, `(n,)`."""
    deliver: ServerRows = field(default_factory=lambda: NO_SERVERS)
    """The servers of these rows, `(n,)`."""
    answer: list[tuple[int, RequestItem]] = field(default_factory=list)
    """The callers' windows to answer, as (row in the batch, item)."""
    fail: list[Item] = field(default_factory=list)
    """The windows that get no forecast."""
