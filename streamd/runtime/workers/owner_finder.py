"""Finds the process that has to take a sample, and what a caller may hand on to it."""

from typing import Any

from streamd.core.errors import StreamdError
from streamd.core.state.directory import MAX_SERVER_NAME_BYTES
from streamd.core.state.layout import make_scalar_view
from streamd.core.state.samples import CellSample, Sample
from streamd.runtime.workers.followed import FollowedServers
from streamd.runtime.workers.ownership import find_owning_worker


class OwnerFinder:
    """The owners of servers, as the worker `me` of `workers` knows them; with `gives_all`, it is the engine process."""

    def __init__(self, followed: FollowedServers, slots: dict[str, int], me: int, workers: int) -> None:
        self.gives_all = False
        self.me = me
        self._workers = workers
        self._slots = slots
        self._owners: Any = make_scalar_view(followed.owners)

    def find(self, sample: Sample | CellSample[Any] | StreamdError) -> int:
        """Return the number of the process that takes a sample; an error is taken here."""
        if isinstance(sample, StreamdError) or len(sample.server) > MAX_SERVER_NAME_BYTES:
            return self.me  # it will be rejected, which needs no other process
        slot = self._slots.get(sample.server)
        if slot is not None and not self.gives_all:
            owner: int = self._owners[slot]
            return owner
        return self._workers if self.gives_all else find_owning_worker(sample.server, self._workers)
