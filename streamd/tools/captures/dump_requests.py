"""Remote write requests of the samples of a dump, in the order of time.

They are of version 2.0, since its answers say how many samples were rejected, and why.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import cramjam
import numpy as np

from streamd.protocols.prometheus.messages import SymbolRequest, SymbolSeries
from streamd.protocols.prometheus.remote_write import RemoteWriteMessage
from streamd.tools.captures.dump_samples import DumpSamples, LabelPairs, SampleSlice
from streamd.tools.captures.requests import REMOTE_WRITE_HEADERS, CapturedRequest

MAX_REQUEST_SAMPLES = 10_000
"""Of one request, as vmagent has it."""

MAX_REQUEST_BYTES = 2**20
"""Of one request before it is compressed, but for the last series of it: an eighth of what the daemon takes."""

MAX_DUMP_SERIES_SAMPLES = 1_000
"""Of one series in a request: what is encoded stays far below the 256 KiB that the daemon takes."""

_SAMPLE_BYTES = 18


def make_dump_requests(samples: DumpSamples, name: str, step_seconds: int) -> Iterator[CapturedRequest]:
    """Yield the requests for all samples, each with the samples of one step only, or of a part of it.

    `name` is that of the dump for messages.
    """
    for part in samples.iterate_slices(step_seconds):
        start = int(part.times_ms.min())
        for body in encode_slice(part, samples.labels):
            yield CapturedRequest(
                name=f"{name}, samples from {_format_milliseconds(start)} on",
                path="/api/v1/write",
                body=bytes(cramjam.snappy.compress_raw(body)),
                headers=REMOTE_WRITE_HEADERS[RemoteWriteMessage.VERSION_2],
            )


def encode_slice(part: SampleSlice, labels: Sequence[LabelPairs]) -> Iterator[bytes]:
    """Yield messages of remote write 2.0 that have all samples of a slice."""
    writer = _RequestWriter()
    begins = np.flatnonzero(np.diff(part.series, prepend=np.int64(-1))).tolist()
    for begin, end in zip(begins, [*begins[1:], len(part.series)], strict=True):
        for first in range(begin, end, MAX_DUMP_SERIES_SAMPLES):
            place = slice(first, min(first + MAX_DUMP_SERIES_SAMPLES, end))
            times, values = part.times_ms[place].tolist(), part.values[place].tolist()
            writer.add_series(labels[int(part.series[begin])], times, values)
            if writer.samples >= MAX_REQUEST_SAMPLES or writer.size >= MAX_REQUEST_BYTES:
                yield writer.finish()
                writer = _RequestWriter()
    if writer.samples:
        yield writer.finish()


class _RequestWriter:
    """A request of remote write 2.0 that is being written."""

    def __init__(self) -> None:
        self.samples = 0
        self.size = 0
        """About the number of its bytes."""
        self._symbols: dict[bytes, int] = {b"": 0}  # the first symbol has to be empty
        self._series: list[bytes] = []

    def add_series(self, labels: LabelPairs, times_ms: Sequence[int], values: Sequence[float]) -> None:
        """Add samples of one series, oldest first."""
        message = SymbolSeries(labels_refs=[self._find_symbol(text) for pair in labels for text in pair])
        add = message.samples.add
        for time, value in zip(times_ms, values, strict=True):
            add(value=value, timestamp=time)
        self._series.append(message.SerializeToString())
        self.samples += len(times_ms)
        self.size += len(times_ms) * _SAMPLE_BYTES + 4 * len(labels)

    def _find_symbol(self, text: bytes) -> int:
        place = self._symbols.get(text)
        if place is None:
            place = self._symbols[text] = len(self._symbols)
            self.size += len(text) + 3
        return place

    def finish(self) -> bytes:
        """Return the message."""
        message: bytes = SymbolRequest(symbols=list(self._symbols), timeseries=self._series).SerializeToString()
        return message


def _format_milliseconds(time_ms: int) -> str:
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return f"{time_ms} ms"
