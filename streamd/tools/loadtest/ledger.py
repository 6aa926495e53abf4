"""The record of the rows that were sent and the forecasts that were received, in arrays that processes share.

A sender writes only the cells of its own servers, a subscriber only its own plane, so there are no locks.
"""

from dataclasses import dataclass
from enum import IntEnum, auto
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

CountRow = NDArray[np.int64]
"""The counts of one connection or one subscriber, indexed by `LedgerCount`."""


class LedgerCount(IntEnum):
    """The columns of `Ledger.counts`, for connections and subscribers alike."""

    FRAMES_SENT = 0
    FRAMES_ANSWERED = auto()
    SAMPLES_SENT = auto()
    SAMPLES_ACCEPTED = auto()
    SAMPLES_REJECTED = auto()
    FRAMES_RESENT = auto()
    THROTTLED = auto()
    """How many times the daemon was too busy and named a time to retry."""
    RECONNECTS = auto()
    FORECAST_FRAMES = auto()
    FORECASTS = auto()
    DISORDERED = auto()
    """Forecasts with a quantile above the next one, or with NaN."""
    INFINITE = auto()
    """Forecasts with a value that their dtype cannot hold."""
    LAGGED = auto()
    """Forecasts that the daemon reports as dropped for this subscriber."""
    FOREIGN = auto()
    """Forecasts of servers or steps that this replay does not send."""
    MALFORMED = auto()
    """Frames that could not be read."""


@dataclass(frozen=True, slots=True)
class LedgerShape:
    """The sizes of the ledger's arrays: T steps, N servers, C connections, S subscribers."""

    steps: int
    servers: int
    connections: int
    subscribers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """The arrays of a replay. Times are of the monotonic clock, which all processes of one machine share."""

    shape: LedgerShape
    sent_at: NDArray[np.float64]
    """`(T, N)`: the time at which the row's last sample was to be sent; 0 if it was not sent."""
    accepted: NDArray[np.uint8]
    """`(T, N)`: the connection's generation in which the accepted row was first sent; 0 if it is not accepted.

    The generation is 1 until the connection is lost for the first time, then 2, and so on.
    """
    received: NDArray[np.uint8]
    """`(S, T, N)`: how many forecasts of the row were received."""
    context: NDArray[np.int16]
    """`(S, T, N)`: the context that the forecast states."""
    latency_seconds: NDArray[np.float32]
    """`(S, T, N)`: from `sent_at` to the receipt."""
    counts: NDArray[np.int64]
    """`(C + S, LedgerCount)`: a line for each connection, then a line for each subscriber."""

    @classmethod
    def create(cls, shape: LedgerShape, folder: Path | None = None) -> Self:
        """Create an empty ledger: in memory, or in files under `folder` that other processes can open."""
        return cls._map_arrays(shape, folder, "w+")

    @classmethod
    def open(cls, shape: LedgerShape, folder: Path) -> Self:
        """Open a ledger that another process created."""
        return cls._map_arrays(shape, folder, "r+")

    @classmethod
    def _map_arrays(cls, shape: LedgerShape, folder: Path | None, mode: str) -> Self:
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

    def connection_counts(self, index: int) -> CountRow:
        """Return a view of the counts of one connection."""
        line: CountRow = self.counts[index]
        return line

    def subscriber_counts(self, index: int) -> CountRow:
        """Return a view of the counts of one subscriber."""
        line: CountRow = self.counts[self.shape.connections + index]
        return line

    def sum_count(self, count: LedgerCount) -> int:
        """Sum a count over all connections and subscribers."""
        return int(self.counts[:, count].sum())
