"""Decodes the bodies of Prometheus remote write 1.0 and 2.0 (decompressed protobuf) into points.

If a series is not valid, only its own samples are rejected. Native histograms, exemplars, metadata and created
timestamps are accepted and not used.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from enum import Enum
from math import isnan
from struct import Struct
from typing import Any

from google.protobuf.message import DecodeError

from streamd.core.errors import (
    InvalidSampleError,
    InvalidValueError,
    MalformedError,
    TooLargeError,
    UnsupportedMediaTypeError,
)
from streamd.core.mapping.series import PointSink, SeriesEntry
from streamd.core.values import EXPECTED_VALUE, LEAST_REFUSED
from streamd.protocols.otlp.wire import walk_fields
from streamd.protocols.prometheus.labels import MAX_LABEL_BYTES, MAX_SERIES_LABELS, build_series, check_label_count
from streamd.protocols.prometheus.messages import (
    SymbolRequest,
    SymbolSeries,
    SymbolSeriesUnusedParts,
    TimeSeries,
    TimeSeriesLabel,
    TimeSeriesSample,
    TimeSeriesUnusedParts,
    WriteRequest,
)

SLICE_SERIES = 1_000
"""The number of series or samples after which a decoder gives the event loop its turn."""

MAX_SERIES_BYTES = 2**18
"""The largest size of one encoded series. It holds 14,000 samples, or 131,000 empty ones, which take a hundred times
their size when they are decoded."""

MAX_BODY_SERIES = 250_000
"""The largest number of series in one body, and of symbols. Senders put up to 10,000 samples into a body. Without a
limit, a body of 0.4 MB, which snappy decodes to 8 MiB of empty series, would take 12 s."""

MAX_SAMPLES_OF_SERIES = 20_000
"""The largest number of samples of one series in a body; to list so many takes 15 ms."""

MAX_BODY_SAMPLES = 500_000
"""The largest number of samples in one body. A point takes 130 bytes until it is stored, and an empty sample two."""

_COUNTED_BYTES = 3 * 2**20
"""The size from which on the fields of a body are counted before it is parsed: 8 MiB of empty ones take 0.2 s."""

_COUNTED_FIELDS = 10_000
"""The fields that are counted in one turn of the event loop."""

_STALE_MARKER = 0x7FF0000000000002
"""The bits of the NaN that ends a series; any other NaN is a missing value."""

_DOUBLE, _BITS = Struct("<d"), Struct("<Q")


_NAME_HEAD = b"\n\x08__name__\x12"
"""The label `__name__` as protobuf encodes it, up to the size of its value. In most series it is the first label."""


class RemoteWriteMessage(Enum):
    """The message of a body; the value is its full name, as in the parameter `proto` of a Content-Type."""

    VERSION_1 = "prometheus.WriteRequest"
    VERSION_2 = "io.prometheus.write.v2.Request"


@dataclass
class RemoteWriteCounts:
    """The numbers of the parts of a body, whether they are taken or not."""

    samples: int = 0
    histograms: int = 0
    exemplars: int = 0


def choose_remote_write_message(content_type: str) -> RemoteWriteMessage:
    """Return the message that a Content-Type names; without one it is that of 1.0, as without `proto`.

    Raises `UnsupportedMediaTypeError` for any other type or message.
    """
    media_type, *parameters = (part.strip() for part in content_type.split(";"))
    named = dict(parameter.lower().partition("=")[::2] for parameter in parameters)
    proto = named.get("proto", "").strip('"')
    if media_type.lower() in ("application/x-protobuf", ""):
        for message in RemoteWriteMessage:
            if proto in (message.value.lower(), ""):
                return message
    raise UnsupportedMediaTypeError(
        f"Content-Type is {content_type[:200]!r}, expected application/x-protobuf, with proto= one of "
        + ", ".join(message.value for message in RemoteWriteMessage)
    )


def decode_remote_write(
    body: bytes,
    sink: PointSink[SeriesEntry],
    message: RemoteWriteMessage = RemoteWriteMessage.VERSION_1,
    counts: RemoteWriteCounts | None = None,
) -> Iterator[None]:
    """Write the points of a body to a sink, and count what it contains. Yields after each `SLICE_SERIES`.

    Samples that the sink rejects are in `counts` too. Raises `MalformedError` if the body is
    not this message, and `TooLargeError` if it has too many series or symbols.
    """
    counts = RemoteWriteCounts() if counts is None else counts
    if len(body) > _COUNTED_BYTES:
        yield from _count_fields(body)
    begin = _begin_version_1 if message is RemoteWriteMessage.VERSION_1 else _begin_version_2
    encoded, take = begin(body, sink, counts)
    done = 0
    for index, series in enumerate(encoded):
        before = counts.samples
        try:
            if len(series) > MAX_SERIES_BYTES:
                raise InvalidSampleError(f"has {len(series)} bytes, at most {MAX_SERIES_BYTES} are taken")
            take(index, series)
        except (DecodeError, InvalidSampleError) as exc:
            counts.samples = max(counts.samples, before + 1)
            text = "is not valid protobuf" if isinstance(exc, DecodeError) else exc
            sink.reject(InvalidSampleError(f"timeseries[{index}]: {text}"), counts.samples - before)
        done += (counts.samples - before or 1) + (len(series) >> 8)
        if done >= SLICE_SERIES:
            done = 0
            if counts.samples > MAX_BODY_SAMPLES:
                raise TooLargeError(f"the body has over {MAX_BODY_SAMPLES} samples")
            yield


def _count_fields(body: bytes) -> Iterator[None]:
    """Raise `TooLargeError` if a body has more fields than its limits allow."""
    limit = 2 * MAX_BODY_SERIES
    for count, _ in enumerate(walk_fields(body, 0, len(body)), 1):
        if count > limit:
            raise TooLargeError(f"the body has over {limit} series, symbols and other fields")
        if count % _COUNTED_FIELDS == 0:
            yield


_Take = Callable[[int, bytes], None]
"""Takes one encoded series; raises `InvalidSampleError` or `DecodeError` if it has to be rejected."""


def _begin_version_1(
    body: bytes, sink: PointSink[SeriesEntry], counts: RemoteWriteCounts
) -> tuple[Iterable[bytes], _Take]:
    request = _parse(WriteRequest, RemoteWriteMessage.VERSION_1, body)
    if body and not request.timeseries and not request.metadata:
        raise _make_wrong_message_error(RemoteWriteMessage.VERSION_1, body)
    _check_number("series", request.timeseries)
    if request.metadata:
        sink.skip("metadata", len(request.metadata))
    return request.timeseries, _Version1Series(sink, counts).take


def _begin_version_2(
    body: bytes, sink: PointSink[SeriesEntry], counts: RemoteWriteCounts
) -> tuple[Iterable[bytes], _Take]:
    request = _parse(SymbolRequest, RemoteWriteMessage.VERSION_2, body)
    if body and not request.timeseries and not request.symbols:
        raise _make_wrong_message_error(RemoteWriteMessage.VERSION_2, body)
    _check_number("series", request.timeseries)
    _check_number("symbols", request.symbols)
    return request.timeseries, _Version2Series(sink, counts, list(request.symbols)).take


def _parse(type_: Any, message: RemoteWriteMessage, body: bytes) -> Any:
    try:
        return type_.FromString(body)
    except DecodeError as exc:
        raise MalformedError(f"the body is not protobuf of {message.value}, or is cut off") from exc


def _check_number(what: str, items: Sized) -> None:
    if len(items) > MAX_BODY_SERIES:
        raise TooLargeError(f"the body has {len(items)} {what}, at most {MAX_BODY_SERIES} are taken")


def _make_wrong_message_error(message: RemoteWriteMessage, body: bytes) -> MalformedError:
    return MalformedError(
        f"the body has {len(body)} bytes, but no field of {message.value}; "
        "the proto= of the Content-Type must be the message that is sent"
    )


class _SampleTaker:
    """The common base of the takers of both versions."""

    def __init__(self, sink: PointSink[Any], counts: RemoteWriteCounts) -> None:
        self._sink = sink
        self._counts = counts
        self._find = sink.find
        self._add = sink.add
        self._wanted: dict[bytes, bool] = {}  # by the name of a metric

    def _count_unused(self, parts: Any) -> None:
        if histograms := len(parts.histograms):
            self._counts.histograms += histograms
            self._sink.skip("native histogram", histograms)
        if exemplars := len(parts.exemplars):
            self._counts.exemplars += exemplars
            self._sink.skip("exemplar", exemplars)

    def _list_samples(self, series: Any) -> Sequence[Any]:
        """Count the samples of a series and return them; raises `InvalidSampleError` if it has too many."""
        count = len(series.samples)
        self._counts.samples += count
        if count > MAX_SAMPLES_OF_SERIES:
            raise InvalidSampleError(f"has {count} samples, at most {MAX_SAMPLES_OF_SERIES} are taken")
        samples: Sequence[Any] = series.samples[:]  # a list, which is read in half the time
        return samples

    def _is_unwanted_name(self, name: bytes) -> bool:
        """Whether no rule wants series of this metric."""
        wanted = self._wanted.get(name)
        if wanted is None:
            try:
                wanted = self._sink.wants(name.decode())
            except UnicodeDecodeError:
                wanted = True  # decoding its labels rejects it
            self._wanted[name] = wanted
        return not wanted

    def _take_samples(self, index: int, entry: Any, samples: Iterable[Any]) -> None:
        for number, sample in enumerate(samples):
            value = sample.value
            if -LEAST_REFUSED < value < LEAST_REFUSED:  # `is_value`, without a call for each sample
                self._add(entry, sample.timestamp / 1000, value)
            elif not isnan(value):
                place = f"timeseries[{index}].samples[{number}]"
                error = InvalidValueError(f"{place}: the value is {value}, expected {EXPECTED_VALUE}")
                self._sink.reject(error, entry=entry)
            elif _BITS.unpack(_DOUBLE.pack(value))[0] == _STALE_MARKER:
                self._add(entry, sample.timestamp / 1000, value)
            else:
                self._sink.skip("missing value")


class _Version1Series(_SampleTaker):
    """A taker of series of 1.0. The key of a series is its encoded labels, unambiguous because they include lengths."""

    _TAILS = ((18, b"\x12\x10"), (9, b"\x12\x07"))
    """The sizes and first bytes of a last field that is a sample between 1971 and 2109. The second form has no value:
    the encoding leaves out a 0."""

    def take(self, index: int, encoded: bytes) -> None:
        """Take one series.

        Most senders write one sample per series. If the bytes before it are a known key, no label is decoded. A key
        consists of whole labels, so the bytes after it are whole fields, in this case exactly one.
        """
        for size, head in self._TAILS:
            if encoded.startswith(head, -size):
                entry = self._find(encoded[:-size])
                if entry is not None:
                    self._counts.samples += 1
                    self._take_samples(index, entry, (TimeSeriesSample.FromString(encoded[2 - size :]),))
                    return
        self._take_any(index, encoded)

    def _is_unwanted(self, encoded: bytes) -> bool:
        """Whether the first label is the name of a metric that no rule wants; no label is decoded then."""
        begin = encoded.find(_NAME_HEAD, 0, 16)
        size_at = begin + len(_NAME_HEAD)
        if begin < 0 or size_at >= len(encoded) or encoded[size_at] > 127:
            return False
        return self._is_unwanted_name(encoded[size_at + 1 : size_at + 1 + encoded[size_at]])

    def _take_any(self, index: int, encoded: bytes) -> None:
        series = TimeSeries.FromString(encoded)
        if series.histograms or series.exemplars:
            self._count_unused(TimeSeriesUnusedParts.FromString(encoded))
        samples = self._list_samples(series)
        if not samples:
            return
        if self._is_unwanted(encoded):
            self._sink.ignore(len(samples))
            return
        check_label_count(len(series.labels))
        key = TimeSeries(labels=series.labels).SerializeToString()
        entry = self._find(key)
        if entry is None:
            labels = [TimeSeriesLabel.FromString(label) for label in series.labels]
            entry = self._sink.bind(key, build_series([(label.name, label.value) for label in labels]))
        self._take_samples(index, entry, samples)


class _Version2Series(_SampleTaker):
    """A taker of series of 2.0. The key of a series is its symbols, because their indices differ from body to body.

    A byte that never occurs in UTF-8 precedes each symbol. So the key is unambiguous, and never equal to a key of 1.0.
    """

    def __init__(self, sink: PointSink[Any], counts: RemoteWriteCounts, symbols: list[bytes]) -> None:
        super().__init__(sink, counts)
        self._symbols = symbols
        self._get_key_part = _make_key_parts(symbols).__getitem__

    def take(self, index: int, encoded: bytes) -> None:
        """Take one series."""
        series = SymbolSeries.FromString(encoded)
        if series.histograms or series.exemplars:
            self._count_unused(SymbolSeriesUnusedParts.FromString(encoded))
        samples, references = self._list_samples(series), series.labels_refs[:]
        if not samples:
            return
        if len(references) > 2 * MAX_SERIES_LABELS or len(references) % 2:
            check_label_count(len(references) // 2)
            raise InvalidSampleError(f"labels_refs has {len(references)} items, expected an even number")
        if len(references) > 1 and max(references) < len(self._symbols):
            name, value = self._symbols[references[0]], self._symbols[references[1]]
            if name == b"__name__" and self._is_unwanted_name(value):
                self._sink.ignore(len(samples))
                return
        try:
            key = _MARK + _MARK.join(map(self._get_key_part, references))
        except IndexError as exc:
            symbols = len(self._symbols)
            raise InvalidSampleError(f"labels_refs has an index that is none of the {symbols} symbols") from exc
        entry = self._find(key)
        if entry is None:
            texts = [self._symbols[reference] for reference in references]
            entry = self._sink.bind(key, build_series(list(zip(texts[::2], texts[1::2], strict=True))))
        self._take_samples(index, entry, samples)


_MARK = b"\xff"
"""A byte that never occurs in UTF-8."""


def _make_key_parts(symbols: list[bytes]) -> list[bytes]:
    """Return the symbols as they are in keys.

    A symbol that is too long for a label, or contains `_MARK`, must not produce the key of another series. So it is cut
    to a length that no label has, and `_MARK` is replaced by another byte that never occurs in UTF-8. A series with
    such a symbol is never bound.
    """
    if b"".join(symbols).count(_MARK) or len(max(symbols, key=len, default=b"")) > MAX_LABEL_BYTES:
        return [symbol[: MAX_LABEL_BYTES + 1].replace(_MARK, b"\xfe") for symbol in symbols]
    return symbols
