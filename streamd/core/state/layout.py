"""The layout of a structure of arrays in one flat buffer: the place of each array, and the header that describes it.

Knows no files: it is given a buffer (a memory map, or plain bytes in a test) and returns numpy views of it.
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
    """One array; `shape` is without the leading slot axis.

    A column that was added later lies behind the others: a file of an earlier version is extended by it, with zeros.
    `added` is the number of the addition, 0 for the columns of the first version.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    added: int = 0

    def count_bytes(self, capacity: int) -> int:
        """Return the size of this array in bytes for `capacity` slots."""
        return capacity * int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


class Layout:
    """Columns of `capacity` slots, one after the other, each on its own pages, behind a header of one page.

    A buffer can be read with this layout if the `identity` in its header is equal to that of the layout.
    """

    def __init__(self, columns: tuple[Column, ...], capacity: int, identity: Mapping[str, Any]) -> None:
        self.columns = tuple(sorted(columns, key=lambda column: column.added))
        self.capacity = capacity
        self.identity = {"capacity": capacity, **identity}
        self.offsets: dict[str, int] = {}
        self._places: list[tuple[int, int]] = []  # of each column its offset, and the bytes of a slot
        self.earlier_sizes: list[int] = []
        """The sizes in bytes that files of earlier versions have, in rising order."""
        offset = HEADER_BYTES
        addition = 0
        for column in self.columns:
            if column.added > addition:
                self.earlier_sizes.append(offset)
                addition = column.added
            self.offsets[column.name] = offset
            self._places.append((offset, column.count_bytes(1)))
            offset += -(-column.count_bytes(capacity) // HEADER_BYTES) * HEADER_BYTES
        self.nbytes = offset

    def make_header(self, **more: Any) -> bytes:
        """Return the header page: the magic, then the identity (and `more`) and a checksum of them as JSON."""
        fields = {**self.identity, **more}
        page = STATE_MAGIC + json.dumps({**fields, CHECKSUM_KEY: _checksum(fields)}).encode()
        if len(page) > HEADER_BYTES:
            raise ValueError(f"the layout's identity takes {len(page)} bytes, at most {HEADER_BYTES} fit")
        return page.ljust(HEADER_BYTES, b"\0")

    def make_views(self, buffer: Any, nbytes: int | None = None) -> NamedArrays:
        """Return every column as a view of `buffer`, shaped `(capacity, *shape)`; the views live as long as the buffer.

        If the `buffer` of an earlier version has only `nbytes`, the columns behind them are separate arrays of zeros.
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

        This much must be reserved before they are written: the kernel allocates a whole page when it is first written,
        even if the blocks of the file system are smaller.
        """
        extents = []
        for offset, size in self._places:
            first = offset + slot * size
            start = first // page_bytes * page_bytes
            end = min(-(-(first + count * size) // page_bytes) * page_bytes, self.nbytes)
            extents.append((start, end - start))
        return extents


def make_zeros(columns: tuple[Column, ...], capacity: int) -> NamedArrays:
    """Return columns of `capacity` slots as arrays of zeros, each in memory of its own."""
    return {column.name: np.zeros((capacity, *column.shape), column.dtype) for column in columns}


def make_scalar_view(array: npt.NDArray[Any]) -> Any:
    """Return a flat memoryview of an array: to read or write a scalar by it takes a third of numpy's time.

    The type is Any because the types of memoryview know integers only.
    """
    return memoryview(array.reshape(-1))  # type: ignore[arg-type]


def parse_header(page: bytes) -> dict[str, Any] | None:
    """Return the fields of a header page, or None if it is damaged or was not written by `make_header`."""
    if not page.startswith(STATE_MAGIC):
        return None
    try:
        fields = json.loads(page[len(STATE_MAGIC) :].split(b"\0", 1)[0])
    except ValueError:
        return None
    if not isinstance(fields, dict):
        return None
    check = fields.pop(CHECKSUM_KEY, None)  # earlier versions wrote none
    return fields if check is None or check == _checksum(fields) else None


def _checksum(fields: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(fields, sort_keys=True).encode())
