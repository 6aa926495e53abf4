"""The entries of the chain of a shard's forecasts, and what may be wrong with an append or with what was read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum


class EntryKind(Enum):
    """The kinds of the chain's entries."""

    MARKER = "marker"
    """A new owner begins."""
    BATCH = "batch"
    """Forecasts."""
    RECORD = "record"
    """The newest steps of one part of the servers as of this entry; it replaces the part's earlier record."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChainEntry:
    """An entry of the chain; `sequence` is its place in the stream, 0 before it is appended.

    `fence` is that of its owner. `steps` has each server's step that is forecast; in a record, its newest. `forgotten`
    has servers that were deleted: a batch removes them before its own steps. `forgot_rows` is the sequence in the row
    log of the newest order to forget that the chain has; orders up to it are not appended again.
    """

    kind: EntryKind
    fence: int
    sequence: int = 0
    steps: Mapping[str, int] = field(default_factory=dict)
    forgotten: Sequence[str] = ()
    forgot_rows: int = 0
    part: int = 0


class FencedError(Exception):
    """The chain has a marker of a later owner, or what it has is not known: this one must not append. No caller's."""


class ChainGapError(Exception):
    """Entries of the chain are missing: the chain must be loaded again. No caller's."""
