"""The size of the next micro-batch, chosen by the measured seconds of batches. Knows neither lanes nor queues.

A bucket is not padded if smaller buckets are cheaper, and a batch does not grow if a larger one saves no time.
"""

from bisect import bisect_left
from collections.abc import Mapping

from streamd.core.scheduling.batch_reasons import BatchReason

BATCH_OVERHEAD_SECONDS = 1e-3
"""The time of a batch outside its lane, whatever its size: the way to the thread and back, and the event loop's work.

It keeps batches from being needlessly small. 1 ms is measured: the throughput of a whole daemon on two busy cores, at
batches of 8 and of 16, gives about this value.
"""


class CostTable:
    """The seconds that a lane takes for a batch of each bucket, measured while every lane was busy.

    `pads` is true if the engine always runs the full size of a bucket (static shapes). If it is false, the seconds of a
    batch lie between those of the next smaller and the next larger bucket.
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
            raise ValueError(f"buckets are {sorted(seconds)}, expected at least one bucket, and no bucket below 1")
        self.seconds = {bucket: seconds[bucket] for bucket in self.buckets}
        self.pads = pads
        self.overhead_seconds = overhead_seconds
        self.max_batch = self.buckets[-1] if max_batch is None else min(limit, self.buckets[-1])
        self._splits = self._find_cheapest_splits()
        self._sizes: dict[tuple[int, int], int] = {}  # by waiting windows and idle lanes: what was chosen before

    def estimate_seconds(self, count: int) -> float:
        """Return the seconds for one batch of `count` windows.

        A batch larger than every bucket can come from another backend that was lost; its seconds are extrapolated.
        """
        place = bisect_left(self.buckets, count)
        if place == len(self.buckets):
            return self.seconds[self.buckets[-1]] * count / self.buckets[-1]
        upper = self.buckets[place]
        if self.pads or place == 0 or upper == count:
            # Exactly a bucket, padded to one, or below the smallest one: there nothing was measured, so a share of the
            # smallest bucket stands for it.
            return self.seconds[upper] * (1 if self.pads else count / upper)
        lower = self.buckets[place - 1]
        share = (count - lower) / (upper - lower)
        return self.seconds[lower] + share * (self.seconds[upper] - self.seconds[lower])

    def _find_cheapest_splits(self) -> list[tuple[float, int, int]]:
        """Return (seconds, batches, size of the first batch) of the cheapest split of each number of windows.

        The split is for one lane, and its seconds include the overhead of each batch. Element `n` of the list is for
        `n` windows. It is the best first batch, followed by the cheapest split of the rest, which is already known
        (dynamic programming). The first batch is a bucket, or as large as possible; other sizes are not tried.
        """
        splits: list[tuple[float, int, int]] = [(0.0, 0, 0)]
        for count in range(1, self.buckets[-1] + 1):
            most = min(count, self.max_batch)
            sizes = {bucket for bucket in self.buckets if bucket < most} | {most}
            options = []
            for size in sizes:
                rest, batches, _ = splits[count - size]
                options.append((self.estimate_seconds(size) + self.overhead_seconds + rest, batches + 1, size))
            splits.append(min(options, key=lambda option: (option[0], -option[2])))  # of equal ones, the larger batch
        return splits

    def choose_batch_size(self, waiting: int, idle_lanes: int) -> int:
        """Return the size of the next batch, with `waiting` windows for `idle_lanes`; 0 if there is nothing to do.

        It is the size with which the last of the waiting windows is finished first.
        1. One idle lane: the first batch of the cheapest split.
        2. Several idle lanes: for each possible size, as many full batches of it as there are, and the cheapest split
           of the rest. The lanes work in parallel, so all is finished after the sum of the batches' seconds divided by
           the number of lanes that work, but not before one full batch is. The overhead is the event loop's, which
           does one batch at a time: it is added for every batch, and not divided by the lanes.
        """
        if waiting < 1 or idle_lanes < 1:
            return 0
        waiting = min(waiting, self.buckets[-1] * idle_lanes)
        if idle_lanes == 1:
            return self._splits[waiting][2]
        known = self._sizes.get((waiting, idle_lanes))
        if known is None:
            known = self._sizes[waiting, idle_lanes] = self._find_quickest_size(waiting, idle_lanes)
        return known

    def explain_batch_size(self, size: int, waiting: int, idle_lanes: int) -> BatchReason:
        """Return why `choose_batch_size` chose this size with so many windows waiting for so many idle lanes."""
        if size >= waiting:
            return BatchReason.ALL_WAITING
        if size >= self.max_batch:
            return BatchReason.LARGEST_BATCH
        if idle_lanes > 1 and size < self._splits[min(waiting, self.buckets[-1])][2]:
            return BatchReason.SHARED_BY_LANES  # one lane alone would get a larger batch
        return BatchReason.CHEAPER_SPLIT

    def _find_quickest_size(self, waiting: int, idle_lanes: int) -> int:
        """Return the size of the next batch for several idle lanes, by comparing all."""
        best, best_size = float("inf"), 1
        for size in self._list_sizes(waiting, idle_lanes):
            full, rest = divmod(waiting, size)
            rest_seconds, rest_batches, _ = self._splits[rest]  # with its overhead, which is subtracted below
            batches = full + rest_batches
            work = full * self.estimate_seconds(size) + rest_seconds - rest_batches * self.overhead_seconds
            lane_seconds = max(work / min(idle_lanes, batches), self.estimate_seconds(size))
            seconds = lane_seconds + batches * self.overhead_seconds
            if seconds < best:
                best, best_size = seconds, size
        return best_size

    def _list_sizes(self, waiting: int, idle_lanes: int) -> list[int]:
        """Return the sizes to compare, the largest first: of equally quick sizes the first is chosen."""
        sizes = {size for size in self.buckets if size <= waiting}
        share = -(-waiting // idle_lanes)
        sizes.add(min(waiting, self.max_batch))
        if not self.pads:
            sizes.add(min(share, self.max_batch))
        allowed = [size for size in sizes if size <= self.max_batch]
        return sorted(allowed, reverse=True)
