"""The mapped file of a week's memory: its layout, and what a former one has for servers that are carried over.

It belongs to one window file, whose slots it has. When that is replaced, so is this one, after it: until then the new
file lies beside the former one, complete, and a start that finds it there goes on with it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from streamd.core.contract import MEMORY_STEP_SECONDS, ModelContract, can_keep_memory
from streamd.core.state.layout import HEADER_BYTES, Layout, NamedArrays, parse_header
from streamd.core.state.memory import MemoryStore
from streamd.core.state.memory_columns import NO_PERIOD, make_memory_columns
from streamd.core.state.seals import Words, compute_seals
from streamd.regular_files import open_regular
from streamd.runtime.state.mapped_file import ForeignLayoutError, StateFile

log = structlog.get_logger(__name__)

MEMORY_NAME = "memory.streamd"

MEMORY_LAYOUT = 1
"""The number of the layout in the identity of the file."""


def make_memory_layout(features: list[str], capacity: int, windows: str) -> Layout:
    """Return the layout of a memory file; `windows` is the identifier of the window file that has its slots."""
    identity = {"kind": "memory", "layout": MEMORY_LAYOUT, "windows": windows, "features": features}
    return Layout(make_memory_columns(len(features)), capacity, identity)


def keeps_memory(contract: ModelContract, *, is_wanted: bool) -> bool:
    """Whether a state with this contract keeps a week's memory."""
    return is_wanted and can_keep_memory(contract.step_seconds, contract.context_length)


def open_memory_file(path: Path, layout: Layout) -> tuple[StateFile, Path | None]:
    """Open or create a memory file; returns it, and the path of a former file that it is to replace, or `None`.

    The new file beside a former one is that of a start that was killed, if it belongs to the same window file.
    """
    beside = path.with_name(f"{path.name}.new")
    try:
        file = StateFile(path, layout)
    except ForeignLayoutError:
        try:
            return StateFile(beside, layout), path
        except ForeignLayoutError:
            return StateFile(beside, layout, recreate=True), path
    beside.unlink(missing_ok=True)
    return file, None


def remove_memory_file(path: Path) -> None:
    """Remove the memory of former starts, as none is kept now: what forgets a server would not reach it."""
    if path.is_file():
        path.unlink()
        log.info("memory_removed", file=str(path), reason="hourly means are not kept any more")


def make_memory_store(file: StateFile, windows: NamedArrays, contract: ModelContract, seeds: Words) -> MemoryStore:
    """Return the memory over its file and the arrays of the windows."""
    return MemoryStore(file.map_arrays(), windows, period=MEMORY_STEP_SECONDS // contract.step_seconds, seeds=seeds)


class FormerMemory:
    """The memory of another layout: of another capacity, or of a model with other features."""

    def __init__(self, arrays: NamedArrays, header: Mapping[str, Any], features: list[str]) -> None:
        self._arrays = arrays
        former: list[str] = header["features"]
        self._pairs = [(features.index(name), column) for column, name in enumerate(former) if name in features]

    def copy_means(self, memory: MemoryStore, slot: int, former_slot: int, seed: int) -> None:
        """Copy the proven means of a server, which has the `seed`, into a slot of the memory, by their features."""
        arrays = {name: array[former_slot] for name, array in self._arrays.items()}
        places = np.flatnonzero(arrays["periods"] != NO_PERIOD)
        periods = arrays["periods"][places].astype(np.int64) - 1
        counts = arrays["counts"][places].astype(np.int64)
        former = arrays["means"][places]
        seeds = np.full(len(places), seed, np.int64)
        is_proven = compute_seals(former.view(np.uint32), seeds, periods, counts) == arrays["mean_seals"][places]
        means = np.full((len(places), memory.arrays["means"].shape[2]), np.nan, np.float32)
        for column, former_column in self._pairs:
            means[:, column] = former[:, former_column]
        chosen = is_proven & ~np.isnan(means).all(axis=1)
        if chosen.any():
            slots = np.full(np.count_nonzero(chosen), slot)
            memory.store_means(slots, periods[chosen], means[chosen], counts[chosen])


def open_former_memory(path: Path, windows: str, features: list[str]) -> FormerMemory | None:
    """Open a memory file of another layout; `None` if it does not belong to the window file `windows`."""
    with open_regular(path) as file:
        header = parse_header(file.read(HEADER_BYTES))
    if header is None or not _is_plausible(header, windows):
        return None
    layout = make_memory_layout(header["features"], header["capacity"], windows)
    if path.stat().st_size != layout.nbytes:
        return None
    return FormerMemory(layout.make_views(np.memmap(path, np.uint8, "r")), header, features)


def _is_plausible(header: Mapping[str, Any], windows: str) -> bool:
    """Whether a header is that of a memory file of a window file, with all that a layout needs."""
    capacity, features = header.get("capacity"), header.get("features")
    return (
        header.get("kind") == "memory"
        and header.get("layout") == MEMORY_LAYOUT
        and windows != ""
        and header.get("windows") == windows
        and isinstance(capacity, int)
        and capacity > 0
        and isinstance(features, list)
        and len(features) > 0
    )
