"""Checks the numbers of callers' windows: of one call, or of many that are in a lane's inputs together."""

from collections.abc import Iterator, Mapping
from math import isfinite
from struct import Struct
from typing import Any

import numpy as np
import numpy.typing as npt

from streamd.core.contract import MAX_STATUS, MEMORY_INPUT
from streamd.core.errors import AllMissingError, InvalidInputError, InvalidTensorError
from streamd.core.values import EXPECTED_VALUE, VALUE_LIMIT, find_refused
from streamd.inference.lane import Inputs

_PAIR = Struct("=ii")


def find_faults(inputs: Inputs, begin: int, end: int) -> Iterator[tuple[int, InvalidInputError]]:
    """Yield the rows from `begin` to `end` of a lane's inputs that must not run, each with its error.

    The error is the one that `check_content` raises for the window alone.
    """
    if _find_fault(inputs.view_rows(begin, end)) is None:  # nearly always: one pass over all windows
        return
    for row in range(begin, end):
        error = _find_fault(inputs.view_rows(row, row + 1))
        if error is not None:
            yield row, error


def _find_fault(arrays: Mapping[str, npt.NDArray[Any]]) -> InvalidInputError | None:
    try:
        if not is_complete(arrays):
            check_content(arrays)
    except InvalidInputError as error:
        return error
    return None


def is_complete(arrays: Mapping[str, npt.NDArray[Any]]) -> bool:
    """Whether nothing is missing that must not, or out of range, the usual case: few passes over each array.

    A number that is NaN, infinite or so large that its square is makes the sum of squares of its array so. If numbers
    of 1e19 do the same, the answer may be false, and `check_content` decides.
    """
    return (
        _has_finite_values(arrays["encoder_cont"])
        and _is_finite(arrays["decoder_cont"])
        and _has_known_categories(arrays["encoder_cat"])
        and _has_known_categories(arrays["decoder_cat"])
        and _has_valid_memory(arrays.get(MEMORY_INPUT))
    )


def _has_finite_values(windows: npt.NDArray[Any]) -> bool:
    """Whether each of `windows (n, ...)` has a value, and none is too large; values may be missing."""
    if _is_finite(windows):
        return True
    rows = windows.reshape(len(windows), -1)
    with np.errstate(invalid="ignore"):  # a NaN may be a signalling one
        highest, lowest = np.fmax.reduce(rows, axis=1), np.fmin.reduce(rows, axis=1)
    return bool((highest < VALUE_LIMIT).all() and (lowest > -VALUE_LIMIT).all())


def _has_valid_memory(memory: npt.NDArray[Any] | None) -> bool:
    """Whether no number of a memory is too large; all of them may be missing."""
    return memory is None or _is_finite(memory) or not find_refused(memory).any()


def _is_finite(array: npt.NDArray[Any]) -> bool:
    # Unlike `sum` and `dot`, `einsum` does not warn of an infinite sum.
    flat = array.reshape(-1)
    return isfinite(np.einsum("i,i->", flat, flat))


def _has_known_categories(array: npt.NDArray[Any]) -> bool:
    """Whether all server ids `[..., 0]` are 0 or more, and all statuses `[..., 1]` are 0 to `MAX_STATUS`.

    The union of the bits of numbers is negative if one of them is, and at least as large as the largest one. Pairs are
    read as one number, so that one pass suffices.
    """
    union = np.bitwise_or.reduce(array.reshape(-1).view(np.uint64)).tobytes()
    server_id, status = _PAIR.unpack(union)
    return bool(server_id >= 0 and 0 <= status <= MAX_STATUS)


def check_content(arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Raise the error of the first fault in the order of these checks, if there is one."""
    for name in ("encoder_cont", "decoder_cont", *({MEMORY_INPUT} & arrays.keys())):
        refused = np.argwhere(find_refused(arrays[name]))
        if len(refused):
            window, *place = refused[0].tolist()
            value = arrays[name][window, *place]
            raise InvalidTensorError(f"{name} holds {value:g} at {place} of a window, expected {EXPECTED_VALUE}")
    if np.isnan(arrays["decoder_cont"]).any():
        raise InvalidTensorError("decoder_cont holds NaN; the known future is never missing")
    empty = np.flatnonzero(np.isnan(arrays["encoder_cont"]).all(axis=(1, 2)))
    if len(empty):
        raise AllMissingError(f"encoder_cont[{empty[0]}] has no value at all: such a window cannot be forecast")
    for name in ("encoder_cat", "decoder_cat"):
        ids, status = arrays[name][..., 0], arrays[name][..., 1]
        if ids.min() < 0:
            raise InvalidTensorError(f"{name} holds server id {ids.min()}, expected 0 or more")
        if status.min() < 0 or status.max() > MAX_STATUS:
            raise InvalidTensorError(f"{name} holds a status outside 0 to {MAX_STATUS}")
