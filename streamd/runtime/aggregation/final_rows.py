"""Rows of the former process that the points in the log do not give again: no late point may replace such a row."""

from collections.abc import Callable

import numpy as np

from streamd.runtime.aggregation.servers import NO_SLOT, CollectedServer
from streamd.runtime.state.state import State


class FinalRows:
    """The newest of such rows of each server.

    The rows in a window were computed from all acknowledged points. Some of these points may be missing in the log by
    now (their segment was deleted, or is damaged), so such a row must not be computed again.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._features = len(state.contract.features)
        self._without_points: dict[int, int] = {}  # the newest step at start, of servers without any point in the log

    def note_servers(self, has_points: Callable[[int], bool]) -> None:
        """Note the newest row of each server without points in the log, given a predicate of slots."""
        windows = self._state.windows
        self._without_points = {
            slot: windows.get_newest_step(slot) for slot in self._state.directory.slots.values() if not has_points(slot)
        }

    def note_window(self, slot: int) -> None:
        """Note the newest row of a server that came from another node, without points."""
        self._without_points[slot] = self._state.windows.get_newest_step(slot)

    def forget(self, slot: int) -> None:
        """Drop the data of a slot that gets another server."""
        self._without_points.pop(slot, None)

    def finalize_returned(self, server: CollectedServer) -> None:
        """Take no points for the rows that a server had at start, if it has no points and the log had none of it.

        Such a row would be computed from the late points alone.
        """
        slot = self._state.directory.slots.get(server.name, NO_SLOT)
        if slot in self._without_points and slot not in self._state.ahead.contradicted_since:
            server.finalize(min(self._without_points.pop(slot), self._state.windows.get_newest_step(slot)))

    def finalize_restored(self, server: CollectedServer, slot: int) -> None:
        """Take no points for the rows of a restored server that its points in the log do not give again."""
        server.finalize(self._find_last_lost_step(server, slot))

    def _find_last_lost_step(self, server: CollectedServer, slot: int) -> int:
        """Return the last step whose row the points in the log do not give again, or `NO_STEP`."""
        windows = self._state.windows
        newest = windows.get_newest_step(slot)
        oldest = max(server.find_oldest_step(), newest - windows.context_length + 1, 0)
        for step in range(newest, oldest - 1, -1):
            row = np.full(self._features, np.nan, np.float32)
            for column, (value, _) in server.compute_row(step).items():
                if column < self._features:
                    row[column] = value
            if not np.array_equal(row, windows.read_row(slot, step), equal_nan=True):
                return step
        return int(min(newest, oldest - 1))
