"""Reads a window file of another layout (another capacity or model, or a former version's), to carry its rows over.

Changes nothing on disk.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from streamd.core.arrays import Slots
from streamd.core.contract import MAX_STATUS
from streamd.core.state import directory, window_columns
from streamd.core.state.directory import Directory
from streamd.core.state.former_windows import make_former_columns, read_former_windows
from streamd.core.state.layout import HEADER_BYTES, Layout, NamedArrays, parse_header
from streamd.core.state.repairs import repair_windows
from streamd.core.state.window_columns import NO_STEP, PRESENT
from streamd.core.state.windows import WindowStore
from streamd.regular_files import open_regular

log = structlog.get_logger(__name__)


LAYOUT = 2
"""The number of the layout of window files; files of layout 1 have no number, and each row twice."""

SERVERS_AT_ONCE = 64
"""The servers whose windows are in memory at the same time: about 2 MB with 288 rows of 14 features."""


@dataclass(frozen=True, slots=True)
class FormerServer:
    """A server of the former file."""

    slot: int
    name: str
    last_seen: float


@dataclass(frozen=True, slots=True)
class FormerWindow:
    """A server and its window, which is that of a slot in arrays of `make_window_columns`."""

    server: FormerServer
    arrays: NamedArrays
    slot: int


class FormerWindows:
    """The servers of a former window file, the last seen first, and their windows.

    `read` returns the windows of slots, in arrays of `make_window_columns`.
    """

    def __init__(
        self, names: Directory, read: Callable[[Slots], NamedArrays], header: Mapping[str, Any], *, is_torn: bool
    ) -> None:
        self.features: list[str] = header["features"]
        self.context_length: int = header["context_length"]
        self.identifier = str(header.get("identifier", ""))
        """The identifier of the file, which its memory file names."""
        self.servers = [FormerServer(slot, name, names.get_last_seen(slot)) for name, slot in names.slots.items()]
        self.servers.sort(key=lambda server: -server.last_seen)
        self.unreadable = names.unreadable
        """Slots that were not usable, as far as they were read."""
        self.lost_rows: dict[str, int] = {}
        """The rows of each server that nothing proved, of those that lost any, as far as they were read."""
        self._names = names
        self._read = read
        self._is_torn = is_torn

    def read_windows(self) -> Iterator[FormerWindow]:
        """Yield the usable windows, as if the file were opened again: what a kill interrupted is finished."""
        for first in range(0, len(self.servers), SERVERS_AT_ONCE):
            servers = self.servers[first : first + SERVERS_AT_ONCE]
            slots = np.array([server.slot for server in servers], np.int64)
            arrays = self._read(slots)
            store = WindowStore(arrays, need=1, late_steps=0, grace_seconds=0.0, seeds=self._names.seeds[slots])
            repairs = repair_windows(store, range(len(servers)), 0.0, is_torn=self._is_torn)
            self.lost_rows |= {servers[place].name: rows for place, rows in repairs.lost_rows.items()}
            self.unreadable += len(repairs.unreadable)
            for place, server in enumerate(servers):
                if place not in repairs.unreadable:
                    yield FormerWindow(server, arrays, place)
                else:
                    reason = repairs.unreadable[place]
                    log.warning("server_unreadable", server=server.name, slot=server.slot, reason=reason)

    def list_rows(self, window: FormerWindow, length: int) -> Iterator[tuple[int, dict[str, float | None], int]]:
        """Yield (step, values by feature, status) of a window's present rows among the last `length`, oldest first."""
        arrays, slot = window.arrays, window.slot
        newest, ring_length = int(arrays["newest"][slot]), arrays["marks"].shape[1]
        if newest != NO_STEP:
            for step in range(max(0, newest - min(length, ring_length) + 1), newest + 1):
                place = step % ring_length
                mark = int(arrays["marks"][slot, place])
                if mark:
                    yield step, self._values(arrays["values"][slot, place]), mark & ~PRESENT
        if (open_step := int(arrays["open_step"][slot])) != NO_STEP:
            yield open_step, self._values(arrays["open_values"][slot]), int(arrays["open_status"][slot]) & MAX_STATUS

    def _values(self, row: np.ndarray[Any, np.dtype[np.float32]]) -> dict[str, float | None]:
        return dict(zip(self.features, row.tolist(), strict=True))


def make_windows_layout(features: list[str], context_length: int, step_seconds: int, capacity: int) -> Layout:
    """Return the layout of a window file."""
    columns = window_columns.make_window_columns(context_length, len(features))
    identity = _describe(features, context_length, step_seconds) | {"layout": LAYOUT}
    return Layout(directory.DIRECTORY_COLUMNS + columns, capacity, identity)


def make_former_layout(features: list[str], context_length: int, step_seconds: int, capacity: int) -> Layout:
    """Return the layout of the window files of former versions."""
    columns = make_former_columns(context_length, len(features))
    return Layout(
        directory.FORMER_DIRECTORY_COLUMNS + columns, capacity, _describe(features, context_length, step_seconds)
    )


def _describe(features: list[str], context_length: int, step_seconds: int) -> dict[str, Any]:
    return {"kind": "windows", "features": features, "context_length": context_length, "step_seconds": step_seconds}


def open_former_windows(path: Path, step_seconds: int, *, is_torn: bool) -> FormerWindows | None:
    """Open a window file of another layout; if its rows cannot be used, log the reason and return `None`.

    With `is_torn`, its pages may be of different ages.
    """
    with open_regular(path) as file:
        header = parse_header(file.read(HEADER_BYTES))
    reason = _find_reason(header, step_seconds)
    if header is None or reason is not None:
        log.warning("state_set_aside", file=str(path), reason=reason)
        return None
    make_layout = make_former_layout if header.get("layout") is None else make_windows_layout
    layout = make_layout(header["features"], header["context_length"], step_seconds, header["capacity"])
    size = path.stat().st_size
    if size not in (layout.nbytes, *layout.earlier_sizes):
        log.warning("state_set_aside", file=str(path), reason="it is cut off")
        return None
    # A private copy: the directory frees the slots whose names are damaged.
    arrays = layout.make_views(np.memmap(path, np.uint8, "c"), size)
    return _make_former_windows(arrays, header, is_torn=is_torn)


def _make_former_windows(arrays: NamedArrays, header: Mapping[str, Any], *, is_torn: bool) -> FormerWindows:
    is_sealed = header.get("sealed") is True
    names = Directory(arrays, has_checks=is_sealed)  # skips damaged entries
    if header.get("layout") is None:
        read = partial(_read_former, arrays, names, is_sealed=is_sealed)
        return FormerWindows(names, read, header, is_torn=is_torn and is_sealed)
    columns = window_columns.make_window_columns(1, 1)
    return FormerWindows(
        names, lambda slots: {each.name: arrays[each.name][slots] for each in columns}, header, is_torn=is_torn
    )


def _read_former(arrays: NamedArrays, names: Directory, slots: Slots, *, is_sealed: bool) -> NamedArrays:
    return read_former_windows(arrays, slots, names.seeds[slots], is_sealed=is_sealed)


def _find_reason(header: Mapping[str, Any] | None, step_seconds: int) -> str | None:
    """Return why the rows of a file with this header cannot be used, `None` if they can be."""
    if header is None or header.get("kind") != "windows":
        return "it is damaged, or no window file of streamd"
    if not _is_plausible(header):
        return "its header is implausible"
    if header["step_seconds"] != step_seconds:
        return "its rows have another step"
    if header.get("layout") not in (None, LAYOUT):
        return f"its layout is {header['layout']!r}, expected at most {LAYOUT}"
    return None


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
