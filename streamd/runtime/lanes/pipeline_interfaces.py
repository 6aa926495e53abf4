"""The interfaces of what a pipeline calls: observers, a source of rows, a router of due servers."""

from collections.abc import Sequence
from typing import Protocol

from streamd.core.arrays import Slots
from streamd.core.scheduling.batch_reasons import BatchReason
from streamd.core.scheduling.batches import RequestItem
from streamd.runtime.lanes.worker import LaneResult


class BatchDone(Protocol):
    """An observer of batches (the metrics)."""

    def batch_done(
        self, windows: int, queue_delay_seconds: float, inference_seconds: float, reason: BatchReason
    ) -> None:
        """Observe a batch that ended, and the reason for its size."""
        ...


class BatchAnswered(Protocol):
    """An observer of batches with callers' windows (the statistics of inference)."""

    def batch_answered(
        self, answers: Sequence[tuple[int, RequestItem]], result: LaneResult, version: str, now: float
    ) -> None:
        """Observe a batch of a version whose callers were answered at `now` (monotonic seconds)."""
        ...


class RowsExpected(Protocol):
    """The source of rows, which knows whether more are certain to arrive (the ingest)."""

    @property
    def expects_rows(self) -> bool:
        """Whether more rows are certain to arrive at once."""
        ...


class DueRouter(Protocol):
    """A router that may queue due servers at another pipeline (a canary's)."""

    def route_due(self, slot: int, rows: int) -> bool:
        """Queue a due server elsewhere if it belongs there; returns whether it did."""
        ...

    def route_due_many(self, slots: Slots) -> Slots:
        """Queue those of distinct servers elsewhere that belong there, with one due row each; returns the others."""
        ...


class NoRouter:
    """A router that leaves every due server here."""

    def route_due(self, slot: int, rows: int) -> bool:
        """Return `False`."""
        return False

    def route_due_many(self, slots: Slots) -> Slots:
        """Return all servers."""
        return slots


class NoRowsExpected:
    """A source of rows that is never certain of more."""

    expects_rows = False
