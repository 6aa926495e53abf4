"""Decides which points of a body are taken: by the right of its sender, the time, and a slot. Stores none of them."""

import math

from streamd.core.access.scopes import Scope
from streamd.core.aggregation.points import MAX_STEP_POINTS
from streamd.core.errors import (
    ForbiddenError,
    InvalidServerError,
    NoCapacityError,
    TooFarAheadError,
    TooLargeError,
    TooOldError,
    UnauthorizedError,
)
from streamd.runtime.admission import Admission
from streamd.runtime.aggregation.batch import PointBatch, Points
from streamd.runtime.aggregation.final_rows import FinalRows
from streamd.runtime.aggregation.open_rows import OpenRows
from streamd.runtime.aggregation.series_table import SeriesTable
from streamd.runtime.aggregation.servers import NO_SLOT, CollectedServer, ServerPointsTaken
from streamd.runtime.sample_writer import ServerContradicted
from streamd.runtime.state.state import State


class PointAcceptance:
    """Accepts the points of one server at a time; those that it does not accept are rejected in their batch."""

    def __init__(
        self,
        state: State,
        table: SeriesTable,
        rows: OpenRows,
        final_rows: FinalRows,
        *,
        max_ahead_seconds: float,
        admission: Admission,
        server_contradicted: ServerContradicted,
    ) -> None:
        self._state = state
        self._table = table
        self._rows = rows
        self._final_rows = final_rows
        self._max_ahead_seconds = max_ahead_seconds
        self._admission = admission
        self._server_contradicted = server_contradicted
        self._step_seconds = state.contract.step_seconds

    def accept(
        self, server: CollectedServer, points: Points, wall: float, batch: PointBatch
    ) -> ServerPointsTaken | None:
        """Return the points that the sender may write and that are in time, or `None`; a new server gets a slot."""
        writer = batch.writer
        if writer is None:
            return self._accept_in_time(server, points, wall, batch)
        try:
            # Again, although `bind` has checked the series: one that is known was not bound for this sender.
            writer.add_server(server.name)
        except (ForbiddenError, UnauthorizedError) as error:
            batch.reject(error, len(points))
            return None
        taken = self._accept_in_time(server, points, wall, batch)
        writer.drop_unless_admitted(server.name)
        return taken

    def _accept_in_time(
        self, server: CollectedServer, points: Points, wall: float, batch: PointBatch
    ) -> ServerPointsTaken | None:
        """Return the points that are neither too old nor too far ahead, or `None`; a new server gets a slot."""
        server = self._table.servers.get(server.name, server)  # it may have been forgotten since it was decoded
        self._contradict(server, points, wall)
        if server.slot == NO_SLOT:
            self._final_rows.finalize_returned(server)
        oldest = server.find_oldest_second()
        newest = wall + self._max_ahead_seconds if batch.received_at is None else math.inf
        good = [point for point in points if oldest <= point[1] <= newest]
        if len(good) < len(points):
            reject_times(server.name, points, oldest, newest, batch)
        if server.count_points() + len(good) > MAX_STEP_POINTS:
            good = self._limit_step_points(server, good, batch)
        if not good:
            if server.name not in self._state.directory.slots:
                self._table.remove_server(server)
            return None
        try:
            slot = self._admission.find_or_admit(server.name, wall, batch.caller.covers_all(Scope.ADMIN))
        except (InvalidServerError, NoCapacityError) as error:
            batch.refuse_server(server.name, error, len(good))
            self._table.refuse_server(server)
            return None
        self._rows.add_server(server, slot)
        self._state.directory.touch(slot, wall)
        entries, times, values = zip(*good, strict=True)
        indices = [entry.index for entry in entries]
        if min(indices) < 0:
            indices = [entry.index for entry in self._table.restore_series(server, entries)]
        return ServerPointsTaken(server, indices, times, values)

    def _limit_step_points(self, server: CollectedServer, points: Points, batch: PointBatch) -> Points:
        """Return the points without those beyond `MAX_STEP_POINTS` of their step, which are rejected."""
        left: dict[int, int] = {}
        good: Points = []
        for point in points:
            step = int(point[1] // self._step_seconds)
            if step not in left:
                left[step] = MAX_STEP_POINTS - server.count_step_points(step)
            left[step] -= 1
            if left[step] >= 0:
                good.append(point)
        if len(good) < len(points):
            message = f"{server.name}: a step has {MAX_STEP_POINTS} points of this server already, no more are taken"
            batch.reject(TooLargeError(message), len(points) - len(good))
        return good

    def _contradict(self, server: CollectedServer, points: Points, wall: float) -> None:
        """Report that a server whose newest row is ahead of the clock sent a present point.

        The report may drop its rows ahead. Then its points are dropped too, because they would make the present point
        too old.
        """
        if server.slot in self._state.ahead.contradicted_since and self._rows.is_collected(server):
            present = wall - self._max_ahead_seconds - 2 * self._step_seconds  # as for plain samples
            if max(time for _, time, _ in points) > present:
                self._server_contradicted.contradict(server.slot)


def reject_times(server: str, points: Points, oldest: float, newest: float, batch: PointBatch) -> None:
    """Reject the points before `oldest` with one error, and those after `newest` with another."""
    old = [time for _, time, _ in points if time < oldest]
    ahead = [time for _, time, _ in points if not time <= newest and not time < oldest]
    if old:
        message = f"{server}: time {min(old):.3f} is too old: its rows up to {oldest:.0f} are final"
        batch.reject(TooOldError(message), len(old))
    if ahead:
        message = f"{server}: time {max(ahead):.3f} is ahead of the clock, expected at most {newest:.3f}"
        batch.reject(TooFarAheadError(message), len(ahead))
