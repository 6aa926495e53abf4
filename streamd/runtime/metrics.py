"""The metrics of one daemon in the Prometheus exposition format.

Values that change on hot paths are read from their owners when `/metrics` is requested; nothing here waits.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from itertools import accumulate
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from streamd.core.arrays import Float64
from streamd.core.scheduling.batch_reasons import BatchCounts, BatchReason

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

FEW_FORECASTS = 8
"""Up to so many forecasts are observed one by one: operations on arrays would take longer."""

_BOUNDS = np.array(SECONDS)

Reading = tuple[str, str, Callable[[], float]]
"""Name, text, and the function that reads the value."""
LabelledReading = tuple[str, str, str, Callable[[], dict[str, int]]]
"""Name, text, label, and the function that reads the counts by the label's value."""


class Metrics(Collector):
    """The metrics of a daemon, in a registry of its own, so that several daemons fit into one process (tests)."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._gauges: list[Reading] = []
        self._counters: list[Reading] = []
        self._labelled: list[LabelledReading] = []
        self._families: list[Callable[[], Iterable[Metric]]] = []
        self.batch_size = self._histogram("batch_size", "Windows in a micro-batch", BATCH_SIZES)
        self.queue_delay = self._histogram(
            "queue_delay_seconds", "How long the longest waiting window of a micro-batch waited", SECONDS
        )
        self.inference = self._histogram("inference_seconds", "What a lane took for a micro-batch", SECONDS)
        self.batches = BatchCounts()
        # Forecasts by bucket: a histogram of the library costs too much for each.
        self._ages = np.zeros(len(SECONDS) + 1, np.int64)
        self._age_sum = 0.0

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"streamd_{name}", text, buckets=buckets, registry=self._registry)

    def batch_done(
        self, windows: int, queue_delay_seconds: float, inference_seconds: float, reason: BatchReason
    ) -> None:
        """Observe a batch that ended, and the reason for its size."""
        self.batches.add(reason, windows, queue_delay_seconds)
        self.batch_size.observe(windows)
        self.queue_delay.observe(queue_delay_seconds)
        self.inference.observe(inference_seconds)

    def describe_batches(self) -> dict[str, Any]:
        """Return the entry `batches` of `/v1/status`: since start, by reason and by size."""
        return {
            "by_reason": {str(reason): asdict(counts) for reason, counts in self.batches if counts.batches},
            "by_size": self._count_batches_by_size(),
            "queue_delay_seconds": sum(counts.queue_delay_seconds for _, counts in self.batches),
        }

    def _count_batches_by_size(self) -> dict[str, int]:
        """Return the batches by the upper bound of their size; bounds without batches are left out."""
        (family,) = self.batch_size.collect()
        buckets = [each for each in family.samples if each.name.endswith("_bucket")]
        counts = np.diff([each.value for each in buckets], prepend=0.0).astype(int).tolist()
        bounds = [each.labels["le"].removesuffix(".0") for each in buckets]
        return {bound: count for bound, count in zip(bounds, counts, strict=True) if count}

    def observe_sent(self, received: Float64) -> None:
        """Observe forecasts that were sent; `received (n,)` is when the sample of each arrived (monotonic seconds).

        NaN for a forecast whose sample is not known; it is not counted.
        """
        ages = time.monotonic() - received
        if len(ages) <= FEW_FORECASTS:
            for age in ages.tolist():
                if age == age:
                    self._ages[bisect_left(SECONDS, age)] += 1
                    self._age_sum += age
            return
        ages = ages[~np.isnan(ages)]
        self._ages += np.bincount(np.searchsorted(_BOUNDS, ages), minlength=len(self._ages))
        self._age_sum += float(ages.sum())

    def add_gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Add a value that rises and falls."""
        self._gauges.append((f"streamd_{name}", text, read))

    def add_counter(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Add a value that only rises."""
        self._counters.append((f"streamd_{name}", text, read))

    def add_labelled_counter(self, name: str, text: str, label: str, read: Callable[[], dict[str, int]]) -> None:
        """Add counters by one label."""
        self._labelled.append((f"streamd_{name}", text, label, read))

    def add_families(self, read: Callable[[], Iterable[Metric]]) -> None:
        """Add whole families, with any labels, which `read` makes for each request of `/metrics`."""
        self._families.append(read)

    def collect(self) -> Iterator[Metric]:
        """Read the owners' values."""
        for name, text, read in self._gauges:
            yield GaugeMetricFamily(name, text, value=read())
        for name, text, read in self._counters:
            yield CounterMetricFamily(name, text, value=read())
        for name, text, label, read_all in self._labelled:
            family = CounterMetricFamily(name, text, labels=[label])
            for value, count in sorted(read_all().items()):
                family.add_metric([value], count)
            yield family
        for families in self._families:
            yield from families()
        yield self._age_family()

    def _age_family(self) -> Metric:
        bounds = [*map(str, map(float, SECONDS)), "+Inf"]
        family = HistogramMetricFamily(
            "streamd_forecast_age_seconds", "From sample received to forecast handed to a subscriber's socket"
        )
        buckets = [(bound, float(count)) for bound, count in zip(bounds, accumulate(self._ages.tolist()), strict=True)]
        family.add_metric([], buckets, self._age_sum)
        return family

    def render(self) -> bytes:
        """Return all metrics in the Prometheus exposition format."""
        return generate_latest(self._registry)
