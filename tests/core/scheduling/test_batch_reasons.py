"""Tests `streamd/core/scheduling/batch_reasons.py`: what was counted, by reason."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.scheduling.batch_reasons import BatchCounts, BatchReason

BATCHES = st.lists(st.tuples(st.sampled_from(list(BatchReason)), st.integers(1, 512), st.floats(0, 60)))


@given(BATCHES)
def test_each_batch_is_counted_under_its_reason(batches: list[tuple[BatchReason, int, float]]) -> None:
    counts = BatchCounts()
    for batch in batches:
        counts.add(*batch)
    naive = Counter(reason for reason, _, _ in batches)
    for reason, found in counts:
        assert found.batches == naive[reason]
        assert found.windows == sum(windows for each, windows, _ in batches if each is reason)
        assert found.queue_delay_seconds == pytest.approx(sum(delay for each, _, delay in batches if each is reason))


def test_a_reason_that_never_occurred_is_counted_too() -> None:
    assert {reason for reason, _ in BatchCounts()} == set(BatchReason)
