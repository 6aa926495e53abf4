"""Turns the values of a frame of columns into rows: float32 in the features' order, NaN for a missing value.

The same as `rows.py` does for one sample, for all rows of a frame at once. Touches no window.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Float32
from streamd.core.state.column_frames import NameList
from streamd.core.state.row_frames import Booleans, Masks
from streamd.core.values import find_refused, has_only_values


class FrameRows(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The rows of a frame, or of a part of it."""

    rows: Float32
    """`(n, features)`, contiguous."""
    masks: Masks
    """The features that each row has a value of."""
    is_odd: Booleans | None
    """The rows without any value, or with a number of a magnitude of 1e30 or more; `None` if no row is."""
    ignored: int
    """The number of values in each row of features that the model does not know."""


class _Order:
    """The places of the model's features in a list of names."""

    __slots__ = ("bits", "columns", "ignored", "is_same", "mask", "places")

    def __init__(self, names: Sequence[str], features: Sequence[str]) -> None:
        known = {name: column for column, name in enumerate(features)}
        self.places = np.array([place for place, name in enumerate(names) if name in known], np.intp)
        self.columns = np.array([known[name] for name in names if name in known], np.intp)
        self.is_same = list(names) == list(features)
        self.bits = np.array([1 << column for column in self.columns.tolist()], np.uint64)
        self.mask = sum(self.bits.tolist())
        self.ignored = len(names) - len(self.columns)


class MatrixReader:
    """Reads the values of frames as rows of one contract's features, of which there are at most 64."""

    def __init__(self, features: Sequence[str]) -> None:
        self._features = tuple(features)

    def read_rows(self, names: NameList, values: npt.NDArray[Any]) -> FrameRows:
        """Return the rows of `values (n, names)`; the order of the names is remembered at their list."""
        order: _Order | None = names.known
        if order is None:
            order = names.known = _Order(names.names, self._features)
        given = _convert_cells(values if order.is_same else values[:, order.places])
        if order.mask and has_only_values(given):
            return FrameRows(rows=self._place(order, given), masks=order.mask, is_odd=None, ignored=order.ignored)
        is_missing = np.isnan(given)
        given = np.where(is_missing, np.float32(np.nan), given)  # NaN has many forms, and one of them is stored
        masks = np.bitwise_or.reduce(np.where(is_missing, np.uint64(0), order.bits), axis=1)
        is_odd = find_refused(given).any(axis=1) | (masks == 0)
        return FrameRows(
            rows=self._place(order, given),
            masks=masks,
            is_odd=is_odd if is_odd.any() else None,
            ignored=order.ignored,
        )

    def _place(self, order: _Order, given: Float32) -> Float32:
        if order.is_same:
            return np.ascontiguousarray(given)
        rows = np.full((len(given), len(self._features)), np.nan, np.float32)
        rows[:, order.columns] = given
        return rows


def _convert_cells(values: npt.NDArray[Any]) -> Float32:
    """Return values as float32, as one sample's are: by way of float64, and infinite if they are too large."""
    if values.dtype == np.float32:
        return values
    with np.errstate(over="ignore"):
        return values.astype(np.float64).astype(np.float32)
