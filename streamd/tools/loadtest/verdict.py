"""The verdict: this client's own model of the contract, compared with the forecasts that it received.

Arithmetic only.
"""

from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from streamd.tools.fleets.fleet import Bools
from streamd.tools.loadtest.daemon import RowTotals
from streamd.tools.loadtest.ledger import Ledger, LedgerCount

PERCENTILES = (50.0, 95.0, 99.0)


@dataclass(frozen=True, slots=True)
class DueRows:
    """The rows that must be forecast."""

    rows: Bools
    """`(T, N) bool`: whether the row must be forecast."""
    context: NDArray[np.int32]
    """`(T, N)`: the context that its forecast must state."""
    newer: int = 0
    """Accepted rows that are newer than all rows that the daemon held, with enough context or not."""

    @classmethod
    def compute(cls, accepted: Bools, prior: Bools, context_length: int, need: int) -> Self:
        """Compute the due rows from the `accepted` rows and the `prior` rows that the daemon already held.

        `accepted` is `(T, N)`, `prior` is `(context_length - 1 + T, N)`: it has the steps before the grid as well. A
        row is due if it is newer than all rows that the daemon held, and the last `context_length` steps up to its
        own have at least `need` rows.
        """
        lead = context_length - 1
        held = prior.copy()
        held[lead:] |= accepted
        # `total[i]` is the number of rows before step i, so the rows in `context_length` steps are a difference of two.
        total = np.zeros((len(held) + 1, held.shape[1]), dtype=np.int32)
        np.cumsum(held, axis=0, out=total[1:])
        context = total[lead + 1 :] - total[: len(total) - lead - 1]
        newer = accepted & _find_newer(prior, lead)
        return cls(newer & (context >= need), context, int(newer.sum()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """The latencies of a stretch, in milliseconds; `None` if there are no values."""

    count: int = 0
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    max_ms: float | None = None

    @classmethod
    def from_seconds(cls, seconds: NDArray[np.float32]) -> Self:
        """Compute exact percentiles: from each value, without bins."""
        if not len(seconds):
            return cls()
        p50, p95, p99 = (round(float(value) * 1000, 3) for value in np.percentile(seconds, PERCENTILES))
        max_ms = round(float(seconds.max()) * 1000, 3)
        return cls(count=len(seconds), p50_ms=p50, p95_ms=p95, p99_ms=p99, max_ms=max_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriberVerdict:
    """The counts of one subscriber. The names of the fields are keys of the JSON report."""

    expected: int
    received: int
    lagged: int
    missed: int
    """Forecasts that another subscriber received, and that this one neither received nor was notified of."""
    duplicated: int
    context_wrong: int
    disordered: int
    infinite: int
    unexpected: int
    foreign: int
    malformed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayVerdict:
    """The counts of a stretch of steps: expected = received + superseded + lagged + interrupted + missing."""

    expected: int
    received: int
    """Received by at least one subscriber."""
    superseded: int
    lagged: int
    interrupted: int
    """Not received because the daemon or the replay ended.

    If the daemon was restarted, a newer row of the same server was received afterwards; otherwise the row is missing.
    """
    missing: int
    overcounted: int
    """Superseded rows in the daemon's count beyond the rows that were not received."""
    failed: int
    forgotten: int
    subscribers: list[SubscriberVerdict]
    latency: Latency = field(default_factory=Latency)

    @property
    def faults(self) -> dict[str, int]:
        """The faults that make a run incomplete, by name; empty if there was no fault."""
        found = {
            "missing": self.missing + sum(one.missed for one in self.subscribers),
            "duplicated": sum(one.duplicated for one in self.subscribers),
            "quantiles_out_of_order": sum(one.disordered for one in self.subscribers),
            "context_wrong": sum(one.context_wrong for one in self.subscribers),
            "malformed": sum(one.malformed for one in self.subscribers),
        }
        return {name: count for name, count in found.items() if count}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The data from which a verdict is computed."""

    ledger: Ledger
    due: DueRows
    matches: list[Bools]
    """For each subscriber, `(N,) bool`: whether its globs match the server."""
    earlier_generation: Bools
    """`(T, N) bool`: the rows that were sent to the daemon before it ended and was started again."""
    has_no_last_counts: bool = False
    """Whether the daemon's last counts are unknown, so that missing rows cannot be told from superseded ones."""

    def judge(self, rows: RowTotals, start: int, stop: int, measured: bool) -> ReplayVerdict:
        """Judge the steps `start` to `stop - 1`, for which the daemon counted `rows`.

        Each due row that no subscriber received is explained by the first of these that has a count left:
        1. interrupted: it was sent before a restart, and a newer row of its server was received;
        2. superseded: as many as the daemon counts;
        3. lagged: as many as each of the subscribers was notified of;
        4. missing, or interrupted if the daemon's last counts are unknown.
        """
        ledger, stretch = self.ledger, slice(start, stop)
        watched = np.logical_or.reduce(self.matches) if self.matches else np.zeros(ledger.shape.servers, np.bool_)
        due = self.due.rows[stretch] & watched
        earlier_generation = self.earlier_generation[stretch]
        got: Bools = np.asarray((ledger.received[:, stretch] > 0).any(axis=0))
        interrupted = int((due & ~got & earlier_generation & _find_overtaken(got)).sum())
        open_rows = int((due & ~got).sum()) - interrupted
        subscribers = [self._judge_subscriber(index, stretch, got) for index in range(len(self.matches))]
        # A row that no subscriber received can be a lagged one only if all of them lagged, so the least count applies.
        lagged = min((one.lagged for one in subscribers), default=0)
        superseded = min(rows.superseded, open_rows)
        lagged = min(lagged, open_rows - superseded)
        left = open_rows - superseded - lagged
        return ReplayVerdict(
            expected=int(due.sum()),
            received=int((due & got).sum()),
            superseded=superseded,
            lagged=lagged,
            interrupted=interrupted + (left if self.has_no_last_counts else 0),
            missing=0 if self.has_no_last_counts else left,
            overcounted=rows.superseded - superseded,
            failed=rows.failed,
            forgotten=rows.forgotten,
            subscribers=subscribers,
            latency=self._measure_latency(stretch) if measured else Latency(),
        )

    def _judge_subscriber(self, index: int, stretch: slice, got: Bools) -> SubscriberVerdict:
        ledger, counts = self.ledger, self.ledger.subscriber_counts(index)
        received = ledger.received[index, stretch]
        due = self.due.rows[stretch] & self.matches[index]
        lagged = int(counts[LedgerCount.LAGGED])
        wrong = (received > 0) & due & (ledger.context[index, stretch] != self.due.context[stretch])
        # A restarted daemon may repeat forecasts, because it cannot know that they were delivered.
        repeated = (received > 1) & ~self.earlier_generation[stretch]
        return SubscriberVerdict(
            expected=int(due.sum()),
            received=int((due & (received > 0)).sum()),
            lagged=lagged,
            missed=max(0, int((due & got & (received == 0)).sum()) - lagged),
            duplicated=int((received[repeated] - 1).sum()),
            context_wrong=int(wrong.sum()),
            disordered=int(counts[LedgerCount.DISORDERED]),
            infinite=int(counts[LedgerCount.INFINITE]),
            unexpected=int(((received > 0) & ~due).sum()),
            foreign=int(counts[LedgerCount.FOREIGN]),
            malformed=int(counts[LedgerCount.MALFORMED]),
        )

    def _measure_latency(self, stretch: slice) -> Latency:
        due = self.due.rows[stretch]
        found = [
            self.ledger.latency_seconds[index, stretch][due & (self.ledger.received[index, stretch] > 0)]
            for index in range(len(self.matches))
        ]
        return Latency.from_seconds(np.concatenate(found)) if found else Latency()


def _find_newer(prior: Bools, lead: int) -> Bools:
    """Return `(T, N) bool`: the steps after the newest one that the daemon held of each server."""
    later_or_same = np.logical_or.accumulate(prior[::-1], axis=0)[::-1]
    return ~later_or_same[lead:]


def _find_overtaken(got: Bools) -> Bools:
    """Return `(T, N) bool`: the steps that have a later received step of the same server."""
    from_here = np.logical_or.accumulate(got[::-1], axis=0)[::-1]
    newer = np.zeros_like(got)
    newer[:-1] = from_here[1:]
    return newer
