"""Seals of forecasts: checksums by which a stored forecast proves whose it is, from which step, and that it is whole.

Sums of words times odd multipliers, modulo 2^64: a change within one word of 8 bytes always changes the sum, and any
other change does but for a share of about 2^-60. A checksum of many forecasts is one pass over them, without the GIL:
0.5 µs for 10 kB, where CRC-32 takes 3 µs and waits for the GIL once for each forecast.
"""

import math
from functools import lru_cache
from zlib import crc32

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Float32

Sums = npt.NDArray[np.uint64]
_Field = npt.NDArray[np.integer]

MAX_MODEL_BYTES = 96

_WORD = 8
_FIRST_VALUE = 16  # the multipliers before this are those of the other fields


def compute_checks(values: Float32) -> Sums:
    """Return the checksums of forecasts, `(n,)`: of `values (n, ...)`, contiguous."""
    words = values.reshape(len(values), math.prod(values.shape[1:])).view(np.uint32)
    whole = words.shape[1] // 2 * 2
    multipliers = _make_multipliers(_FIRST_VALUE + whole // 2 + 1)
    pairs = words if whole == words.shape[1] else np.ascontiguousarray(words[:, :whole])
    checks: Sums = np.einsum("ij,j->i", pairs.view(np.uint64), multipliers[_FIRST_VALUE:-1])
    if whole != words.shape[1]:
        checks += words[:, -1] * multipliers[-1]
    return checks


def make_value_multipliers(numbers: int) -> Sums:
    """Return what `compute_checks` multiplies the words of a forecast of so many numbers by; a last half word too."""
    words = (numbers + 1) // 2
    return _make_multipliers(_FIRST_VALUE + numbers // 2 + 1)[_FIRST_VALUE : _FIRST_VALUE + words]


def compute_forecast_seals(
    *, serials: _Field, steps: _Field, contexts: _Field, models: _Field, seeds: _Field, checks: Sums
) -> Sums:
    """Return the seals of forecasts, `(n,)`; each argument is `(n,)`, or `(1,)` if it is the same for all.

    `models` are of `hash_model`, `seeds` are numbers of their servers, `checks` are of `compute_checks`.
    """
    fields = (serials, steps, contexts, models, seeds)
    seals = checks.copy()
    for field, multiplier in zip(fields, _make_multipliers(_FIRST_VALUE), strict=False):
        seals += field.astype(np.uint64) * multiplier
    return seals


def hash_model(model: bytes) -> int:
    """Return a number of a model's name, as it is stored in `MAX_MODEL_BYTES`."""
    return crc32(model[:MAX_MODEL_BYTES].ljust(MAX_MODEL_BYTES, b"\0"))


@lru_cache(maxsize=4)
def _make_multipliers(count: int) -> Sums:
    """Return `count` odd numbers that look random, always the same (the generator is SplitMix64)."""
    mixed = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    multipliers: Sums = (mixed ^ (mixed >> np.uint64(31))) | np.uint64(1)
    return multipliers
