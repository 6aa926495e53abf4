"""The links of a service to other processes of its daemon, which do a part of its work."""

from dataclasses import dataclass

from streamd.core.arrays import Times
from streamd.runtime.admission import ServerForgotten, SlotGiver
from streamd.runtime.aggregation.open_rows import RowWriter
from streamd.runtime.clock_watch import SlotRewinder
from streamd.runtime.lanes.pipeline_interfaces import DueRouter
from streamd.runtime.lanes.sinks import ForecastsPublished


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
    received: Times | None = None
    """By slot: when the row arrived that made the latest forecast due; shared by all processes."""


ALONE = ProcessLinks()
"""The links of a daemon of one process."""
