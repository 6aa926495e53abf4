"""Seals: checksums by which a stored row proves whose it is, of which step, and that it is whole.

Pure arithmetic. Pages of a mapped file reach the disk in any order, so after a power loss a place may have an old row,
a part of a new one, or the row of a server that had the slot before. None of them has the seal that belongs there.

A row is read as one large little-endian number. Its seal is the remainder by a prime of that number, the seed of its
server, its step and its mark:

    seal = (row + seed + (step x 256 + mark) x FACTOR) mod PRIME + 1

So one seal is one step of Python's own arithmetic, and many are one matrix product. The prime divides no number from 1
to 2^29 and no power of two. Hence a change of one bit, or of any bits among 29 neighbours, always changes the seal, and
so does another mark or a step up to three million away. Of all other changes, one in `PRIME` keeps it.
"""

from functools import cache
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]
Integers = npt.NDArray[Any] | np.integer[Any]
"""One number for all rows, or one for each."""

NO_SEAL = 0
"""The seal of a place without a row, and of an open row that is being changed; no row has it."""

PRIME = 1_000_000_007
"""Not one next to a power of two, by which the weights of the words would be small numbers: then a row whose values
differ by little from those of another step could have its seal. The powers of two repeat after 500,000,003 only."""

FACTOR = 618_033_989
"""Near no simple fraction of the prime, so that steps and marks do not look like differences of values."""

WORDS_AT_ONCE = 128
"""Words of 16 bits whose weighted sum is below 2^53, so that floating point is exact."""

PRODUCTS_AT_ONCE = 2**16
"""Words in one matrix product: few enough that the library of linear algebra does not start threads for it."""


def compute_seal(row: bytes | memoryview, seed: int, step: int, mark: int) -> int:
    """Return the seal of one row, from 1 to `PRIME`; the hot path writes it out."""
    return (int.from_bytes(row, "little") + seed + (step << 8 | mark) * FACTOR) % PRIME + 1


def compute_seals(rows: npt.NDArray[Any], seeds: npt.NDArray[Any], steps: Integers, marks: Integers) -> Words:
    """Return the seals of many rows: `rows (n, features)` of four bytes each, and of each its seed, step and mark."""
    total = _sum_words(rows) + seeds + (steps % PRIME * 256 + marks) % PRIME * FACTOR
    seals: Words = (total % PRIME + 1).astype(np.uint32)
    return seals


def compute_seals_of_step(rows: npt.NDArray[Any], seeds: Integers, step: int, mark: int) -> Words:
    """Return the seals of rows that are all of one step and have the same mark, as `compute_seals` does."""
    total = _sum_words(rows)
    total += seeds
    total += (step << 8 | mark) % PRIME * FACTOR % PRIME
    total %= PRIME
    total += 1
    seals: Words = total.astype(np.uint32)
    return seals


def _sum_words(rows: npt.NDArray[Any]) -> Integers:
    """Return a number below 2^60 that has the same remainder by the prime as each row."""
    words = np.ascontiguousarray(rows).view("<u2")
    count, width = words.shape
    weights = _make_weights(width)
    rows_at_once = max(PRODUCTS_AT_ONCE // max(width, 1), 1)
    if count <= rows_at_once and width <= WORDS_AT_ONCE:  # the usual frame, without the loops
        total: Integers = words.astype(np.float64).dot(weights).astype(np.int64)
        return total
    total = np.zeros(count, np.int64)
    for top, left in product(range(0, count, rows_at_once), range(0, width, WORDS_AT_ONCE)):
        some, part = slice(top, top + rows_at_once), slice(left, left + WORDS_AT_ONCE)
        total[some] += words[some, part].astype(np.float64).dot(weights[part]).astype(np.int64)
    return total


@cache
def _make_weights(count: int) -> npt.NDArray[np.float64]:
    """Return the remainders of the powers of 2^16: the weight of each word of a row."""
    return np.array([pow(2, 16 * place, PRIME) for place in range(count)], np.float64)
