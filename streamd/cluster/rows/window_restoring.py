"""Restores the windows of servers from the snapshots of a shard, each server from the one that has most of its rows."""

import numpy as np
import structlog

from streamd.cluster.rows.applier import Applier
from streamd.core.cluster.window_batches import Snapshot, restore_windows
from streamd.core.errors import StreamdError
from streamd.runtime.service import Service

log = structlog.get_logger(__name__)


class SnapshotRestorer:
    """The windows of one shard's servers at this node, while they are loaded."""

    def __init__(self, service: Service, applier: Applier, shard: int) -> None:
        self.not_restored = 0
        """Servers that found no slot here."""
        self._service = service
        self._state = service.state
        self._applier = applier
        self._shard = shard
        self._best: dict[str, int] = {}
        """By server the rows that its window has: a server may have moved from one chunk to another."""

    def begin(self) -> None:
        """Begin to load all snapshots."""
        self._best.clear()

    def restore(self, snapshot: Snapshot, now: float) -> list[str]:
        """Restore the windows that are newer than those that were loaded before, and return their servers.

        A server for which there is no space is counted and left out. `now` is monotonic seconds.
        """
        head, chosen = snapshot.head, []
        for place, server in enumerate(head.servers):
            slot = None
            if self._best.get(server, -1) < head.covered:
                slot = self._admit(server, float(np.asarray(snapshot.columns["last_seen"])[place]))
            if slot is not None:
                self._best[server] = head.covered
            chosen.append(slot)
        restore_windows(self._state.windows, snapshot, chosen, now)
        restored = [server for server, slot in zip(head.servers, chosen, strict=True) if slot is not None]
        self._applier.note_restored(restored, head.covered)
        self._applier.time = max(self._applier.time, head.time)
        return restored

    def _admit(self, server: str, last_seen: float) -> int | None:
        """Return the slot of a server, emptied; `None` if it gets no slot."""
        slot = self._state.directory.slots.get(server)
        if slot is not None:
            self._state.windows.reset(slot)
        else:
            try:
                slot = self._service.admission.admit(server, last_seen)
            except StreamdError as error:
                self.not_restored += 1
                if self.not_restored == 1:
                    log.error("server_not_restored", shard=self._shard, server=server, reason=str(error))
                return None
        self._state.directory.touch(slot, last_seen)
        return slot
