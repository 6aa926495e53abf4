"""Puts the quantiles of forecasts in order, by the way that suits the number of steps in which they cross."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Float32

SPARSE_CROSSINGS = 2
"""If at most one step in so many has crossed quantiles, only those steps are sorted, else all."""

MANY_STEPS = 512
"""From so many steps on all are sorted together, comparator by comparator; below, numpy's sort of each is faster."""

MANY_QUANTILES = 16
"""With more quantiles, numpy's sort is faster."""


def put_in_order(rows: Float32, quantiles: int) -> None:
    """Sort in place the quantiles of each step in which they do not rise. A step with a NaN may get more of them.

    `rows (batch, numbers)`: the `quantiles` of a step are adjacent.
    """
    flat, rises = rows.reshape(-1), np.empty(rows.shape, np.bool_)
    # All numbers are compared with their successors as one row, which takes a sixth of the time of a comparison step by
    # step. The last number of a step is compared with the next step's first: that result is overwritten below.
    np.greater_equal(flat[1:], flat[:-1], out=rises.reshape(-1)[:-1])
    np.bitwise_or(rises, _mark_step_ends(rows.shape[1], quantiles), out=rises)
    crossings = rises.size - np.count_nonzero(rises)
    if not crossings:
        return
    steps = flat.reshape(-1, quantiles)
    if crossings * SPARSE_CROSSINGS <= len(steps):
        crossed = np.flatnonzero(~rises) // quantiles  # may name a step twice, which is harmless
        steps[crossed] = np.sort(steps[crossed], axis=-1)
    elif len(steps) < MANY_STEPS or quantiles > MANY_QUANTILES:
        steps.sort(axis=-1)
    else:
        _sort_together(steps)


def _sort_together(steps: Float32) -> None:
    """Sort the rows of `steps (steps, quantiles)` in place: a sort of each would mispredict most of its branches."""
    quantiles = steps.shape[1]
    columns = list(np.ascontiguousarray(steps.T))
    spare = np.empty(len(steps), np.float32)
    for low, high in list_comparators(quantiles):
        first, second = columns[low], columns[high]
        np.minimum(first, second, out=spare)
        np.maximum(first, second, out=second)
        columns[low], spare = spare, first
    for quantile, column in enumerate(columns):
        steps[:, quantile] = column


@lru_cache(maxsize=4)
def list_comparators(count: int) -> list[tuple[int, int]]:
    """Return the comparators of a network that sorts `count` numbers: each puts the smaller of two at the first place.

    Batcher's odd-even merge sort, see Knuth, "The Art of Computer Programming", volume 3, 5.2.2, algorithm M.
    """
    comparators = []
    top = 1 << max((count - 1).bit_length() - 1, 0)
    part = top
    while part:
        distance, offset, step = part, 0, top
        while True:
            comparators += [(place, place + distance) for place in range(count - distance) if place & part == offset]
            if step == part:
                break
            distance, offset, step = step - part, part, step // 2
        part //= 2
    return comparators


@lru_cache(maxsize=4)
def _mark_step_ends(size: int, quantiles: int) -> npt.NDArray[np.bool_]:
    """Return a mask over a window's `size` numbers: the last number of each step is `True`."""
    ends = np.zeros(size, np.bool_)
    ends[quantiles - 1 :: quantiles] = True
    return ends
