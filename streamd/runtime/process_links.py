"""The links of a service to other processes of its daemon, which do a part of its work."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from streamd.core.arrays import Numbers, Times
from streamd.runtime.admission import ServerForgotten, SlotGiver
from streamd.runtime.aggregation.open_rows import RowWriter
from streamd.runtime.alerts.shared_alerts import SharedAlerts
from streamd.runtime.clock_watch import SlotRewinder
from streamd.runtime.hub import NO_INTEREST, ForecastInterest
from streamd.runtime.lanes.pipeline_interfaces import DueRouter
from streamd.runtime.lanes.sinks import BoardSink, ForecastsPublished, ResultSink


@dataclass(frozen=True, slots=True)
class ProcessCounts:
    """The counts of another process of this daemon: its metrics as text, and entries of the status."""

    metrics: bytes
    status: Mapping[str, Any]


class OtherProcesses(Protocol):
    """The other processes of a daemon, as its reports and its routes need them."""

    async def release_slot(self, slot: int) -> None:
        """Let another process write a slot no more, before its server is forgotten."""
        ...

    async def ask_counts(self) -> Sequence[ProcessCounts]:
        """Return what the other processes have counted."""
        ...

    def list_away_workers(self) -> list[int]:
        """Return the numbers of the workers that are being started, or started again."""
        ...


class NoOtherProcesses:
    """The other processes of a daemon of one process."""

    async def release_slot(self, slot: int) -> None:
        """Do nothing: no other process writes the slot."""

    async def ask_counts(self) -> Sequence[ProcessCounts]:
        """Return nothing."""
        return ()

    def list_away_workers(self) -> list[int]:
        """Return nothing."""
        return []


NO_OTHERS = NoOtherProcesses()


@dataclass(frozen=True, kw_only=True)
class ProcessLinks:
    """The links of one process; `None` is what a daemon of one process does itself."""

    due_router: DueRouter | None = None
    """Takes due servers to the process that forecasts them."""
    slot_giver: SlotGiver | None = None
    """Gives new servers a slot."""
    row_writer: RowWriter | None = None
    """Writes the rows that are made of points."""
    rewinder: SlotRewinder | None = None
    """Drops the rows of servers that are ahead of the clock."""
    publisher: ForecastsPublished | None = None
    """Notifies the subscribers of all processes."""
    owners: tuple[ServerForgotten, ...] = ()
    """Owners of more data of servers, by slot."""
    others: OtherProcesses = NO_OTHERS
    """Reports on the other processes, and releases slots that they write."""
    received: Times | None = None
    """By slot: when the row arrived that made the latest forecast due; shared by all processes."""
    wrap_sink: Callable[[BoardSink], ResultSink] | None = None
    """Makes the sink of the version that serves from that of the board; in a cluster, forecasts go through its log."""
    wrap_due_router: Callable[[DueRouter], DueRouter] | None = None
    """Makes a router that is asked before the one of candidates."""
    holds_grace: Callable[[], bool] = lambda: False
    """Whether open rows must not close by time at present: their other samples may be where they cannot be read."""
    fences: Numbers | None = None
    """By slot: the fence of the latest forecast in a cluster."""
    interest: ForecastInterest = NO_INTEREST
    """Learns which servers' forecasts are read here."""
    shared_alerts: SharedAlerts | None = None
    """Keeps the alerts of a cluster."""
    resumes_before: int = 0
    """How far before its id a reader continues, in serials: the boards of a cluster differ by a moment."""
    limit_reader_id: Callable[[int], int] | None = None
    """Returns the id that a reader gets in place of one, if other nodes may have forecasts that are not here yet."""


ALONE = ProcessLinks()
"""The links of a daemon of one process."""
