"""Computes what happened between two samples of a daemon: rates of counters, and quantiles of histograms."""

import math
from collections.abc import Sequence

from streamd.tools.top.reader import DaemonSample


class SampleChange:
    """The change from one sample to a later one; all rates are `None` if the daemon was restarted in between."""

    def __init__(self, before: DaemonSample | None, now: DaemonSample) -> None:
        self.now = now
        self._before = before if before is not None and _is_same_process(before, now) else None
        self.is_restarted = before is not None and self._before is None
        self._seconds = 0.0 if before is None else now.taken_at - before.taken_at

    def get_rate(self, name: str, **labels: str) -> float | None:
        """Return the increase of a counter in a second; without labels, summed over all of its series."""
        if self._before is None or self._seconds <= 0.0:
            return None
        if labels:
            return ((self.now.get(name, **labels) or 0.0) - (self._before.get(name, **labels) or 0.0)) / self._seconds
        return (self.now.sum(name) - self._before.sum(name)) / self._seconds

    def get_share(self, seconds_now: float, seconds_before: float) -> float | None:
        """Return the share of the time between the samples that a number of seconds rose by."""
        if self._before is None or self._seconds <= 0.0:
            return None
        return min(max((seconds_now - seconds_before) / self._seconds, 0.0), 1.0)

    def estimate_quantiles(self, histogram: str, quantiles: Sequence[float]) -> list[float | None]:
        """Estimate quantiles of the observations since the former sample, or since the start without one."""
        counts = _read_buckets(self.now, histogram)
        if self._before is not None:
            earlier = _read_buckets(self._before, histogram)
            counts = {bound: count - earlier.get(bound, 0.0) for bound, count in counts.items()}
        return [estimate_quantile(sorted(counts.items()), quantile) for quantile in quantiles]


def estimate_quantile(buckets: Sequence[tuple[float, float]], quantile: float) -> float | None:
    """Estimate a quantile from cumulative buckets `(upper bound, count)`, linear inside of one as Prometheus does.

    Returns `None` without observations, and the highest finite bound if the quantile lies above it.
    """
    if not buckets or buckets[-1][1] <= 0.0:
        return None
    rank = quantile * buckets[-1][1]
    lower_bound, lower_count = 0.0, 0.0
    for bound, count in buckets:
        if count >= rank and count > lower_count:
            if math.isinf(bound):
                return lower_bound
            return lower_bound + (bound - lower_bound) * (rank - lower_count) / (count - lower_count)
        lower_bound, lower_count = bound, count
    return lower_bound


def _is_same_process(before: DaemonSample, now: DaemonSample) -> bool:
    """Whether the uptime rose; a daemon that was restarted counts from zero again."""
    name = "streamd_uptime_seconds"
    return (now.get(name) or 0.0) >= (before.get(name) or 0.0)


def _read_buckets(sample: DaemonSample, histogram: str) -> dict[float, float]:
    return {float(bound): count for bound, count in sample.list_by_label(f"{histogram}_bucket", "le").items()}
