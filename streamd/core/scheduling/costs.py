"""How many of the waiting windows the next micro-batch takes: decided by what batches cost, as measured.

A bucket is never padded where smaller ones are cheaper, and a batch never grows where batching does not pay.
"""

from bisect import bisect_left
from collections.abc import Mapping

BATCH_OVERHEAD_SECONDS = 1e-3
"""What a batch costs beside its lane, whatever its size: the hand-over both ways and the loop's own work.

It keeps batches from being needlessly small. About 1 ms is what the throughput of a whole daemon on two busy cores
gives at batches of 8 and of 16.
"""


class CostTable:
    """Seconds a lane takes for a batch of each bucket, measured while every lane was busy.

    `pads` is true where an engine runs a bucket's full size whatever the batch holds (static shapes); where it
    is false, a batch costs what lies between the buckets around it.
    """

    def __init__(
        self,
        seconds: Mapping[int, float],
        *,
        pads: bool,
        max_batch: int | None = None,
        overhead_seconds: float = BATCH_OVERHEAD_SECONDS,
    ) -> None:
        limit = max_batch if max_batch is not None else max(seconds, default=0)
        self.buckets = sorted(bucket for bucket in seconds if bucket <= limit) or sorted(seconds)[:1]
        if not self.buckets or self.buckets[0] < 1:
            raise ValueError(f"buckets are {sorted(seconds)}, expected at least one, none under 1")
        self.seconds = {bucket: seconds[bucket] for bucket in self.buckets}
        self.pads = pads
        self.overhead_seconds = overhead_seconds
        self.max_batch = self.buckets[-1] if max_batch is None else min(limit, self.buckets[-1])
        self._cover = self._cheapest_covers()

    def estimate_seconds(self, count: int) -> float:
        """Seconds for one batch of `count` windows; beyond the largest bucket as many times that one's.

        A larger one can come from another backend that was lost.
        """
        place = bisect_left(self.buckets, count)
        if place == len(self.buckets):
            return self.seconds[self.buckets[-1]] * count / self.buckets[-1]
        upper = self.buckets[place]
        if self.pads or place == 0 or upper == count:
            # Under the smallest bucket nothing was measured: it costs that bucket's share, padded or not.
            return self.seconds[upper] * (1 if self.pads else count / upper)
        lower = self.buckets[place - 1]
        share = (count - lower) / (upper - lower)
        return self.seconds[lower] + share * (self.seconds[upper] - self.seconds[lower])

    def _cheapest_covers(self) -> list[tuple[float, int, int]]:
        """For each number of windows: (seconds, batches, first batch's size) of the cheapest split on one lane."""
        covers: list[tuple[float, int, int]] = [(0.0, 0, 0)]
        for count in range(1, self.buckets[-1] + 1):
            most = min(count, self.max_batch)
            sizes = {bucket for bucket in self.buckets if bucket < most} | {most}
            options = []
            for size in sizes:
                rest, batches, _ = covers[count - size]
                options.append((self.estimate_seconds(size) + self.overhead_seconds + rest, batches + 1, size))
            covers.append(min(options, key=lambda option: (option[0], -option[2])))
        return covers

    def choose_batch_size(self, waiting: int, idle_lanes: int) -> int:
        """Return how many of `waiting` windows the next batch takes, with `idle_lanes` free to share them.

        Takes the size for which the last of the waiting windows is done soonest: the work spread over the idle
        lanes, and the loop's overhead for each batch.
        """
        if waiting < 1 or idle_lanes < 1:
            return 0
        waiting = min(waiting, self.buckets[-1] * idle_lanes)
        if idle_lanes == 1:
            return self._cover[waiting][2]
        best, best_size = float("inf"), 1
        for size in self._sizes(waiting, idle_lanes):
            full, rest = divmod(waiting, size)
            rest_seconds, rest_batches, _ = self._cover[rest]
            batches = full + rest_batches
            work = full * self.estimate_seconds(size) + rest_seconds - rest_batches * self.overhead_seconds
            seconds = (
                max(work / min(idle_lanes, batches), self.estimate_seconds(size)) + batches * self.overhead_seconds
            )
            if seconds < best:
                best, best_size = seconds, size
        return best_size

    def _sizes(self, waiting: int, idle_lanes: int) -> list[int]:
        sizes = {size for size in self.buckets if size <= waiting}
        share = -(-waiting // idle_lanes)
        sizes.add(min(waiting, self.max_batch))
        if not self.pads:
            sizes.add(min(share, self.max_batch))
        allowed = [size for size in sizes if size <= self.max_batch]
        return sorted(allowed, reverse=True)  # of equal ones, the larger: fewer batches
