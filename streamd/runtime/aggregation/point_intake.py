"""The taker of points, as those who have some see it: the collector of this host, or a relay to other nodes."""

from collections.abc import Hashable
from typing import Protocol

from streamd.core.access.caller import ANYBODY, Caller
from streamd.core.errors import StreamdError
from streamd.runtime.aggregation.batch import CommitResult, PointBatch


class PointIntake(Protocol):
    """A taker of points (`Collector`)."""

    def check_open(self) -> None:
        """Raise `DrainingError` while the daemon stops, and `UnavailableError` while it cannot take more."""
        ...

    def check_space(self) -> None:
        """Raise `UnavailableError` while it cannot take more."""
        ...

    def start_batch(self, protocol: str, caller: Caller = ANYBODY, sender: Hashable = None) -> PointBatch:
        """Return a batch for the points of one body of a caller."""
        ...

    def count_rows(self, batch: PointBatch) -> int:
        """Return the rows that a batch counts as against the limit of its sender's token."""
        ...

    def find_oldest_second(self, server: str) -> float:
        """Return the epoch second from which on the points of a server count; 0 if that is not known."""
        ...

    def count_refused(self, protocol: str, error: StreamdError) -> None:
        """Count a body that was rejected as a whole."""
        ...

    async def commit(self, batch: PointBatch) -> CommitResult:
        """Take the points of a batch; returns when they are stored. Raises `UnavailableError` if they cannot be."""
        ...
