"""The rows and points of one shard that are not in its log yet, in their order. Appends nothing."""

import asyncio
from collections import deque
from enum import Enum
from typing import NamedTuple

from streamd.cluster.rows.append_tickets import AppendTicket
from streamd.core.cluster.row_batches import MESSAGE_HEAD
from streamd.core.cluster.row_gathering import RowGatherer

MAX_ROWS_MESSAGE_BYTES = 256 * 1024
"""A message has the sections that are queued, up to so many bytes."""


class AppendState(Enum):
    """The states of a shard's queue."""

    IDLE = "idle"
    APPENDING = "appending"
    WAITING = "waiting"
    """The log did not answer; the same message is appended again after a while."""


class QueuedPart(NamedTuple):
    """A section, those who wait for it, and the bytes that it was counted as when it was taken."""

    section: bytes
    tickets: list[AppendTicket]
    noted_bytes: int


class RowQueue:
    """The parts that are not in the log of one shard yet, in their order."""

    def __init__(self) -> None:
        self.state = AppendState.IDLE
        self.task: asyncio.Task[None] | None = None
        self.parts: deque[QueuedPart] = deque()
        self.gatherer: RowGatherer | None = None
        self.gathered: list[AppendTicket] = []

    def add_section(self, section: bytes, ticket: AppendTicket) -> None:
        """Add a section behind all that was added before."""
        self.close_gatherer()
        self.parts.append(QueuedPart(section, [ticket], len(section)))

    def close_gatherer(self) -> None:
        """Make a section of the single rows that were gathered."""
        if self.gatherer is not None:
            self.parts.append(QueuedPart(self.gatherer.encode(), self.gathered, self.gatherer.bytes))
            self.gatherer, self.gathered = None, []

    def take_parts(self) -> "list[QueuedPart]":
        """Remove and return the parts of the next message, which is empty if nothing is queued."""
        self.close_gatherer()
        taken: list[QueuedPart] = []
        size = len(MESSAGE_HEAD)
        while self.parts and (not taken or size + len(self.parts[0].section) <= MAX_ROWS_MESSAGE_BYTES):
            part = self.parts.popleft()
            size += len(part.section)
            taken.append(part)
        return taken
