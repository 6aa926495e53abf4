"""The servers of a shard that were loaded from snapshots, while the rows behind the oldest snapshot are read."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from streamd.cluster.rows.point_batches import ReceivedPoints


@dataclass
class Restored:
    """The messages of rows that the windows of restored servers have, and the points that may change these rows."""

    covered: dict[str, int] = field(default_factory=dict)
    """The last message of rows that each server's window has."""
    last: int = 0
    """The highest of these."""
    points: dict[str, list[list[ReceivedPoints]]] = field(default_factory=dict)
    """The points that are in each server's rows already, and may be needed to change these: those of each message."""

    def add(self, servers: Sequence[str], covered: int) -> None:
        """Note that the windows of servers have the rows up to a message."""
        self.covered.update(dict.fromkeys(servers, covered))
        self.last = max(self.last, covered)

    def uncover(self) -> None:
        """Note that the windows have no message of the log, which is another one."""
        self.covered = dict.fromkeys(self.covered, 0)
        self.last = 0

    def is_covered(self, server: str, sequence: int) -> bool:
        """Whether the window of a server has the rows of a message."""
        return self.covered.get(server, 0) >= sequence
