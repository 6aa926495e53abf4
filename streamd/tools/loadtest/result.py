"""The options and the result of a replay, as plain data. Sends and reads nothing."""

from dataclasses import dataclass, field

from streamd.tools.loadtest.daemon import DaemonStatus, RowTotals
from streamd.tools.loadtest.ledger import Ledger, LedgerCount
from streamd.tools.loadtest.plan import SendPlan
from streamd.tools.loadtest.sender import ConnectionLimits
from streamd.tools.loadtest.subscriber import SubscriptionOptions
from streamd.tools.loadtest.verdict import Latency, ReplayVerdict
from streamd.tools.loadtest.workers import WireOptions, WorkerOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySetup:
    """The options of a replay, apart from the fleet and its pace."""

    wire: WireOptions
    subscription: SubscriptionOptions
    limits: ConnectionLimits
    subscribers: int = 1
    processes: int = 1
    unchanged_seconds: float = 15.0
    """The time without any change after which the wait for the last forecasts ends."""
    duration_seconds: float | None = None
    """The length of the measured stretch; `None` sends all rows."""


@dataclass(slots=True, kw_only=True)
class ReplayResult:
    """The result of a replay; partial if `is_interrupted`."""

    plan: SendPlan
    setup: ReplaySetup
    status: DaemonStatus
    whole: ReplayVerdict
    measured: ReplayVerdict
    acks: Latency
    outcome: WorkerOutcome
    ledger: Ledger
    modelled_due: int
    daemon_rows: RowTotals
    fill_seconds: float
    stream_began: float
    """Epoch seconds; 0 if nothing was streamed."""
    stream_seconds: float
    is_interrupted: bool
    has_restarted: bool
    """Whether the daemon was restarted during the replay."""
    has_lost_daemon: bool
    """Whether the daemon no longer answered at the end."""
    new_rows: int
    """Accepted rows that the daemon did not have before."""
    newer_rows: int
    """Accepted rows that are newer than all rows that the daemon had: it must close each of them."""
    notes: list[str] = field(default_factory=list)

    @property
    def measured_rows(self) -> int:
        """Rows of the measured stretch that the daemon accepted."""
        return int((self.ledger.accepted[self.plan.fill_steps :] > 0).sum())

    @property
    def faults(self) -> dict[str, int]:
        """The faults, by name; empty if nothing was lost or wrong."""
        found = dict(self.whole.faults)
        unreadable = int(self.ledger.counts[: self.plan.connections, LedgerCount.MALFORMED].sum())
        if unreadable:
            found["unreadable_answers"] = unreadable
        if self.outcome.unanswered_samples:
            found["unacked"] = self.outcome.unanswered_samples
        if self.outcome.losses:
            found["connections_lost"] = len(self.outcome.losses)
        if self.not_kept:
            found["not_kept"] = self.not_kept
        if self.whole.failed and not self.setup.subscribers:  # With subscribers they are among the missing rows.
            found["failed"] = self.whole.failed
        return found

    @property
    def not_kept(self) -> int:
        """Rows that the daemon acknowledged and never closed; 0 if its counts cannot show that."""
        if self.is_interrupted or self.has_restarted or self.has_lost_daemon:
            return 0
        return max(0, self.newer_rows - self.daemon_rows.closed)

    @property
    def nothing_verified(self) -> str | None:
        """The reason why nothing was verified; `None` if something was."""
        rejected = self.ledger.sum_count(LedgerCount.SAMPLES_REJECTED)
        if not self.ledger.sum_count(LedgerCount.SAMPLES_SENT):
            return "no sample was sent"
        if not self.ledger.sum_count(LedgerCount.SAMPLES_ACCEPTED):
            return f"the daemon rejected every sample ({rejected:,})"
        if self.setup.subscribers and not self.whole.expected:
            globs = ", ".join(self.setup.subscription.servers)
            if not self.modelled_due:
                need = self.status.contract.need
                return f"no row was due: a window needs {need} rows, newer than those it has"
            return f"no row was due of the servers that are subscribed to ({globs})"
        return None


def list_notes(result: ReplayResult) -> list[str]:
    """List the notes for a reader of the numbers."""
    notes = [f"connection lost: {why}" for why in result.outcome.losses]
    whole, rows = result.whole, result.daemon_rows
    counts = result.outcome.rejected_by_code
    notes += [
        f"{counts[code]:,} rejected as {code}; {first}" for code, first in result.outcome.first_rejections.items()
    ]
    if result.nothing_verified and not result.is_interrupted:
        notes.append(result.nothing_verified)
    if result.has_lost_daemon:
        notes.append("no daemon answers any more: the rows that it superseded at the end are unknown")
    elif result.has_restarted:
        notes.append("the daemon was restarted during the replay: its counts begin at 0 there")
    elif not result.is_interrupted and rows.closed != result.new_rows:
        notes.append(f"the daemon closed {rows.closed} rows, this replay sent {result.new_rows} new ones")
    elif not result.is_interrupted and rows.due != result.modelled_due:
        notes.append(f"the daemon counts {rows.due} due rows, this replay {result.modelled_due}")
    if whole.overcounted and not result.has_restarted:
        notes.append(f"the daemon counts {whole.overcounted} more superseded rows than were not received")
    if whole.failed:
        notes.append(f"the daemon counts {whole.failed} failed rows")
    if whole.forgotten:
        notes.append(f"the daemon counts {whole.forgotten} forgotten rows")
    infinite = sum(one.infinite for one in whole.subscribers)
    if infinite:
        notes.append(f"{infinite} forecasts have values beyond {result.setup.subscription.dtype or 'their dtype'}")
    return notes
