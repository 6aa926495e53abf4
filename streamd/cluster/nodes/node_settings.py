"""The settings of a node of a cluster, and its condition, as its daemon states them."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class NodeSettings:
    """One node's name and the rules of its cluster."""

    node: str
    shards: int
    lease_seconds: float = 2.5
    rebalance_delay_seconds: float = 30.0
    max_clock_offset_seconds: float = 10.0
    version: str = ""
    """The release, for operators."""


@dataclass(frozen=True, kw_only=True)
class NodeCondition:
    """The condition of a node, as its heartbeats state it."""

    is_ready: bool
    """Whether it can forecast."""
    hindrances: tuple[str, ...] = ()
    """Why it should own nothing, beside its clock."""
    details: dict[str, float]
    """Numbers for operators."""
