"""The numbers by which a network knows servers, by slot: a name is looked up once while its server keeps its slot."""

from collections.abc import Mapping

import numpy as np

from streamd.core.arrays import Slots
from streamd.core.state.directory import Directory
from streamd.inference.lane import Int32

UNKNOWN_SERVER = 0
"""The number of a server that the network was not trained with."""


class ServerNumbers:
    """The numbers of the servers of a directory for one version; `numbers` has them by name, and may be empty."""

    def __init__(self, numbers: Mapping[str, int], directory: Directory) -> None:
        self._numbers = numbers
        self._directory = directory
        capacity = directory.capacity if numbers else 0
        self._found = np.zeros(capacity, np.int32)
        self._generations = np.full(capacity, -1, np.int64)  # of the servers that were looked up

    def read(self, slots: Slots) -> Int32:
        """Return the numbers of the servers of slots, `(n,)`, or `(1,)` if they are the same for all."""
        if not self._numbers:
            return np.array([UNKNOWN_SERVER], np.int32)
        is_new = self._generations[slots] != self._directory.generations[slots]
        if is_new.any():
            self._look_up(slots[is_new])
        return self._found[slots]

    def _look_up(self, slots: Slots) -> None:
        names = self._directory.names
        self._found[slots] = [self._numbers.get(names[slot] or "", UNKNOWN_SERVER) for slot in slots.tolist()]
        self._generations[slots] = self._directory.generations[slots]
