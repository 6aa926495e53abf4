"""Tests `streamd/inference/api/memory.py`: windows of one series remember what lies before each."""

import numpy as np

from streamd.engine import compute_series_memory
from streamd.inference.api.memory import HISTORIES_AT_ONCE
from tests.support.memory_version import compute_naive_memory


def test_each_window_remembers_the_week_before_its_end() -> None:
    random = np.random.default_rng(3)
    first_step, period = 1_001, 2
    rows = random.integers(0, 9, (400, 2)).astype(np.float32)
    rows[random.random(rows.shape) < 0.5] = np.nan
    given = {
        first_step + place: [None if np.isnan(value) else float(value) for value in row]
        for place, row in enumerate(rows)
    }
    ends = random.integers(0, 401, HISTORIES_AT_ONCE + 5)
    found = compute_series_memory(rows, ends, first_step=first_step, period=period)
    for window, end in zip(found, ends.tolist(), strict=True):
        known = {step: values for step, values in given.items() if step < first_step + end}
        np.testing.assert_allclose(window, compute_naive_memory(known, first_step + end, period, 2), rtol=1e-6)
    assert np.isfinite(found).any(axis=(1, 2)).sum() > HISTORIES_AT_ONCE
