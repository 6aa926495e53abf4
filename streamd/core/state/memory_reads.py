"""Lets a batch read the memories of its servers later, while rows are written.

To read them takes longer than to copy the windows: so the lane's thread does it, and not the event loop.
"""

from dataclasses import dataclass

import numpy as np

from streamd.core.arrays import Float32, Numbers, Slots
from streamd.core.state.memory import MemoryStore


@dataclass(frozen=True, slots=True)
class MemoryRead:
    """The memories of `slots (n,)` as they are known behind the rows of `steps (n,)`, which are settled or not."""

    memory: MemoryStore
    slots: Slots
    steps: Numbers
    is_settled: bool = True

    def read_into(self, memories: Float32) -> None:
        """Write the memories to the first rows of `memories (batch, length, features)`; in any thread.

        A memory is NaN if rows of several hours came meanwhile: their means took the places of its oldest ones.
        """
        found = memories[: len(self.slots)]
        self.memory.read(self.slots, self.steps, found, is_settled=self.is_settled)
        overwritten = self.memory.find_overwritten(self.slots, self.steps)
        if overwritten.any():
            found[overwritten] = np.nan


def prepare_memory_read(memory: MemoryStore, slots: Slots, steps: Numbers, *, is_shared: bool = False) -> MemoryRead:
    """Settle what is noted of rows, and return how memories are read from then on; on the thread that writes rows.

    With `is_shared`, other processes write rows, which this one may see before their means.
    """
    memory.settle()
    return MemoryRead(memory, slots, steps, is_settled=not is_shared)
