"""Reads a window file of another layout (another capacity or model), so that its rows can be carried over.

Reads a private copy of the file; changes nothing on disk.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from streamd.core.contract import MAX_STATUS
from streamd.core.state import directory, windows
from streamd.core.state.directory import Directory
from streamd.core.state.layout import HEADER_BYTES, Layout, NamedArrays, parse_header
from streamd.core.state.repairs import repair_windows
from streamd.core.state.windows import NO_STEP, PRESENT, WindowStore
from streamd.regular_files import open_regular

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class FormerServer:
    """A server of the former file."""

    slot: int
    name: str
    last_seen: float


class FormerWindows:
    """The servers of a former window file, the last seen first, and their rows; `arrays` is a private copy."""

    def __init__(self, arrays: NamedArrays, features: list[str], *, is_sealed: bool, is_torn: bool) -> None:
        self._arrays = arrays
        self._features = features
        names = Directory(arrays, has_checks=is_sealed)  # skips damaged entries
        store = WindowStore(arrays, need=1, late_steps=0, grace_seconds=0.0, seeds=names.seeds)
        # As if the file were opened again: what a kill interrupted is finished, and damage is found.
        repairs = repair_windows(store, list(names.slots.values()), 0.0, is_sealed=is_sealed, is_torn=is_torn)
        for slot, reason in repairs.unreadable.items():
            log.warning("server_unreadable", server=names.names[slot], slot=slot, reason=reason)
            names.free_damaged(slot)
        self.unreadable = names.unreadable
        self.lost_rows = {str(names.names[slot]): rows for slot, rows in repairs.lost_rows.items()}
        """The rows of each server that nothing proved, of those that lost any."""
        self.servers = [FormerServer(slot, name, names.get_last_seen(slot)) for name, slot in names.slots.items()]
        self.servers.sort(key=lambda server: -server.last_seen)

    def rows(self, server: FormerServer, length: int) -> Iterator[tuple[int, dict[str, float | None], int]]:
        """Yield (step, values by feature, status) of a server's present rows among the last `length`, oldest first."""
        arrays, slot = self._arrays, server.slot
        newest, ring_length = int(arrays["newest"][slot]), arrays["marks"].shape[1] // 2
        if newest != NO_STEP:
            for step in range(max(0, newest - min(length, ring_length) + 1), newest + 1):
                place = step % ring_length
                mark = int(arrays["marks"][slot, place])
                if mark:
                    yield step, self._values(arrays["values"][slot, place]), mark & ~PRESENT
        if (open_step := int(arrays["open_step"][slot])) != NO_STEP:
            yield open_step, self._values(arrays["open_values"][slot]), int(arrays["open_status"][slot]) & MAX_STATUS

    def _values(self, row: np.ndarray[Any, np.dtype[np.float32]]) -> dict[str, float | None]:
        return dict(zip(self._features, row.tolist(), strict=True))


def make_windows_layout(features: list[str], context_length: int, step_seconds: int, capacity: int) -> Layout:
    """Return the layout of a window file."""
    identity = {
        "kind": "windows",
        "features": features,
        "context_length": context_length,
        "step_seconds": step_seconds,
    }
    return Layout(
        directory.DIRECTORY_COLUMNS + windows.make_window_columns(context_length, len(features)), capacity, identity
    )


def read_former_windows(path: Path, step_seconds: int, *, is_torn: bool) -> FormerWindows | None:
    """Open a window file of another layout; if its rows cannot be used, log the reason and return `None`.

    With `is_torn`, its pages may be of different ages.
    """
    with open_regular(path) as file:
        header = parse_header(file.read(HEADER_BYTES))
    if header is None or header.get("kind") != "windows":
        log.warning("state_set_aside", file=str(path), reason="it is damaged, or no window file of streamd")
        return None
    if not _is_plausible(header):
        log.warning("state_set_aside", file=str(path), reason="its header is implausible")
        return None
    if header["step_seconds"] != step_seconds:
        log.warning("state_set_aside", file=str(path), reason="its rows have another step")
        return None
    layout = make_windows_layout(header["features"], header["context_length"], step_seconds, header["capacity"])
    size = path.stat().st_size
    if size not in (layout.nbytes, *layout.earlier_sizes):
        log.warning("state_set_aside", file=str(path), reason="it is cut off")
        return None
    arrays = layout.make_views(np.memmap(path, np.uint8, "c"), size)
    return FormerWindows(arrays, header["features"], is_sealed=header.get("sealed") is True, is_torn=is_torn)


def _is_plausible(header: Mapping[str, Any]) -> bool:
    """Whether a header has all that a layout needs; a former version of streamd wrote no checksum."""
    features = header.get("features")
    numbers = [header.get(name) for name in ("capacity", "context_length", "step_seconds")]
    return (
        isinstance(features, list)
        and len(features) > 0
        and all(isinstance(name, str) for name in features)
        and len(set(features)) == len(features)
        and all(type(number) is int and number > 0 for number in numbers)
    )
