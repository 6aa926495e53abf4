"""A structure of arrays over one flat buffer: where each array lies, and what the file says of itself.

Knows nothing of files: it is given a buffer (a memory map, or plain bytes in a test) and gives numpy views.
"""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

HEADER_BYTES = 4096
STATE_MAGIC = b"streamd\x01"
CHECKSUM_KEY = "check"
NamedArrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Column:
    """One array: `shape` without the leading slot axis.

    One that was `added` later lies behind the others: a file of a former version is lengthened by it, with zeros.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    added: bool = False

    def count_bytes(self, capacity: int) -> int:
        """The bytes of this array for `capacity` slots."""
        return capacity * int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


class Layout:
    """Columns of `capacity` slots one after the other, each on a page of its own, behind a one-page header.

    `identity` is what must be equal for a buffer to be read with this layout; it is kept in the header.
    """

    def __init__(self, columns: tuple[Column, ...], capacity: int, identity: Mapping[str, Any]) -> None:
        self.columns = tuple(sorted(columns, key=lambda column: column.added))
        self.capacity = capacity
        self.identity = {"capacity": capacity, **identity}
        self.offsets: dict[str, int] = {}
        self.former_nbytes = 0
        """The size without the columns that were added."""
        offset = HEADER_BYTES
        for column in self.columns:
            if column.added and not self.former_nbytes:
                self.former_nbytes = offset
            self.offsets[column.name] = offset
            offset += -(-column.count_bytes(capacity) // HEADER_BYTES) * HEADER_BYTES
        self.nbytes = offset
        self.former_nbytes = self.former_nbytes or offset

    def make_header(self, **more: Any) -> bytes:
        """Return the header page: the magic, then the identity (and `more`) and a checksum of them as JSON."""
        fields = {**self.identity, **more}
        page = STATE_MAGIC + json.dumps({**fields, CHECKSUM_KEY: _checksum(fields)}).encode()
        if len(page) > HEADER_BYTES:
            raise ValueError(f"the layout's identity takes {len(page)} bytes, at most {HEADER_BYTES} fit")
        return page.ljust(HEADER_BYTES, b"\0")

    def make_views(self, buffer: Any, nbytes: int | None = None) -> NamedArrays:
        """Return every column as a view of `buffer`, shaped `(capacity, *shape)`.

        Where `buffer` has only the `nbytes` of a former version, columns that were added are zeros of their own.
        """
        views: NamedArrays = {}
        for column in self.columns:
            shape = (self.capacity, *column.shape)
            if nbytes is not None and self.offsets[column.name] >= nbytes:
                views[column.name] = np.zeros(shape, column.dtype)
                continue
            count = int(np.prod(shape, dtype=np.int64))
            view = np.frombuffer(buffer, column.dtype, count, self.offsets[column.name])
            views[column.name] = view.reshape(shape)
        return views

    def list_slot_extents(self, slot: int, count: int = 1, page_bytes: int = HEADER_BYTES) -> list[tuple[int, int]]:
        """Return `(offset, bytes)` of `count` slots from `slot` on in every column, widened to whole pages.

        That is what must be reserved before they are written: the kernel allocates a page as a whole when it is first
        written, even where a file system's blocks are smaller.
        """
        extents = []
        for column in self.columns:
            size = column.count_bytes(1)
            first = self.offsets[column.name] + slot * size
            start = first // page_bytes * page_bytes
            end = min(-(-(first + count * size) // page_bytes) * page_bytes, self.nbytes)
            extents.append((start, end - start))
        return extents


def make_scalar_view(array: npt.NDArray[Any]) -> Any:
    """Return a flat memoryview of an array: a scalar read or written through it costs a third of numpy's.

    Typed as Any because memoryview's own types know integers only.
    """
    return memoryview(array.reshape(-1))  # type: ignore[arg-type]


def parse_header(page: bytes) -> dict[str, Any] | None:
    """Return what a header page says; None where it is not one of ours or is damaged."""
    if not page.startswith(STATE_MAGIC):
        return None
    try:
        fields = json.loads(page[len(STATE_MAGIC) :].split(b"\0", 1)[0])
    except ValueError:
        return None
    if not isinstance(fields, dict):
        return None
    check = fields.pop(CHECKSUM_KEY, None)  # former versions wrote none
    return fields if check is None or check == _checksum(fields) else None


def _checksum(fields: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(fields, sort_keys=True).encode())
