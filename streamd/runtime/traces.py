"""Traces of bodies and of forecasts: what the data path calls, and the object that traces nothing.

Knows no tracing library, so that a daemon without tracing loads none; `span_traces.py` records.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Protocol

from streamd.core.arrays import Slots
from streamd.core.scheduling.batches import Batch, BatchOutcome
from streamd.core.state.samples import IndexedSamples

TraceParent = Any
"""The trace of a sender, as `Traces.read_parent` returned it; `None` if the sender named none."""


class BodyTrace(Protocol):
    """The trace of one body or frame, from its arrival to its answer; a context manager that ends it."""

    def __enter__(self) -> "BodyTrace":
        """Return the trace."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """End the trace, with the error that ended the body, if there is one."""
        ...

    def run_step(self, name: str) -> AbstractContextManager[object]:
        """Return a context manager that traces one step of the work: read, decode, take."""
        ...

    def follow_samples(self, samples: IndexedSamples) -> IndexedSamples:
        """Return the same samples; the rows of their servers are linked to the step that runs."""
        ...

    def follow_servers(self, servers: Iterable[str]) -> None:
        """Link the next rows of these servers to the step that runs."""
        ...

    def note_result(self, accepted: int, rejected: int, errors: Sequence[Mapping[str, Any]] = ()) -> None:
        """Note the counts of the answer; `errors` has the `index` of each rejected sample, which is not followed."""
        ...


class Traces(Protocol):
    """The recorder of the way of samples to rows, and of due rows to forecasts that were sent."""

    def read_parent(self, headers: Mapping[str, str]) -> TraceParent:
        """Return the trace of the sender (W3C `traceparent`), or `None`."""
        ...

    def begin_body(self, name: str, parent: TraceParent) -> BodyTrace:
        """Begin the trace of a body or frame, or one that records nothing if it is not chosen."""
        ...

    def row_due(self, slot: int, server: str) -> None:
        """Note that a row of a server closed and needs a forecast."""
        ...

    def batch_done(
        self, batch: Batch, outcome: BatchOutcome, *, lane: str, version: str, seconds: float, done: float
    ) -> None:
        """Note that a batch ended at `done` (monotonic seconds), and that its forecasts are on the board."""
        ...

    def forecasts_sent(self, slots: Slots) -> None:
        """Note that the newest forecasts of these slots were handed to the socket of a subscriber."""
        ...

    def forget(self, slot: int) -> None:
        """Drop what is known of a slot that gets another server."""
        ...

    def count_spans(self) -> dict[str, int]:
        """Return the spans since start by their end; empty if nothing is traced."""
        ...

    def close(self) -> None:
        """Export what waits, within a few seconds; blocks."""
        ...


class Untraced:
    """A body that is not traced."""

    def __enter__(self) -> "Untraced":
        """Return this object."""
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing."""

    def run_step(self, name: str) -> "Untraced":
        """Return this object, which is a context manager without effect."""
        return self

    def follow_samples(self, samples: IndexedSamples) -> IndexedSamples:
        """Return the samples."""
        return samples

    def follow_servers(self, servers: Iterable[str]) -> None:
        """Do nothing."""

    def note_result(self, accepted: int, rejected: int, errors: Sequence[Mapping[str, Any]] = ()) -> None:
        """Do nothing."""


UNTRACED = Untraced()


class NoTraces:
    """Traces that record nothing: tracing is off."""

    def read_parent(self, headers: Mapping[str, str]) -> TraceParent:
        """Return `None`."""

    def begin_body(self, name: str, parent: TraceParent) -> BodyTrace:
        """Return the body that is not traced."""
        return UNTRACED

    def row_due(self, slot: int, server: str) -> None:
        """Do nothing."""

    def batch_done(self, batch: Batch, outcome: BatchOutcome, **facts: Any) -> None:
        """Do nothing."""

    def forecasts_sent(self, slots: Slots) -> None:
        """Do nothing."""

    def forget(self, slot: int) -> None:
        """Do nothing."""

    def count_spans(self) -> dict[str, int]:
        """Return nothing."""
        return {}

    def close(self) -> None:
        """Do nothing."""


NO_TRACES = NoTraces()
