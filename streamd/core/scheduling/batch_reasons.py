"""Reasons for the sizes of batches, and how often each occurred. Data and counts only; `scheduler.py` decides."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class BatchReason(StrEnum):
    """The reason why a batch has its size; the values are on the wire."""

    ALL_WAITING = "all_waiting"
    """It has everything that waited when a lane was idle: the usual one below the limit of the lanes."""
    DELAY_OVER = "delay_over"
    """It was held back for more rows, and the longest waiting window reached the queue delay first."""
    LARGEST_BATCH = "largest_batch"
    """More windows waited than the largest batch takes."""
    CHEAPER_SPLIT = "cheaper_split"
    """Several batches of smaller buckets finish sooner than one batch of all that waited."""
    SHARED_BY_LANES = "shared_by_lanes"
    """Several lanes were idle, and finish sooner if each takes a part."""
    LANE_LOST = "lane_lost"
    """It runs again because its lane was lost."""
    HALF_OF_FAILED = "half_of_failed"
    """It runs again as half of a batch that failed, to find the window at fault."""


@dataclass(slots=True)
class ReasonCounts:
    """The batches of one reason since start, their windows, and the sum of their queue delays."""

    batches: int = 0
    windows: int = 0
    queue_delay_seconds: float = 0.0


class BatchCounts:
    """The batches that ended since start, by the reason for their size."""

    def __init__(self) -> None:
        self._counts = {reason: ReasonCounts() for reason in BatchReason}

    def add(self, reason: BatchReason, windows: int, queue_delay_seconds: float) -> None:
        """Count a batch; its queue delay is that of its longest waiting window."""
        counts = self._counts[reason]
        counts.batches += 1
        counts.windows += windows
        counts.queue_delay_seconds += queue_delay_seconds

    def __iter__(self) -> Iterator[tuple[BatchReason, ReasonCounts]]:
        return iter(self._counts.items())
