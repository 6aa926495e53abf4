"""A structure of arrays over one flat buffer: where each array lies, and what the file says of itself.

Knows nothing of files: it is given a buffer (a memory map, or plain bytes in a test) and gives numpy views.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

HEADER_BYTES = 4096
MAGIC = b"streamd\x01"
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Column:
    """One array: `shape` without the leading slot axis."""

    name: str
    dtype: str
    shape: tuple[int, ...] = ()

    def nbytes(self, capacity: int) -> int:
        """The bytes of this array for `capacity` slots."""
        return capacity * int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


class Layout:
    """Columns of `capacity` slots one after the other, each on a page of its own, behind a one-page header.

    `identity` is what must be equal for a buffer to be read with this layout; it is kept in the header.
    """

    def __init__(self, columns: tuple[Column, ...], capacity: int, identity: Mapping[str, Any]) -> None:
        self.columns = columns
        self.capacity = capacity
        self.identity = {"capacity": capacity, **identity}
        self.offsets: dict[str, int] = {}
        offset = HEADER_BYTES
        for column in columns:
            self.offsets[column.name] = offset
            offset += -(-column.nbytes(capacity) // HEADER_BYTES) * HEADER_BYTES
        self.nbytes = offset

    def header(self, **more: Any) -> bytes:
        """Return the header page: the magic, then the identity (and `more`) as JSON."""
        page = MAGIC + json.dumps({**self.identity, **more}).encode()
        if len(page) > HEADER_BYTES:
            raise ValueError(f"the layout's identity takes {len(page)} bytes, at most {HEADER_BYTES} fit")
        return page.ljust(HEADER_BYTES, b"\0")

    def arrays(self, buffer: Any) -> Arrays:
        """Return every column as a view of `buffer`, shaped `(capacity, *shape)`."""
        views: Arrays = {}
        for column in self.columns:
            shape = (self.capacity, *column.shape)
            count = int(np.prod(shape, dtype=np.int64))
            view = np.frombuffer(buffer, column.dtype, count, self.offsets[column.name])
            views[column.name] = view.reshape(shape)
        return views

    def slot_extents(self, slot: int, count: int = 1, page_bytes: int = HEADER_BYTES) -> list[tuple[int, int]]:
        """Return `(offset, bytes)` of `count` slots from `slot` on in every column, widened to whole pages.

        That is what must be reserved before they are written: the kernel allocates a page as a whole when it is first
        written, even where a file system's blocks are smaller.
        """
        extents = []
        for column in self.columns:
            size = column.nbytes(1)
            first = self.offsets[column.name] + slot * size
            start = first // page_bytes * page_bytes
            end = min(-(-(first + count * size) // page_bytes) * page_bytes, self.nbytes)
            extents.append((start, end - start))
        return extents


def scalars(array: npt.NDArray[Any]) -> Any:
    """Return a flat memoryview of an array: a scalar read or written through it costs a third of numpy's.

    Typed as Any because memoryview's own types know integers only.
    """
    return memoryview(array.reshape(-1))  # type: ignore[arg-type]


def read_header(page: bytes) -> dict[str, Any] | None:
    """Return what a header page says; none where it is not one of ours."""
    if not page.startswith(MAGIC):
        return None
    try:
        said = json.loads(page[len(MAGIC) :].rstrip(b"\0"))
    except ValueError:
        return None
    return said if isinstance(said, dict) else None
