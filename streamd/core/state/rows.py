"""A sample's values as one row: float32 bytes in the features' order, NaN where none was given.

The usual sample names its features in the same order as the one before: what that order means is worked out
once and kept, so that a row costs one packing and not a look-up a feature.
"""

import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import msgspec

from streamd.core.errors import InvalidValueError

MAX_CACHED_ORDERS = 1_024
"""Orders of names that are remembered; a sender that never repeats one cannot make us remember more."""

MAX_CACHED_CHARACTERS = 16_384
"""Names that are longer than this together are worked out every time, so that what is remembered stays small."""


class PackedRow(msgspec.Struct, frozen=True, gc=False):
    """`data` is `(features,) float32` in native bytes, `mask` has the bit of each feature that is there."""

    data: bytes
    mask: int


@dataclass(frozen=True, slots=True)
class _Order:
    pick: Callable[[Sequence[float]], Iterable[float]]
    mask: int
    ignored: int


class RowReader:
    """Reads samples' values for one contract's features."""

    def __init__(self, features: Sequence[str]) -> None:
        self.ignored = 0
        """Values of features that the model does not know, so far."""
        self._columns = {name: column for column, name in enumerate(features)}
        # "=", for native packing takes 1e39 as infinity without a word.
        self._struct = struct.Struct(f"={len(features)}f")
        self._orders: dict[tuple[str, ...], _Order] = {}

    def read_row(self, values: Mapping[str, float | None]) -> PackedRow:
        """Return the row; None and NaN are missing.

        Raises `InvalidValueError` for a number that float32 cannot hold, infinity among them.
        """
        names = tuple(values)
        order = self._orders.get(names) or self._learn(names)
        given: list[Any] = list(values.values())
        try:
            # One sum finds None (TypeError), NaN and infinity at once; packing finds what float32 cannot hold.
            if math.isfinite(sum(given)):
                given.append(math.nan)
                data = self._struct.pack(*order.pick(given))
                self.ignored += order.ignored
                return PackedRow(data, order.mask)
        except (TypeError, OverflowError):
            pass
        return self._read_slowly(values)

    def _learn(self, names: tuple[str, ...]) -> _Order:
        places = {name: place for place, name in enumerate(names)}
        # What is not given is picked from the NaN that is appended to the values.
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
                if math.isinf(value) or not self._fits(value):
                    raise InvalidValueError(
                        f"values.{name} is {value!r}, expected a number that float32 can hold, or null"
                    )
                cells[column] = value
                mask |= 1 << column
        self.ignored += ignored
        return PackedRow(self._struct.pack(*cells), mask)

    def _fits(self, value: float) -> bool:
        try:
            struct.pack("=f", value)
        except OverflowError:
            return False
        return True


def list_columns(mask: int) -> Iterator[int]:
    """Yield the columns whose bits are set, rising."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest
