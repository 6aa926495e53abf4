"""Takes plain samples of `/v1/samples` as points, if `[windows] aggregation` is "mean"."""

import time
from collections.abc import Callable, Sequence

from streamd.core.access.caller import Caller
from streamd.core.errors import StreamdError, TooBusyError, TooOldError, UnavailableError
from streamd.core.mapping.samples import STATUS_FEATURE, make_sample_series
from streamd.core.state.directory import check_server_name
from streamd.core.state.samples import Sample
from streamd.runtime.aggregation.batch import PointBatch, RefusedEntry
from streamd.runtime.aggregation.point_intake import PointIntake
from streamd.runtime.aggregation.series_table import TOO_MANY_SERIES, IgnoredEntry, TableEntry
from streamd.runtime.ingest import Ingest

PROTOCOL = "samples"
"""The name under which plain samples are counted among the protocols."""


class MeanSamples:
    """Writes samples to a collector, with the same checks and errors as samples whose last value counts."""

    def __init__(self, collector: PointIntake, ingest: Ingest, wall: Callable[[], float] = time.time) -> None:
        self._collector = collector
        self._ingest = ingest
        self._wall = wall

    async def take_samples(
        self, samples: Sequence[tuple[int, Sample]], caller: Caller
    ) -> list[tuple[int, StreamdError]]:
        """Store samples, each with its index in the body; returns the errors of rejected samples by index.

        If nothing can be stored, every sample is rejected with a `StorageError`, and with a `TooBusyError` while too
        many points are kept.
        """
        try:
            self._collector.check_space()
        except UnavailableError as error:
            return [(index, error) for index, _ in samples]
        batch = self._collector.start_batch(PROTOCOL, caller)
        wall = self._wall()
        errors: list[tuple[int, StreamdError]] = []
        for index, sample in samples:
            try:
                self._add_sample(sample, wall, batch)
            except StreamdError as error:
                errors.append((index, error))
        try:
            await self._collector.commit(batch)
        except UnavailableError as error:
            rejected = {index for index, _ in errors}
            errors += [(index, error) for index, _ in samples if index not in rejected]
        errors += _list_refused(samples, errors, batch)
        if batch.writer is not None:
            for server in {sample.server for _, sample in samples}:
                batch.writer.drop_unless_admitted(server)
        return errors

    def _add_sample(self, sample: Sample, wall: float, batch: PointBatch) -> None:
        if batch.writer is not None:  # first: no other error may reveal anything about a server of others
            batch.writer.add_server(sample.server)
        at = self._ingest.check_time(sample, wall)
        check_server_name(sample.server)
        self._ingest.rows.read_row(sample.values)  # refuses what is no value
        oldest = self._collector.find_oldest_second(sample.server)
        if at < oldest:
            raise TooOldError(f"time {at:.0f} is too old: this server's rows up to {oldest:.0f} are final")
        values = {feature: value for feature, value in sample.values.items() if value is not None and value == value}
        if sample.status is not None:
            values[STATUS_FEATURE] = float(sample.status)
        # All series first, so that a sample is taken as a whole or not at all.
        points = [(_find_entry(sample.server, feature, batch), value) for feature, value in values.items()]
        for entry, value in points:
            batch.add(entry, at, value)


def _list_refused(
    samples: Sequence[tuple[int, Sample]], errors: Sequence[tuple[int, StreamdError]], batch: PointBatch
) -> list[tuple[int, StreamdError]]:
    """Return the errors of samples whose server got no slot, without those that have another error."""
    rejected = {index for index, _ in errors}
    refusals = ((index, batch.get_refusal(sample.server)) for index, sample in samples if index not in rejected)
    return [(index, error) for index, error in refusals if error is not None]


def _find_entry(server: str, feature: str, batch: PointBatch) -> TableEntry:
    """Return the entry of a series, bound if it is new; raises `TooBusyError` if there are too many series."""
    key = server, feature
    entry = batch.find(key) or batch.bind(key, make_sample_series(server, feature))
    if isinstance(entry, RefusedEntry):
        raise entry.error
    if isinstance(entry, IgnoredEntry) and entry.reason == TOO_MANY_SERIES:
        raise TooBusyError("there are as many series as max_series, and this sample needs a new one")
    return entry
