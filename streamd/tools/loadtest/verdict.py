"""Was anything lost? The replayer's own model of the contract against what came back. Arithmetic only."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from streamd.tools.fleets.fleet import Bools
from streamd.tools.loadtest.daemon import Rows
from streamd.tools.loadtest.ledger import Ledger, LedgerCount

PERCENTILES = (50.0, 95.0, 99.0)


@dataclass(frozen=True, slots=True)
class Due:
    """Which rows must be forecast, and with which context: ``[T, N]`` each."""

    rows: Bools
    context: NDArray[np.int32]
    newer: int = 0  # accepted rows that are newer than all that the daemon held, with enough context or not

    @classmethod
    def model(cls, accepted: Bools, prior: Bools, context_length: int, need: int) -> Due:
        """What the contract says of ``accepted`` rows ``[T, N]`` after ``prior`` ones.

        ``prior [context_length - 1 + T, N]`` is what the daemon held before, on the same grid and before it.
        A row is due when it is newer than all that the daemon held and the last ``context_length`` steps up
        to its own have at least ``need`` rows.
        """
        lead = context_length - 1
        held = prior.copy()
        held[lead:] |= accepted
        total = np.zeros((len(held) + 1, held.shape[1]), dtype=np.int32)
        np.cumsum(held, axis=0, out=total[1:])
        context = total[lead + 1 :] - total[: len(total) - lead - 1]
        newer = accepted & _newer(prior, lead)
        return cls(newer & (context >= need), context, int(newer.sum()))


@dataclass(frozen=True, slots=True)
class Latency:
    """Of a stretch, in milliseconds."""

    count: int = 0
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    max_ms: float | None = None

    @classmethod
    def of(cls, seconds: NDArray[np.float32]) -> Latency:
        """Exact: every value is kept, none is put into a bin."""
        if not len(seconds):
            return cls()
        p50, p95, p99 = (round(float(value) * 1000, 3) for value in np.percentile(seconds, PERCENTILES))
        return cls(len(seconds), p50, p95, p99, round(float(seconds.max()) * 1000, 3))


@dataclass(frozen=True, slots=True)
class SubscriberVerdict:
    """One subscriber's side; ``missed``: what another got, and this one neither got nor was told of."""

    expected: int
    received: int
    lagged: int
    missed: int
    duplicated: int
    context_wrong: int
    disordered: int
    infinite: int
    unexpected: int
    foreign: int
    malformed: int


@dataclass(frozen=True, slots=True)
class ReplayVerdict:
    """Of a stretch of steps: expected = received + superseded + lagged + interrupted + missing."""

    expected: int
    received: int  # by at least one subscriber
    superseded: int
    lagged: int
    # Not received because the daemon or the replay ended. If the daemon came back, a newer row of the same
    # server was received since; one without that is missing.
    interrupted: int
    missing: int
    overcounted: int  # superseded by the daemon's count beyond what was not received
    failed: int
    forgotten: int
    subscribers: list[SubscriberVerdict]
    latency: Latency = field(default_factory=Latency)

    @property
    def faults(self) -> dict[str, int]:
        """What makes a run incomplete, by name; empty when all is well."""
        found = {
            "missing": self.missing + sum(one.missed for one in self.subscribers),
            "duplicated": sum(one.duplicated for one in self.subscribers),
            "quantiles_out_of_order": sum(one.disordered for one in self.subscribers),
            "context_wrong": sum(one.context_wrong for one in self.subscribers),
            "malformed": sum(one.malformed for one in self.subscribers),
        }
        return {name: count for name, count in found.items() if count}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a verdict is made from."""

    ledger: Ledger
    due: Due
    covers: list[Bools]  # [N] for each subscriber
    earlier_life: Bools  # [T, N], rows that went to a daemon which ended and came back meanwhile
    unsettled: bool = False  # the daemon did not tell its last counts, so what is missing can't be told

    def judge(self, rows: Rows, start: int, stop: int, measured: bool) -> ReplayVerdict:
        """The verdict on steps ``[start, stop)``, for which the daemon counted ``rows``."""
        ledger, stretch = self.ledger, slice(start, stop)
        watched = np.logical_or.reduce(self.covers) if self.covers else np.zeros(ledger.shape.servers, np.bool_)
        due = self.due.rows[stretch] & watched
        earlier_life = self.earlier_life[stretch]
        got: Bools = np.asarray((ledger.received[:, stretch] > 0).any(axis=0))
        interrupted = int((due & ~got & earlier_life & _newer_received(got)).sum())
        open_rows = int((due & ~got).sum()) - interrupted
        subscribers = [self._subscriber(index, stretch, got) for index in range(len(self.covers))]
        # When nobody got a row, each subscriber's own lag can be why; the least of them is what all share.
        lagged = min((one.lagged for one in subscribers), default=0)
        superseded = min(rows.superseded, open_rows)
        lagged = min(lagged, open_rows - superseded)
        left = open_rows - superseded - lagged
        return ReplayVerdict(
            expected=int(due.sum()),
            received=int((due & got).sum()),
            superseded=superseded,
            lagged=lagged,
            interrupted=interrupted + left * self.unsettled,
            missing=left * (not self.unsettled),
            overcounted=rows.superseded - superseded,
            failed=rows.failed,
            forgotten=rows.forgotten,
            subscribers=subscribers,
            latency=self._latency(stretch) if measured else Latency(),
        )

    def _subscriber(self, index: int, stretch: slice, got: Bools) -> SubscriberVerdict:
        ledger, counts = self.ledger, self.ledger.subscriber(index)
        received = ledger.received[index, stretch]
        due = self.due.rows[stretch] & self.covers[index]
        lagged = int(counts[LedgerCount.LAGGED])
        wrong = (received > 0) & due & (ledger.context[index, stretch] != self.due.context[stretch])
        # A daemon that comes back may well forecast again what it can't know to have been delivered.
        repeated = (received > 1) & ~self.earlier_life[stretch]
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

    def _latency(self, stretch: slice) -> Latency:
        due = self.due.rows[stretch]
        found = [
            self.ledger.latency_seconds[index, stretch][due & (self.ledger.received[index, stretch] > 0)]
            for index in range(len(self.covers))
        ]
        return Latency.of(np.concatenate(found)) if found else Latency()


def _newer(prior: Bools, lead: int) -> Bools:
    """``[T, N]``: steps after the newest that the daemon held of each server."""
    later_or_same = np.logical_or.accumulate(prior[::-1], axis=0)[::-1]
    return ~later_or_same[lead:]


def _newer_received(got: Bools) -> Bools:
    """``[T, N]``: steps with a later one of the same server among those received."""
    from_here = np.logical_or.accumulate(got[::-1], axis=0)[::-1]
    newer = np.zeros_like(got)
    newer[:-1] = from_here[1:]
    return newer
