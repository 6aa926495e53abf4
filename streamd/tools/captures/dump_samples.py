"""The samples of dumps, which are sorted by series, brought into the order of time, with bounded memory.

Samples are collected into runs that are sorted by time and kept in temporary files, 20 bytes a sample; the runs are
merged while they are read. In memory are the labels of all series, one run or slice, and nothing else.
"""

import os
import tempfile
from array import array
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from streamd.core.errors import StreamdError
from streamd.core.mapping.series import SourceSeries
from streamd.protocols.prometheus.labels import METRIC_NAME
from streamd.tools.captures.errors import CaptureError

RUN_SAMPLES = 2_000_000
"""Samples of one run, which is sorted in memory."""

MAX_SLICE_SAMPLES = 1_000_000
"""Samples of one slice, unless more have the same millisecond."""

MAX_LISTED_FAULTS = 5
"""Lines that cannot be read and are kept with their reason; all are counted."""

LabelPairs = tuple[tuple[bytes, bytes], ...]
"""Names and values of labels, sorted; one is the name of the metric."""


@dataclass(frozen=True)
class SampleSlice:
    """Samples of a stretch of time, sorted by series and then by time."""

    series: NDArray[np.uint32]
    times_ms: NDArray[np.int64]
    values: NDArray[np.float64]

    def count_repeated(self) -> int:
        """Return the number of samples that have the series and the time of another one."""
        is_same = (self.series[1:] == self.series[:-1]) & (self.times_ms[1:] == self.times_ms[:-1])
        return int(is_same.sum())


@dataclass(frozen=True)
class _Run:
    """Samples in the order of time; the arrays are views of files."""

    times_ms: NDArray[np.int64]
    values: NDArray[np.float64]
    series: NDArray[np.uint32]


