"""Tests `streamd/core/memory_means.py`: the memory of a window, beside its definition written out."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.memory_means import compute_memory

PERIOD, LENGTH = 4, 5


def define_memory(series: list[float], end: int) -> list[float]:
    """Return the memory at step `end` of a series that began at step 0, element by element as it is defined."""

    def mean_of(period: int) -> float:
        rows = [v for v in series[period * PERIOD : (period + 1) * PERIOD] if not math.isnan(v)] if period >= 0 else []
        is_whole = end >= (period + 1) * PERIOD
        return sum(rows) / len(rows) if rows and is_whole else math.nan

    whole, rest = divmod(end, PERIOD)
    found = []
    for i in range(LENGTH):
        shares = [(mean_of(whole - LENGTH + i), PERIOD - rest), (mean_of(whole - LENGTH + i + 1), rest)]
        known = [(mean, weight) for mean, weight in shares if weight > 0 and not math.isnan(mean)]
        total = sum(weight for _, weight in known)
        found.append(sum(mean * weight for mean, weight in known) / total if known else math.nan)
    return found


@given(
    st.lists(st.one_of(st.just(math.nan), st.floats(-1e6, 1e6, width=32)), min_size=1, max_size=50),
    st.integers(0, 3),
)
def test_the_memory_is_as_defined_wherever_the_origin_lies(series: list[float], beyond: int) -> None:
    ends = [end for end in (len(series), len(series) - beyond) if end > 0]
    history = np.full((len(ends), (LENGTH + 1) * PERIOD, 1), np.nan, np.float32)
    for row, end in zip(history, ends, strict=True):
        known = series[max(0, end - len(row)) : end]
        row[len(row) - len(known) :, 0] = known
    found = compute_memory(history, np.array(ends) % PERIOD, LENGTH, PERIOD)
    expected = [define_memory(series, end) for end in ends]
    np.testing.assert_allclose(found[..., 0], expected, rtol=1e-5, atol=1e-6)


def test_the_period_that_is_not_over_does_not_count() -> None:
    history = np.ones((1, (LENGTH + 1) * PERIOD, 1), np.float32)
    history[0, -2:] = 1000.0
    found = compute_memory(history, np.array([2]), LENGTH, PERIOD)
    np.testing.assert_array_equal(found, np.ones((1, LENGTH, 1)))
    assert compute_memory(history, np.array([0]), LENGTH, PERIOD)[0, -1, 0] == 500.5


def test_features_are_apart() -> None:
    history = np.stack([np.full((LENGTH + 1) * PERIOD, v) for v in (1.0, np.nan, 3.0)], axis=-1)[None]
    found = compute_memory(history.astype(np.float32), np.array([1]), LENGTH, PERIOD)
    np.testing.assert_array_equal(found[0], [[1.0, np.nan, 3.0]] * LENGTH)
