"""Writes and reads remote write bodies byte by byte. Knows the wire format of protobuf and nothing about streamd."""

import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

Labels = Sequence[tuple[str, str]]
RemoteSeries = tuple[Labels, Sequence[tuple[int, float]]]
"""Labels in their order, and samples as pairs of milliseconds and a value."""

FIXTURES = Path(__file__).parents[1] / "fixtures"
STALE = struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000002))[0]

UP: RemoteSeries = ([("__name__", "up"), ("instance", "web-01:9100")], [(1_763_708_400_000, 1.0)])


# ---------------------------------------------------------------- written
def encode_varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def encode_part(number: int, content: bytes) -> bytes:
    """Encode a field that is bytes, text or a message."""
    return encode_varint(number << 3 | 2) + encode_varint(len(content)) + content


def encode_sample(milliseconds: int, value: float) -> bytes:
    """Encode a sample as Prometheus does: a field that is 0 is left out."""
    is_zero = value == 0 and math.copysign(1, value) > 0
    out = b"" if is_zero else b"\x09" + struct.pack("<d", value)
    return out + (b"\x10" + encode_varint(milliseconds & 2**64 - 1) if milliseconds else b"")


def encode_series_1(series: RemoteSeries) -> bytes:
    labels, samples = series
    return b"".join(
        [
            *(encode_part(1, encode_part(1, name.encode()) + encode_part(2, value.encode())) for name, value in labels),
            *(encode_part(2, encode_sample(*sample)) for sample in samples),
        ]
    )


def encode_request_1(series: Iterable[RemoteSeries]) -> bytes:
    return b"".join(encode_part(1, encode_series_1(each)) for each in series)


def encode_series_2(references: Iterable[int], samples: Iterable[tuple[int, float]]) -> bytes:
    packed = encode_part(1, b"".join(map(encode_varint, references)))
    return packed + b"".join(encode_part(2, encode_sample(*sample)) for sample in samples)


def encode_request_2(series: Iterable[RemoteSeries], first_symbols: Sequence[str] = ("",)) -> bytes:
    symbols = {symbol: place for place, symbol in enumerate(first_symbols)}
    encoded = b""
    for labels, samples in series:
        references = [symbols.setdefault(text, len(symbols)) for label in labels for text in label]
        encoded += encode_part(5, encode_series_2(references, samples))
    return b"".join(encode_part(4, symbol.encode()) for symbol in symbols) + encoded


# ---------------------------------------------------------------- read
def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        number |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return number, at


def read_fields(data: bytes) -> Iterator[tuple[int, Any]]:
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        content: Any
        if tag & 7 == 0:
            content, at = _read_varint(data, at)
        elif tag & 7 == 1:
            content, at = struct.unpack_from("<d", data, at)[0], at + 8
        else:
            assert tag & 7 == 2
            size, at = _read_varint(data, at)
            content, at = data[at : at + size], at + size
        yield tag >> 3, content


def _pick(data: bytes, number: int) -> list[Any]:
    return [content for field, content in read_fields(data) if field == number]


def _read_samples(series: bytes) -> list[tuple[int, float]]:
    samples = (dict(read_fields(sample)) for sample in _pick(series, 2))
    return [(sample.get(2, 0), sample.get(1, 0.0)) for sample in samples]


def read_request_1(body: bytes) -> list[RemoteSeries]:
    found: list[RemoteSeries] = []
    for series in _pick(body, 1):
        labels = [dict(read_fields(label)) for label in _pick(series, 1)]
        pairs = [(label.get(1, b"").decode(), label.get(2, b"").decode()) for label in labels]
        found.append((pairs, _read_samples(series)))
    return found


def read_request_2(body: bytes) -> list[RemoteSeries]:
    symbols = [symbol.decode() for symbol in _pick(body, 4)]
    found: list[RemoteSeries] = []
    for series in _pick(body, 5):
        texts = [symbols[place] for packed in _pick(series, 1) for place in _unpack(packed)]
        found.append((list(zip(texts[::2], texts[1::2], strict=True)), _read_samples(series)))
    return found


def _unpack(packed: bytes) -> Iterator[int]:
    at = 0
    while at < len(packed):
        number, at = _read_varint(packed, at)
        yield number


def list_points(series: Iterable[RemoteSeries]) -> list[tuple[str, dict[str, str], float, Any]]:
    """Return the points that a decoder must find, in order; the value of a stale marker is the text `stale`."""
    return [
        (dict(labels)["__name__"], {k: v for k, v in labels if k != "__name__" and v}, time / 1000, show_value(value))
        for labels, samples in series
        for time, value in samples
        if not math.isnan(value) or is_stale(value)
    ]


def is_stale(value: float) -> bool:
    return struct.pack("<d", value) == struct.pack("<d", STALE)


def show_value(value: float) -> float | str:
    return value if not math.isnan(value) else "stale" if is_stale(value) else "nan"
