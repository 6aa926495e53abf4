"""The servers and their slots as a worker knows them: it follows the engine process, which alone changes them."""

from zlib import crc32

import numpy as np
import numpy.typing as npt

from streamd.core.state.directory import MAX_SERVER_NAME_BYTES
from streamd.core.state.layout import NamedArrays
from streamd.runtime.state.state import State
from streamd.runtime.workers.ownership import find_owning_worker


class FollowedServers:
    """The servers of a state without names of its own; `arrays` are those of the file, in which the names are."""

    def __init__(self, state: State, me: int, workers: int) -> None:
        self._arrays: NamedArrays = state.windows_file.map_arrays()
        self._directory = state.directory
        self.checks: npt.NDArray[np.uint32] = np.zeros(state.directory.capacity, np.uint32)
        """By slot: the checksum of its server's name as it is known here; 0 if it must not be written."""
        self._me = me
        self.version = 0
        """It rises whenever a server gets a slot, or loses it."""
        self._workers = workers
        self.owners: npt.NDArray[np.uint8] = np.full(state.directory.capacity, workers, np.uint8)
        """By slot: the number of the worker that owns its server; that of the engine process without a server."""

    @property
    def own_slots(self) -> list[int]:
        """The slots of the servers that this worker owns."""
        own: list[int] = np.flatnonzero(self.owners == self._me).tolist()
        return own

    def read_all(self) -> list[int]:
        """Read the names of all slots whose server is another one than is known here; returns these slots.

        The engine process reports each change that comes after this call.
        """
        checks = np.where(self._arrays["name_bytes"] > 0, self._arrays["name_check"], np.uint32(0))
        changed: list[int] = np.flatnonzero(checks != self.checks).tolist()
        for slot in changed:
            self.remove(slot)
            size = min(int(self._arrays["name_bytes"][slot]), MAX_SERVER_NAME_BYTES)
            encoded = bytes(self._arrays["name"][slot, :size])
            # A name that is being written is reported when it is complete.
            if size and _checksum(encoded) == self._arrays["name_check"][slot]:
                self.place(slot, encoded.decode())
        return changed

    def place(self, slot: int, server: str) -> None:
        """Note that a slot has a server."""
        if self._directory.names[slot] == server and self._directory.slots.get(server) == slot:
            return
        self.remove(slot)
        self.version += 1
        self._directory.slots[server] = slot
        self._directory.names[slot] = server
        self.checks[slot] = _checksum(server.encode())
        self.owners[slot] = find_owning_worker(server, self._workers)

    def release(self, slot: int) -> None:
        """Note that a slot must not be written for its server any more; it is found again by `place` only."""
        self.version += 1
        name = self._directory.names[slot]
        if name is not None and self._directory.slots.get(name) == slot:
            del self._directory.slots[name]
        self.checks[slot] = 0  # `read_all` reads the slot again: its server may stay after all

    def remove(self, slot: int) -> str | None:
        """Note that a slot has no server any more; returns the former one."""
        name = self._directory.names[slot]
        self.release(slot)
        self._directory.names[slot] = None
        self.checks[slot] = 0
        self.owners[slot] = self._workers
        return name


def _checksum(encoded: bytes) -> int:
    return crc32(encoded) or 1
