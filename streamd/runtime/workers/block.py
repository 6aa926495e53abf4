"""The memory that all processes of one daemon share: arrays of slots, and a ring from each process to each other one.

The supervisor makes it before it starts the others, so it outlives each of them. It has no name: processes inherit its
descriptor, and it is gone with the last of them.
"""

import mmap
import os
from collections.abc import Sequence

from streamd.core.state.layout import HEADER_BYTES, Column, Layout, NamedArrays
from streamd.runtime.workers.ring import RING_HEADER_BYTES

ENGINE_RING_BYTES = 4 * 2**20
"""Space for messages from the engine to a worker, or back: a whole fleet that is posted, or due, at once fits."""

WORKER_RING_BYTES = 2**20
"""Space for messages from a worker to another one."""


class SharedBlock:
    """The shared memory of one daemon; each process of it maps it once.

    Its processes are numbered: the workers from 0 on, then the engine. `columns` are the arrays of `capacity` slots.
    """

    def __init__(self, descriptor: int, columns: Sequence[Column], capacity: int, workers: int) -> None:
        self.descriptor = descriptor
        self.workers = workers
        self.engine = workers
        """The number of the engine process."""
        self._layout = Layout(tuple(columns), capacity, {})
        self._rings = _place_rings(self._layout.nbytes, workers)
        self._map = mmap.mmap(descriptor, _count_bytes(self._layout, workers))
        self.arrays: NamedArrays = self._layout.make_views(self._map)
        """The arrays, shaped `(capacity, *shape)`; zeros at first."""

    def get_ring(self, source: int, target: int) -> memoryview:
        """Return the buffer of the ring from one process to another."""
        start, size = self._rings[source, target]
        return memoryview(self._map)[start : start + size]


def make_block(columns: Sequence[Column], capacity: int, workers: int) -> int:
    """Make the memory of a new daemon, all zeros; returns its descriptor. Raises `OSError`."""
    descriptor = os.memfd_create("streamd", os.MFD_CLOEXEC)
    # Pages exist from their first write on: what no process uses takes no memory.
    os.ftruncate(descriptor, _count_bytes(Layout(tuple(columns), capacity, {}), workers))
    return descriptor


def _count_bytes(layout: Layout, workers: int) -> int:
    return max(start + size for start, size in _place_rings(layout.nbytes, workers).values())


def _place_rings(start: int, workers: int) -> dict[tuple[int, int], tuple[int, int]]:
    """Return the place of each ring, by the numbers of its ends: its offset and its size, header included."""
    places: dict[tuple[int, int], tuple[int, int]] = {}
    for source in range(workers + 1):
        for target in range(workers + 1):
            if source != target:
                size = ENGINE_RING_BYTES if workers in (source, target) else WORKER_RING_BYTES
                places[source, target] = start, RING_HEADER_BYTES + size
                start += HEADER_BYTES + size
    return places
