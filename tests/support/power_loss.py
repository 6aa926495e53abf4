"""A state folder as a power loss leaves it: of each file, every page of any age since the last flush.

Blocks smaller than pages are torn, so that more goes wrong than a disk can do: the fields of one slot are torn apart
also in a state so small that they share a page.
"""

from pathlib import Path

import numpy as np

from streamd.runtime.state.state import State

BLOCK_BYTES = 64


class TornFolder:
    """Records the files of an open state after each change, and writes a mixture of the copies to a folder."""

    def __init__(self) -> None:
        self._copies: dict[str, list[np.ndarray[tuple[int], np.dtype[np.uint8]]]] = {}

    def record(self, state: State) -> None:
        """Copy the files: a page may reach the disk as it is now."""
        for file in state.files:
            content = np.fromfile(file.path, np.uint8)
            self._copies.setdefault(file.path.name, []).append(content)

    def flush(self) -> None:
        """Forget the copies before the last one, which is on the disk now."""
        for copies in self._copies.values():
            del copies[:-1]

    def write(self, folder: Path, random: np.random.Generator) -> None:
        """Write files of which every block is of a random age, and the mark of another boot."""
        for name, copies in self._copies.items():
            blocks = np.stack(copies).reshape(len(copies), -1, BLOCK_BYTES)
            count = blocks.shape[1]
            # Also often the oldest or the newest of all: then few blocks are torn.
            low, high = sorted(random.integers(0, len(copies), 2))
            ages = random.choice([low, high, *random.integers(0, len(copies), 2)], count)
            (folder / name).write_bytes(blocks[ages, np.arange(count)].tobytes())
        (folder / "lock").write_bytes(b"another boot".ljust(64, b"\n"))
