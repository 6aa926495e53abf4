"""Takes samples at any node of a cluster: checks what needs no window, and appends the rows to their shards' logs.

An answer is given when all rows of a body are in the log. What only the owner of a server can know, that a row is too
old or that there is no slot, shows when it applies the log: it counts such rows by their reason.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

import numpy as np

from streamd.cluster.rows.append_tickets import AppendTicket, AppendWait
from streamd.cluster.rows.cluster_singles import ClusterSingles
from streamd.cluster.rows.point_relay import PointRelay
from streamd.cluster.rows.row_publisher import RowPublisher
from streamd.cluster.shard_finder import ShardFinder, share_finder
from streamd.core.access.caller import ANYBODY, Caller
from streamd.core.access.scopes import Scope
from streamd.core.arrays import Float64
from streamd.core.cluster.row_batches import count_rows_of_section, encode_names, encode_rows
from streamd.core.errors import DrainingError, InvalidServerError, StreamdError
from streamd.core.state.column_frames import ColumnFrame
from streamd.core.state.frame_values import FrameRows, MatrixReader
from streamd.core.state.row_frames import Booleans
from streamd.core.state.samples import IngestResult, Sample
from streamd.runtime.aggregation.mean_samples import MeanSamples
from streamd.runtime.body_results import merge_results
from streamd.runtime.frame_splits import FramePiece, split_frame
from streamd.runtime.ingest import SLICE, Ingest
from streamd.runtime.service import Service
from streamd.runtime.taking_load import TakingLoad

SampleItem = tuple[int, Sample | StreamdError]
"""A sample, or its error, with its index in the body."""

FRAME_TURN_ROWS = 4_096
"""Rows of a frame that are packed before the event loop gets its turn."""


class ClusterIngest:
    """The samples that agents send to this node; `ingest` has its counts, and its limits.

    `wall` returns epoch seconds of the cluster's clock.
    """

    def __init__(
        self,
        ingest: Ingest,
        publisher: RowPublisher,
        finder: ShardFinder,
        *,
        features: Sequence[str],
        max_ahead_seconds: float,
        wall: Callable[[], float],
    ) -> None:
        self.load = TakingLoad()
        self.singles = ClusterSingles(ingest, publisher, finder, self.load, wall)
        """Takes frames of one sample."""
        self._ingest = ingest
        self._publisher = publisher
        self._finder = finder
        self._wall = wall
        self._max_ahead_seconds = max_ahead_seconds
        self._reader = MatrixReader(features) if ingest.frames.can_write else None
        self._section_rows = count_rows_of_section(len(features))

    @property
    def is_draining(self) -> bool:
        """Whether nothing more is taken."""
        return self.load.is_draining or self._ingest.is_draining

    @is_draining.setter
    def is_draining(self, is_draining: bool) -> None:
        """Take nothing more, or take it again."""
        self.load.is_draining = is_draining

    def count_refused(self, error: StreamdError) -> None:
        """Count a body or frame that was rejected as a whole."""
        self._ingest.count_refused(error)

    def _check_open(self) -> None:
        if self.is_draining:
            raise DrainingError("the daemon is stopping")

    # ------------------------------------------------------------ bodies
    async def take_samples(self, samples: Iterable[SampleItem], caller: Caller = ANYBODY) -> IngestResult:
        """Take samples as `Ingest.take_samples` does.

        Raises `UnavailableError` if the log does not take the rows in time; then some of them may be in it.
        """
        self._check_open()
        result = IngestResult()
        with self.load, AppendWait(self._publisher) as wait:
            await self._add_samples(iter(samples), caller, wait.ticket, result)
            await wait.finish()
        self._finish_body(result, caller)
        return result

    async def _add_samples(
        self, samples: Iterator[SampleItem], caller: Caller, ticket: AppendTicket, result: IngestResult
    ) -> None:
        """Queue the rows of samples, in several turns of the loop if there are many."""
        packer = self.singles.packer
        while some := list(islice(samples, SLICE)):
            wall = self._wall()
            for index, sample in some:
                try:
                    if not isinstance(sample, Sample):
                        raise sample
                    packer.add(sample, wall, caller, ticket)
                except StreamdError as error:
                    self._ingest.count_rejected(error)
                    result.reject(index, error)
                else:
                    result.accepted += 1
            if len(some) == SLICE:
                await asyncio.sleep(0)

    def _finish_body(self, result: IngestResult, caller: Caller) -> None:
        self._ingest.accepted += result.accepted
        if caller.has_row_limit:
            caller.usage.charge_rows(result.accepted + result.rejected, time.monotonic())

    # ------------------------------------------------------------ frames of columns
    async def take_frame(self, frame: ColumnFrame, caller: Caller = ANYBODY) -> IngestResult:
        """Take a frame of columns as `Ingest.take_frame` does; raises as `take_samples` does."""
        times = self._read_times(frame)
        reader = self._reader
        if reader is None or times is None or not _may_write_all(frame, caller):
            return await self.take_samples(frame.make_samples(), caller)
        try:
            pieces = split_frame(frame, self._finder.find_all)
        except InvalidServerError:
            return await self.take_samples(frame.make_samples(), caller)
        self._check_open()
        given = reader.read_rows(frame.features, frame.values)
        is_good = self._find_good(given, times)
        others = () if is_good is None else np.flatnonzero(~is_good).tolist()
        result = IngestResult(accepted=len(frame) - len(others))
        with self.load, AppendWait(self._publisher) as wait:
            await self._add_pieces(pieces.items(), given, times, is_good, caller, wait.ticket)
            if others:
                rejected = IngestResult()
                await self._add_samples(iter(frame.make_samples(others)), caller, wait.ticket, rejected)
                merge_results(result, [rejected])
            await wait.finish()
        self._ingest.frames.ignored += given.ignored * (len(frame) - len(others))
        self._finish_body(result, caller)
        return result

    def _read_times(self, frame: ColumnFrame) -> float | Float64 | None:
        """Return the times of a frame in epoch seconds; `None` if it is one that no sample may have."""
        if isinstance(frame.time, list):
            return np.array([_to_seconds(each) for each in frame.time], np.float64)
        seconds = _to_seconds(frame.time)
        return seconds if 0 <= seconds <= self._wall() + self._max_ahead_seconds else None

    def _find_good(self, given: FrameRows, times: float | Float64) -> Booleans | None:
        """Return the rows that need not be looked at alone, `None` if all are such."""
        is_good = None if given.is_odd is None else ~given.is_odd
        if not isinstance(times, float):
            in_time: Booleans = (times >= 0) & (times <= self._wall() + self._max_ahead_seconds)
            if not in_time.all():
                is_good = in_time if is_good is None else in_time & is_good
        return is_good

    async def _add_pieces(
        self,
        pieces: Iterable[tuple[int, FramePiece]],
        given: FrameRows,
        times: float | Float64,
        is_good: Booleans | None,
        caller: Caller,
        ticket: AppendTicket,
    ) -> None:
        """Queue the good rows of a frame, those of each shard as a section."""
        may_evict, work = caller.covers_all(Scope.ADMIN), 0
        for shard, piece in pieces:
            for section in self._encode_piece(piece, given, times, is_good, may_evict):
                self._publisher.add_section(shard, section, ticket)
            work += len(piece.places)
            if work >= FRAME_TURN_ROWS:
                work = 0
                await asyncio.sleep(0)

    def _encode_piece(
        self, piece: FramePiece, given: FrameRows, times: float | Float64, is_good: Booleans | None, may_evict: bool
    ) -> Iterator[bytes]:
        """Yield the good rows of a piece as sections."""
        rows, count = piece.places, self._section_rows
        for begin in range(0, len(rows), count):
            places = rows[begin : begin + count]
            is_whole = len(places) == len(rows)
            chosen = None if is_good is None or is_good[places].all() else np.flatnonzero(is_good[places])
            picked = places if chosen is None else places[chosen]
            if len(picked):
                yield encode_rows(
                    piece.encoded_names if is_whole else encode_names(piece.names.names[begin : begin + count]),
                    times if isinstance(times, float) else times[picked],
                    given.rows[picked],
                    places=chosen,
                    may_evict=may_evict,
                )


def _to_seconds(time: float | datetime) -> float:
    return time.timestamp() if isinstance(time, datetime) else float(time)


def _may_write_all(frame: ColumnFrame, caller: Caller) -> bool:
    """Whether the caller is known to write all servers of a frame."""
    recalls_write = caller.recalls_write
    return recalls_write is None or all(recalls_write(name) is True for name in frame.servers.names)


# ---------------------------------------------------------------- all takers of a node
@dataclass(frozen=True)
class ClusterTakers:
    """The takers of samples and points for the routes of a node; `samples` is `None` if plain samples are means.

    Then they are taken as points, by the service's own `Ingest`.
    """

    samples: ClusterIngest | None
    singles: ClusterSingles | None
    points: PointRelay

    @property
    def bodies(self) -> int:
        """The number of bodies that are being taken."""
        return self.points.bodies + (self.samples.load.bodies if self.samples is not None else 0)


def make_takers(
    service: Service, publisher: RowPublisher, shards: int, wall: Callable[[], float] = time.time
) -> ClusterTakers:
    """Make what a node takes samples and points with; `wall` returns epoch seconds of the cluster's clock."""
    finder, limits = share_finder(shards), service.limits
    points = PointRelay(service.collector, publisher, finder, max_ahead_seconds=limits.max_ahead_seconds, wall=wall)
    if limits.rows_are_means:
        service.ingest.points = MeanSamples(points, service.ingest, wall)
        return ClusterTakers(None, None, points)
    samples = ClusterIngest(
        service.ingest,
        publisher,
        finder,
        features=service.contract.features,
        max_ahead_seconds=limits.max_ahead_seconds,
        wall=wall,
    )
    return ClusterTakers(samples, samples.singles, points)
