"""Turns a sample's values into a row: float32 bytes in the features' order, NaN for a missing value.

Touches no window. Most samples name their features in an order that was seen before. The column of each name is found
once for each order and cached, so that a row takes one packing and not one look-up per feature. Values that were
decoded into `RowReader.cells_type` are in the features' order already.
"""

import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import msgspec
from msgspec.structs import astuple

from streamd.core.errors import InvalidValueError
from streamd.core.values import EXPECTED_VALUE, is_value

MAX_CACHED_ORDERS = 1_024
"""Orders of names in the cache; a sender that never repeats an order cannot make it larger."""

MAX_CACHED_CHARACTERS = 16_384
"""An order whose names are longer than this in all is not cached, so that the cache stays small."""

_SURELY_VALUES = 1e29
"""A vector that is shorter has values only, however its length was rounded."""


class PackedRow(msgspec.Struct, frozen=True, gc=False):
    """One row: `data` is `(features,) float32` in native bytes, `mask` has the bit of each feature that has a value."""

    data: bytes
    mask: int


@dataclass(frozen=True, slots=True)
class _Order:
    pick: Callable[[Sequence[float]], Iterable[float]]
    mask: int
    ignored: int


class RowReader:
    """Reads the values of samples as rows of one contract's features."""

    def __init__(self, features: Sequence[str]) -> None:
        self.ignored = 0
        """Values of features that the model does not know, since start."""
        self._columns = {name: column for column, name in enumerate(features)}
        self._full = (1 << len(features)) - 1
        self.cells_type = make_cells_type(features)
        self._struct = struct.Struct(f"={len(features)}f")
        self._orders: dict[tuple[str, ...], _Order] = {}

    def read_row(self, values: Mapping[str, float | None]) -> PackedRow:
        """Return the row of a sample; None and NaN are missing values.

        Raises `InvalidValueError` for a number of a magnitude of 1e30 or more, infinity among them.
        """
        names = tuple(values)
        order = self._orders.get(names) or self._learn_order(names)
        given: list[Any] = list(values.values())
        try:
            # One length finds None (TypeError), NaN and each number that is too large; in a long one, none need be.
            if math.hypot(*given) < _SURELY_VALUES:
                given.append(math.nan)
                data = self._struct.pack(*order.pick(given))
                self.ignored += order.ignored
                return PackedRow(data, order.mask)
        except (TypeError, OverflowError):
            pass
        return self._read_slowly(values)

    def read_cells(self, cells: msgspec.Struct) -> PackedRow:
        """Return the row of an instance of `cells_type`, as `read_row` does for the same values."""
        given: tuple[Any, ...] = astuple(cells)
        try:
            if math.hypot(*given) < _SURELY_VALUES:
                return PackedRow(self._struct.pack(*given), self._full)
        except (TypeError, OverflowError):
            pass
        named = zip(self._columns, given, strict=True)
        return self.read_row({name: value for name, value in named if value is not None})

    def _learn_order(self, names: tuple[str, ...]) -> _Order:
        places = {name: place for place, name in enumerate(names)}
        # A feature that is not given is picked from place -1: `read_row` appends a NaN to the values.
        picked = [places.get(name, -1) for name in self._columns]
        mask = sum(1 << column for column, place in enumerate(picked) if place >= 0)
        pick = itemgetter(*picked) if len(picked) > 1 else lambda given, place=picked[0]: (given[place],)
        order = _Order(pick, mask, sum(name not in self._columns for name in names))
        if sum(map(len, names)) > MAX_CACHED_CHARACTERS:
            return order
        if len(self._orders) >= MAX_CACHED_ORDERS:
            self._orders.clear()
        self._orders[names] = order
        return order

    def _read_slowly(self, values: Mapping[str, float | None]) -> PackedRow:
        cells = [math.nan] * len(self._columns)
        mask = ignored = 0
        for name, value in values.items():
            column = self._columns.get(name)
            if column is None:
                ignored += 1
            elif value is not None and not math.isnan(value):
                if not is_value(value):
                    raise InvalidValueError(f"values.{name} is {value!r}, expected {EXPECTED_VALUE}, or null")
                cells[column] = value
                mask |= 1 << column
        self.ignored += ignored
        return PackedRow(self._struct.pack(*cells), mask)


def make_cells_type(features: Sequence[str]) -> type[msgspec.Struct]:
    """Make a struct with a field for each feature, `None` if it is not given; it decodes no other names."""
    fields = [(f"feature_{column}", float | None, None) for column in range(len(features))]
    names = {field[0]: name for field, name in zip(fields, features, strict=True)}
    return msgspec.defstruct("Cells", fields, rename=names, omit_defaults=True, forbid_unknown_fields=True, gc=False)


def iterate_columns(mask: int) -> Iterator[int]:
    """Yield the columns whose bits are set in a mask, in rising order."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def copy_cells(row: PackedRow, to: memoryview, base: int, full: int) -> None:
    """Copy the values that a row has over the row that begins at byte `base` of `to`; `full` is the mask of all."""
    if row.mask == full:
        to[base : base + len(row.data)] = row.data
        return
    for column in iterate_columns(row.mask):
        at = 4 * column
        to[base + at : base + at + 4] = row.data[at : at + 4]
