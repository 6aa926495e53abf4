"""What a replay is asked to do and what it finds, as plain data. Does nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

from streamd.tools.loadtest.daemon import Rows, Status
from streamd.tools.loadtest.ledger import Ledger, LedgerCount
from streamd.tools.loadtest.plan import SendPlan
from streamd.tools.loadtest.sender import Patience
from streamd.tools.loadtest.subscriber import SubscriptionOptions
from streamd.tools.loadtest.verdict import Latency, ReplayVerdict
from streamd.tools.loadtest.workers import Wire, WorkerOutcome


@dataclass(frozen=True, slots=True)
class Setup:
    """What a replay is to do, apart from the fleet."""

    wire: Wire
    subscription: SubscriptionOptions
    patience: Patience
    subscribers: int = 1
    processes: int = 1
    settle_seconds: float = 15.0  # without any change, before waiting for the rest ends
    duration_seconds: float | None = None  # of the measured stretch; None for all rows


@dataclass(slots=True)
class ReplayResult:
    """Everything that is known at the end; complete unless ``interrupted``."""

    plan: SendPlan
    setup: Setup
    status: Status
    whole: ReplayVerdict
    measured: ReplayVerdict
    acks: Latency
    outcome: WorkerOutcome
    ledger: Ledger
    modelled_due: int
    daemon_rows: Rows
    fill_seconds: float
    stream_began: float  # epoch seconds; 0 where nothing was streamed
    stream_seconds: float
    interrupted: bool
    restarted: bool
    gone: bool
    fresh_rows: int  # rows that the daemon took and did not have before
    newer_rows: int  # those of them that are newer than all that it had: each must be closed
    notes: list[str] = field(default_factory=list)

    @property
    def measured_rows(self) -> int:
        """Rows of the measured stretch that the daemon took."""
        return int((self.ledger.accepted[self.plan.fill_steps :] > 0).sum())

    @property
    def faults(self) -> dict[str, int]:
        """What was lost or wrong, by name; empty when all is well."""
        found = dict(self.whole.faults)
        unreadable = int(self.ledger.counts[: self.plan.connections, LedgerCount.MALFORMED].sum())
        if unreadable:
            found["unreadable_answers"] = unreadable
        if self.outcome.unanswered:
            found["unacked"] = self.outcome.unanswered
        if self.outcome.lost:
            found["connections_lost"] = len(self.outcome.lost)
        if self.not_kept:
            found["not_kept"] = self.not_kept
        if self.whole.failed and not self.setup.subscribers:  # with subscribers they are among the missing
            found["failed"] = self.whole.failed
        return found

    @property
    def not_kept(self) -> int:
        """Rows that the daemon acked and never closed; 0 where its counts can't tell."""
        if self.interrupted or self.restarted or self.gone:
            return 0
        return max(0, self.newer_rows - self.daemon_rows.closed)

    @property
    def nothing(self) -> str | None:
        """Why nothing was verified; None where something was."""
        rejected = self.ledger.total(LedgerCount.SAMPLES_REJECTED)
        if not self.ledger.total(LedgerCount.SAMPLES_SENT):
            return "no sample was sent"
        if not self.ledger.total(LedgerCount.SAMPLES_ACCEPTED):
            return f"the daemon rejected every sample ({rejected:,})"
        if self.setup.subscribers and not self.whole.expected:
            globs = ", ".join(self.setup.subscription.servers)
            if not self.modelled_due:
                need = self.status.contract.need
                return f"no row was due: a window needs {need} rows, newer than those it has"
            return f"no row was due of the servers that are subscribed to ({globs})"
        return None


def notes_on(result: ReplayResult) -> list[str]:
    """What a reader of the numbers should know."""
    notes = [f"connection lost: {why}" for why in result.outcome.lost]
    whole, rows = result.whole, result.daemon_rows
    counts = result.outcome.rejected_by_code
    notes += [
        f"{counts[code]:,} rejected as {code}; {first}" for code, first in result.outcome.first_rejections.items()
    ]
    if result.nothing and not result.interrupted:
        notes.append(result.nothing)
    if result.gone:
        notes.append("no daemon answers any more: what it superseded at the end can't be told")
    elif result.restarted:
        notes.append("the daemon restarted during the replay: its counts begin anew there")
    elif not result.interrupted and rows.closed != result.fresh_rows:
        notes.append(f"the daemon closed {rows.closed} rows, this replay sent {result.fresh_rows} new ones")
    elif not result.interrupted and rows.due != result.modelled_due:
        notes.append(f"the daemon counts {rows.due} due rows, this replay {result.modelled_due}")
    if whole.overcounted and not result.restarted:
        notes.append(f"the daemon counts {whole.overcounted} more superseded rows than were not received")
    if whole.failed:
        notes.append(f"the daemon counts {whole.failed} failed rows")
    if whole.forgotten:
        notes.append(f"the daemon counts {whole.forgotten} forgotten rows")
    infinite = sum(one.infinite for one in whole.subscribers)
    if infinite:
        notes.append(f"{infinite} forecasts have values beyond {result.setup.subscription.dtype or 'their dtype'}")
    return notes
