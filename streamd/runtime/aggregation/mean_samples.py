"""Takes plain samples of `/v1/samples` as points, if `[windows] aggregation` is "mean"."""

import time
from collections.abc import Callable, Sequence

from streamd.core.errors import StorageError, StreamdError, TooOldError
from streamd.core.mapping.samples import STATUS_FEATURE, make_sample_series
from streamd.core.state.directory import check_server_name
from streamd.core.state.samples import Sample
from streamd.runtime.aggregation.batch import PointBatch
from streamd.runtime.aggregation.collector import Collector
from streamd.runtime.ingest import Ingest

PROTOCOL = "samples"
"""The name under which plain samples are counted among the protocols."""


class MeanSamples:
    """Writes samples to a collector; the checks and errors are those of samples whose last value counts."""

    def __init__(self, collector: Collector, ingest: Ingest, wall: Callable[[], float] = time.time) -> None:
        self._collector = collector
        self._ingest = ingest
        self._wall = wall

    async def take_samples(self, samples: Sequence[tuple[int, Sample]]) -> list[tuple[int, StreamdError]]:
        """Store samples with their index in the body; returns the errors of those that were rejected.

        If nothing can be stored, every one is rejected with a `StorageError`.
        """
        batch = self._collector.start_batch(PROTOCOL)
        wall = self._wall()
        errors: list[tuple[int, StreamdError]] = []
        for index, sample in samples:
            try:
                self._add_sample(sample, wall, batch)
            except StreamdError as error:
                errors.append((index, error))
        try:
            await self._collector.commit(batch)
        except StorageError as error:
            rejected = {index for index, _ in errors}
            errors += [(index, error) for index, _ in samples if index not in rejected]
        return errors

    def _add_sample(self, sample: Sample, wall: float, batch: PointBatch) -> None:
        at = self._ingest.check_time(sample, wall)
        check_server_name(sample.server)
        self._ingest.rows.read_row(sample.values)  # refuses what float32 cannot hold
        oldest = self._collector.find_oldest_second(sample.server)
        if at < oldest:
            raise TooOldError(f"time {at:.0f} is too old: this server's rows up to {oldest:.0f} are final")
        for feature, value in sample.values.items():
            if value is not None and value == value:
                self._add_value(sample.server, feature, at, value, batch)
        if sample.status is not None:
            self._add_value(sample.server, STATUS_FEATURE, at, float(sample.status), batch)

    def _add_value(self, server: str, feature: str, at: float, value: float, batch: PointBatch) -> None:
        key = server, feature
        entry = batch.find(key) or batch.bind(key, make_sample_series(server, feature))
        batch.add(entry, at, value)