class DumpSamples:
    """A `PointSink` for the points of dumps, which gives them back in the order of time.

    `close` removes the temporary files; they are in `folder`, or in the usual place for such files. Raises
    `CaptureError` if they have no space.
    """

    def __init__(self, folder: Path | None = None, run_samples: int = RUN_SAMPLES) -> None:
        self.labels: list[LabelPairs] = []
        """The labels of each series, by its number."""
        self.samples = 0
        self.faults = 0
        """Lines that cannot be read."""
        self.listed_faults: list[StreamdError] = []
        self.skipped: Counter[str] = Counter()
        self.repeated = 0
        """Samples with the series and the time of another one, of the slices that were read so far."""
        self.first_ms = self.last_ms = 0
        """The oldest and the newest time; 0 without any sample."""
        self._entries: dict[Hashable, int] = {}
        self._run_samples = run_samples
        self._times, self._values, self._series = array("q"), array("d"), array("I")
        self._runs: list[_Run] = []
        self._files = ExitStack()
        try:
            files = (tempfile.TemporaryFile(dir=folder) for _ in range(3))  # noqa: SIM115 - `close` does
            self._columns = [self._files.enter_context(file) for file in files]
        except OSError as exc:
            raise _make_space_error(exc) from exc

    def close(self) -> None:
        """Remove the temporary files; a second call does nothing."""
        self._runs.clear()
        self._files.close()

    # ------------------------------------------------------------ what the reader of dumps calls
    def wants(self, name: str) -> bool:
        """Whether series of this metric are kept: all are, since only the daemon knows its rules."""
        return True

    def ignore(self, count: int = 1) -> None:
        """Do nothing: every metric is wanted."""

    def find(self, key: Hashable) -> int | None:
        """Return the number of a series, or `None`."""
        return self._entries.get(key)

    def bind(self, key: Hashable, series: SourceSeries) -> int:
        """Number a new series."""
        pairs = sorted([(METRIC_NAME, series.name), *series.labels.items()])
        self.labels.append(tuple((name.encode(), value.encode()) for name, value in pairs))
        self._entries[key] = len(self.labels) - 1
        return len(self.labels) - 1

    def add(self, entry: int, time: float, value: float) -> None:
        """Add a point."""
        self._times.append(round(time * 1000))
        self._values.append(value)
        self._series.append(entry)
        if len(self._times) >= self._run_samples:
            self._finish_run()

    def add_point(self, series: SourceSeries, time: float, value: float) -> None:
        """Add a point of a series whose key is its name and labels."""
        key = (series.name, *sorted(series.labels.items()))
        entry = self.find(key)
        self.add(self.bind(key, series) if entry is None else entry, time, value)

    def reject(self, error: StreamdError, count: int = 1, entry: int | None = None) -> None:
        """Count a line that cannot be read."""
        self.faults += count
        if len(self.listed_faults) < MAX_LISTED_FAULTS:
            self.listed_faults.append(error)

    def skip(self, reason: str, count: int = 1) -> None:
        """Count a value that is no measurement."""
        self.skipped[reason] += count

    # ------------------------------------------------------------ runs
    def _finish_run(self) -> None:
        times = np.frombuffer(self._times, np.int64)
        order = np.argsort(times, kind="stable")
        columns: Sequence[NDArray[Any]] = (
            times[order],
            np.frombuffer(self._values, np.float64)[order],
            np.frombuffer(self._series, np.uint32)[order],
        )
        begin, end = int(columns[0][0]), int(columns[0][-1])
        self.first_ms = min(self.first_ms, begin) if self.samples else begin
        self.last_ms = max(self.last_ms, end) if self.samples else end
        self.samples += len(order)
        self._runs.append(_Run(*map(_store_column, self._columns, columns)))
        self._times, self._values, self._series = array("q"), array("d"), array("I")

    # ------------------------------------------------------------ in the order of time
    def finish(self) -> None:
        """Note that all points were added."""
        if self._times:
            self._finish_run()

    def iterate_slices(self, step_seconds: int) -> Iterator[SampleSlice]:
        """Yield the samples in the order of time, after `finish`. No slice has samples of two steps."""
        places = [0] * len(self._runs)
        while starts := [
            int(run.times_ms[place]) for run, place in zip(self._runs, places, strict=True) if place < len(run.times_ms)
        ]:
            start = min(starts)
            end = (start // (step_seconds * 1000) + 1) * step_seconds * 1000
            stops = self._find_places(end)
            while sum(stops) - sum(places) > MAX_SLICE_SAMPLES and end - start > 1:
                end = start + (end - start) // 2
                stops = self._find_places(end)
            part = self._merge(places, stops)
            self.repeated += part.count_repeated()
            yield part
            places = stops

    def _find_places(self, time_ms: int) -> list[int]:
        return [int(np.searchsorted(run.times_ms, time_ms)) for run in self._runs]

    def _merge(self, begins: Sequence[int], ends: Sequence[int]) -> SampleSlice:
        parts = [(run, slice(b, e)) for run, b, e in zip(self._runs, begins, ends, strict=True) if b < e]
        times = np.concatenate([run.times_ms[part] for run, part in parts])
        series = np.concatenate([run.series[part] for run, part in parts])
        order = np.lexsort((times, series))  # stable: of samples with the same time, the later line stays the last
        values = np.concatenate([run.values[part] for run, part in parts])
        return SampleSlice(series[order], times[order], values[order])


def _store_column(file: IO[bytes], column: NDArray[Any]) -> NDArray[Any]:
    """Append a column to its file, and return a view of it there."""
    try:
        begin = file.seek(0, os.SEEK_END)
        file.write(column.tobytes())
        file.flush()
        return np.memmap(file, column.dtype, "r", begin, column.shape)
    except OSError as exc:
        raise _make_space_error(exc) from exc


def _make_space_error(exc: OSError) -> CaptureError:
    folder = tempfile.gettempdir()
    return CaptureError(f"the samples of a dump cannot be kept in {folder}: {exc.strerror or exc}; set TMPDIR")
