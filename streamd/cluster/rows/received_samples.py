"""Writes the rows and points of a shard's log into the windows of this node. Reads no log, and decodes nothing."""

import math
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np

from streamd.cluster.rows.point_batches import ReceivedPoints
from streamd.core.access.caller import Caller
from streamd.core.access.scopes import Scope
from streamd.core.aggregation.points import ServerSeries, count_retained_steps
from streamd.core.aggregation.reduction import KIND_OF_CODE
from streamd.core.cluster.row_batches import NO_ROW_STATUS, LoggedRows
from streamd.core.errors import MalformedError
from streamd.core.state.column_frames import NameList
from streamd.core.state.samples import IndexedSamples, IngestResult, Sample
from streamd.core.state.window_columns import NO_STEP
from streamd.runtime.aggregation.batch import PointBatch, ProtocolCounts
from streamd.runtime.aggregation.series_table import IgnoredEntry
from streamd.runtime.aggregation.servers import CollectedServer, decode_definition
from streamd.runtime.aggregation.slot_check import SlotCheck
from streamd.runtime.ingest import Ingest
from streamd.runtime.service import Service

LOG_PROTOCOL = "cluster"
"""The name under which the series of the log are known."""

SENDER = Caller("cluster", {Scope.INGEST: ("*",)})
EVICTING_SENDER = Caller("cluster", {Scope.INGEST: ("*",), Scope.ADMIN: ("*",)})
"""The senders of what is in the log; the second one may let new servers evict others."""


def choose_sender(may_evict: bool) -> Caller:
    """Return the caller for what a sender has sent; the node that took it has checked the sender."""
    return EVICTING_SENDER if may_evict else SENDER


class ReceivedSamples:
    """The rows and points of one shard, with their counts.

    The wall clock is the time of the message that is applied: the log's.
    """

    def __init__(self, service: Service) -> None:
        self.received_at = 0.0
        """The log's time of what is written now, in epoch seconds."""
        self.points = ProtocolCounts()
        self.ingest = Ingest(
            service.state,
            max_ahead_seconds=math.inf,  # the node that took them has checked it
            load=service.ingest.load,
            admission=service.admission,
            rows_due=service.pipeline,
            server_contradicted=service.clock_watch,
            wall=lambda: self.received_at,
        )
        """Writes the rows, and counts those that it rejects by their reasons."""
        self._service = service
        self._state = service.state
        self._features = NameList(service.contract.features)
        self._collector = service.collector

    # ------------------------------------------------------------ rows
    async def write_rows(self, batch: LoggedRows) -> IngestResult:
        """Write rows, each server's in their order; bad ones are counted and left out."""
        caller = choose_sender(batch.may_evict)
        statuses = batch.statuses
        if statuses is None:
            return await self.ingest.take_frame(batch.make_frame(self._features), caller)
        if batch.places is not None:  # a server may have several rows, whose order counts
            return await self.ingest.take_samples(self._make_samples(batch), caller)
        has_status = statuses != NO_ROW_STATUS
        result = await self.ingest.take_samples(self._make_samples(batch.select(has_status)), caller)
        rest = msgspec.structs.replace(batch.select(~has_status), statuses=None)
        return result if not len(rest) else await self.ingest.take_frame(rest.make_frame(self._features), caller)

    def _make_samples(self, batch: LoggedRows) -> IndexedSamples:
        statuses = [NO_ROW_STATUS] * len(batch) if batch.statuses is None else batch.statuses.tolist()
        names, times = self._features.names, batch.times.tolist()
        for row, (server, status) in enumerate(zip(batch.list_servers(), statuses, strict=True)):
            cells = batch.values[row].astype(np.float64).tolist()
            known = {name: value for name, value in zip(names, cells, strict=True) if value == value}
            yield row, Sample(server, times[row], known, None if status == NO_ROW_STATUS else status)

    # ------------------------------------------------------------ points
    async def write_points(self, received: Iterable[ReceivedPoints]) -> None:
        """Take points; they are stored by the log, and the collector makes rows of them."""
        batches: dict[bool, PointBatch] = {}
        for each in received:
            batch = batches.get(each.may_evict)
            if batch is None:
                batch = batches[each.may_evict] = self._start_batch(choose_sender(each.may_evict))
            entries = self._find_entries(each, batch)
            columns = zip(each.series.tolist(), each.times.tolist(), each.values.tolist(), strict=True)
            for place, at, value in columns:
                batch.add(entries[place], at, value)
        for batch in batches.values():
            await self._collector.commit(batch)

    def _start_batch(self, caller: Caller) -> PointBatch:
        slots = SlotCheck(self._service.admission, self._state.directory, caller, self.received_at)
        batch = PointBatch(LOG_PROTOCOL, self._collector.table, self.points, caller, None, slots)
        batch.received_at = self.received_at
        return batch

    def _find_entries(self, points: ReceivedPoints, batch: PointBatch) -> list[ServerSeries | IgnoredEntry]:
        """Return the entries of the series of some points.

        Raises `MalformedError` for a series that cannot be read. One that belongs to another server by the rules of
        this node is ignored: the nodes have different rules.
        """
        entries: list[ServerSeries | IgnoredEntry] = []
        for definition, code in zip(points.definitions, points.kinds, strict=True):
            key = (definition, code)
            entry = batch.find(key)
            if entry is None:
                try:
                    series = decode_definition(definition, KIND_OF_CODE[code])
                except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
                    raise MalformedError(f"{points.server}: a series is unreadable: {exc}") from exc
                entry = batch.bind(key, series)
            is_other = isinstance(entry, ServerSeries) and entry.server.name != points.server
            entries.append(OTHER_RULES if is_other else entry)
        return entries

    def restore_points(self, slot: int, messages: Sequence[Sequence[ReceivedPoints]]) -> None:
        """Continue the rows of a server that was restored, from all its points that its window has already.

        They are those of each message. Those that were too old when they came are left out, as they were then.
        """
        batch, step_seconds = self._start_batch(EVICTING_SENDER), self._service.contract.step_seconds
        retained, latest = count_retained_steps(step_seconds), NO_STEP
        server: CollectedServer | None = None
        series: list[int] = []
        times: list[float] = []
        values: list[float] = []
        for message in messages:
            oldest = latest - retained + 1
            for points in message:
                entries = self._find_entries(points, batch)
                columns = zip(points.series.tolist(), points.times.tolist(), points.values.tolist(), strict=True)
                for place, at, value in columns:
                    entry = entries[place]
                    if isinstance(entry, IgnoredEntry) or at // step_seconds < oldest:
                        continue
                    server = entry.server
                    latest = max(latest, int(at // step_seconds))
                    series.append(entry.index)
                    times.append(at)
                    values.append(value)
        needed = [place for place, at in enumerate(times) if at // step_seconds >= latest - retained]
        self._collector.restore_window(
            slot,
            server,
            [series[place] for place in needed],
            [times[place] for place in needed],
            [values[place] for place in needed],
        )

    # ------------------------------------------------------------ reports
    def count_rejected(self) -> Mapping[str, int]:
        """Return what was rejected here, by error code: samples and points that were in the log."""
        return self.ingest.rejected | {
            code: count + self.ingest.rejected.get(code, 0) for code, count in self.points.rejected.items()
        }


OTHER_RULES = IgnoredEntry("other_rules")
"""A series that belongs to another server by the rules of this node than by those of the node that took it."""
