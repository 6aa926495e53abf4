"""Tests `streamd/runtime/metrics.py`: the ages of forecasts that were sent, many at once as one by one; batches."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.scheduling.batch_reasons import BatchReason
from streamd.runtime.metrics import BATCH_SIZES, FEW_FORECASTS, SECONDS, Metrics

NOW = 1000.0
RECEIVED = st.lists(
    st.just(float("nan")) | st.sampled_from([NOW, NOW - 0.25, NOW - 60, NOW - 61, NOW + 1]) | st.floats(0, NOW),
    max_size=4 * FEW_FORECASTS,
)


def read_ages(metrics: Metrics) -> tuple[list[float], float]:
    """Return the counts by bucket, each with those of the buckets before it, and the sum of the ages."""
    (family,) = [each for each in metrics.collect() if each.name == "streamd_forecast_age_seconds"]
    values = {sample.name.rpartition("_")[2]: sample.value for sample in family.samples}
    return [sample.value for sample in family.samples if sample.name.endswith("_bucket")], values["sum"]


@given(RECEIVED)
def test_ages_of_many_forecasts_are_counted_as_those_of_each_alone(received: list[float]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streamd.runtime.metrics.time", SimpleNamespace(monotonic=lambda: NOW))
        metrics = Metrics()
        metrics.observe_sent(np.array(received))
    ages = [NOW - since for since in received if since == since]
    buckets, total = read_ages(metrics)
    assert buckets == [sum(age <= bound for age in ages) for bound in (*SECONDS, float("inf"))]
    assert total == pytest.approx(sum(ages))


@given(st.lists(st.integers(1, 600)))
def test_batches_are_counted_by_size_as_the_histogram_counts_them(sizes: list[int]) -> None:
    metrics = Metrics()
    for size in sizes:
        metrics.batch_done(size, 0.5, 0.01, BatchReason.ALL_WAITING)
    shown = metrics.describe_batches()
    assert sum(shown["by_size"].values()) == len(sizes)
    assert shown["by_size"].get("+Inf", 0) == sum(size > BATCH_SIZES[-1] for size in sizes)
    assert shown["by_size"].get("8", 0) == sum(4 < size <= 8 for size in sizes)
    assert shown["queue_delay_seconds"] == 0.5 * len(sizes)
