"""A lease, and what a node is to do about leases: the actions that `LeaseBook` returns. Does nothing itself."""

from dataclasses import dataclass

import msgspec


class Lease(msgspec.Struct, frozen=True):
    """The value of a shard's key: the run of a node that holds it; no node if it is free. Keys are never deleted."""

    node: str = ""
    run: int = 0


@dataclass(frozen=True, slots=True)
class TakeLease:
    """Put this node's lease, if the key still has this revision; then `confirm_take` or `refuse_take`."""

    shard: int
    expected_revision: int


@dataclass(frozen=True, slots=True)
class Prepare:
    """Follow the shard without owning it; then `mark_prepared`, or `mark_failed`."""

    shard: int


@dataclass(frozen=True, slots=True)
class Abandon:
    """Stop following a shard that was prepared: another node will own it."""

    shard: int


@dataclass(frozen=True, slots=True)
class AskHandover:
    """Ask the holder to release the shard to this node; the table says whether it did, if the answer is lost."""

    shard: int
    holder: str


@dataclass(frozen=True, slots=True)
class Activate:
    """Own the shard: append the marker with this fence. `mark_failed` if that is not possible."""

    shard: int
    fence: int


@dataclass(frozen=True, slots=True)
class ReleaseLease:
    """Stop to append, wait for the append in flight, then put the lease of `to` at this revision.

    Then `confirm_release`, or `refuse_release`.
    """

    shard: int
    expected_revision: int
    to: Lease


@dataclass(frozen=True, slots=True)
class Stop:
    """The lease is another's, or this run was replaced: stop to append at once, and close the shard."""

    shard: int


Action = TakeLease | Prepare | Abandon | AskHandover | Activate | ReleaseLease | Stop
