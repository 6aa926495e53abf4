"""The phases of a shard at one node, and what the node knows of its lease. Decides nothing."""

from dataclasses import dataclass
from enum import Enum

from streamd.core.cluster.lease_actions import Lease

FREE = Lease()
"""The lease of a shard that no node holds."""


class ShardPhase(Enum):
    """The phases of a shard at this node."""

    ELSEWHERE = "elsewhere"
    PREPARING = "preparing"
    """It loads and follows the shard, whose holder is alive."""
    PREPARED = "prepared"
    """It follows, and asks the holder to release it."""
    TAKING = "taking"
    """It changes the lease of a shard that has no living holder."""
    HOLDING = "holding"
    RELEASING = "releasing"
    """It has stopped to append, and gives the lease away."""


FOLLOWING = (ShardPhase.PREPARING, ShardPhase.PREPARED)
OWNING = (ShardPhase.HOLDING, ShardPhase.RELEASING)


@dataclass(slots=True)
class ShardLease:
    """A shard's lease as one node knows it, and what this node does with the shard."""

    lease: Lease = FREE
    revision: int = 0
    phase: ShardPhase = ShardPhase.ELSEWHERE
    phase_before: ShardPhase = ShardPhase.ELSEWHERE
    """What it returns to if it cannot be taken."""
    try_at: float = 0.0
    """The earliest time of the next attempt."""
    is_waiting: bool = False
    """Whether an action has had no outcome yet."""
    failed_until: float = 0.0
    failures: int = 0
    free_since: float | None = None
    release_to: Lease = FREE
