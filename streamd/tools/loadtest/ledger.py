"""What was sent and what came back, row by row, in arrays that several processes write to.

A sender writes only its own servers' cells, a subscriber only its own plane, so nothing is locked.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, auto
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Line = NDArray[np.int64]


class LedgerCount(IntEnum):
    """Columns of ``Ledger.counts``; a connection's and a subscriber's lines use the same columns."""

    FRAMES_SENT = 0
    FRAMES_ANSWERED = auto()
    SAMPLES_SENT = auto()
    SAMPLES_ACCEPTED = auto()
    SAMPLES_REJECTED = auto()
    FRAMES_RESENT = auto()
    THROTTLED = auto()  # times that the daemon was too busy and said when to come back
    RECONNECTS = auto()
    FORECAST_FRAMES = auto()
    FORECASTS = auto()
    DISORDERED = auto()  # forecasts with a quantile above the next one, or NaN
    INFINITE = auto()  # forecasts with a value that its dtype can't hold
    LAGGED = auto()  # forecasts that the daemon says it dropped for this subscriber
    FOREIGN = auto()  # forecasts of servers or steps that this replay does not send
    MALFORMED = auto()  # frames that could not be read


@dataclass(frozen=True, slots=True)
class LedgerShape:
    """Of the ledger's arrays: T steps, N servers, C connections, S subscribers."""

    steps: int
    servers: int
    connections: int
    subscribers: int


@dataclass(frozen=True, slots=True)
class Ledger:
    """Times are of the monotonic clock, which all processes of one machine share."""

    shape: LedgerShape
    sent_at: NDArray[np.float64]  # [T, N], when the row's last sample was to be sent; 0 where it was not
    # [T, N], 0 until a sample of the row is acked as accepted; then 1, and one more for each time that its
    # connection had been lost when the sample was first sent.
    accepted: NDArray[np.uint8]
    received: NDArray[np.uint8]  # [S, T, N], how many forecasts came for the row
    context: NDArray[np.int16]  # [S, T, N], the context that the forecast told
    latency_seconds: NDArray[np.float32]  # [S, T, N], from sent_at to receipt
    counts: NDArray[np.int64]  # [C + S, Count], a line a connection, then a line a subscriber

    @classmethod
    def create(cls, shape: LedgerShape, folder: Path | None = None) -> Ledger:
        """An empty ledger: in memory, or in files under ``folder`` that other processes can open."""
        return cls._with(shape, folder, "w+")

    @classmethod
    def open(cls, shape: LedgerShape, folder: Path) -> Ledger:
        """A ledger that another process created."""
        return cls._with(shape, folder, "r+")

    @classmethod
    def _with(cls, shape: LedgerShape, folder: Path | None, mode: str) -> Ledger:
        grid = (shape.steps, shape.servers)
        planes = (shape.subscribers, *grid)

        def array(name: str, dtype: Any, dimensions: tuple[int, ...]) -> NDArray[Any]:
            if folder is None or 0 in dimensions:
                return np.zeros(dimensions, dtype=dtype)
            return np.memmap(folder / name, dtype=dtype, mode=mode, shape=dimensions)  # type: ignore[call-overload, no-any-return]

        return cls(
            shape=shape,
            sent_at=array("sent_at", np.float64, grid),
            accepted=array("accepted", np.uint8, grid),
            received=array("received", np.uint8, planes),
            context=array("context", np.int16, planes),
            latency_seconds=array("latency_seconds", np.float32, planes),
            counts=array("counts", np.int64, (shape.connections + shape.subscribers, len(LedgerCount))),
        )

    def connection(self, index: int) -> Line:
        """The line of counts of one connection."""
        line: Line = self.counts[index]
        return line

    def subscriber(self, index: int) -> Line:
        """The line of counts of one subscriber."""
        line: Line = self.counts[self.shape.connections + index]
        return line

    def total(self, count: LedgerCount) -> int:
        """A count over all connections and subscribers."""
        return int(self.counts[:, count].sum())
