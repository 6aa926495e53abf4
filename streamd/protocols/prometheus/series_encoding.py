"""Encodes series for remote write 1.0, many samples at once: a message with an object for each sample takes ten times
as long. Pure.

`messages.py` has the messages. Labels of a series must be sorted by their names, which is the caller's part.
"""

from collections.abc import Sequence

import cramjam
import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Float64, Numbers

WRITE_REQUEST_HEADERS = {
    "Content-Type": "application/x-protobuf",
    "Content-Encoding": "snappy",
    "X-Prometheus-Remote-Write-Version": "0.1.0",
}

TIME_LIMIT_MS = 2**42
"""The first time (in the year 2109) that `encode_samples` cannot encode."""

_LENGTH, _DOUBLE, _VARINT = 2, 1, 0
"""The types of fields on the wire."""

_TIME_BYTES = 6
_SAMPLE = np.dtype(
    [("head", "u1", (3,)), ("value", "<f8"), ("tag", "u1"), ("time", "u1", (_TIME_BYTES,))]  # without gaps: 18 bytes
)
_SAMPLE_HEAD = (2 << 3 | _LENGTH, _SAMPLE.itemsize - 2, 1 << 3 | _DOUBLE)
_TIME_TAG = 2 << 3 | _VARINT


def encode_label(name: str, value: str) -> bytes:
    """Return one label of a series."""
    return _encode_part(1, _encode_part(1, name.encode()) + _encode_part(2, value.encode()))


def encode_samples(times: Numbers, values: Float64) -> npt.NDArray[np.void]:
    """Return the samples of series as records, in the shape of `values`; `record.tobytes()` is the part of a message.

    `times` are milliseconds from 0 up to `TIME_LIMIT_MS`, of any shape that broadcasts.
    """
    records = np.empty(values.shape, _SAMPLE)
    records["head"] = _SAMPLE_HEAD
    records["value"] = values
    records["tag"] = _TIME_TAG
    for place in range(_TIME_BYTES):
        # All but the last byte have the bit that says that another one follows, also if that one is zero.
        more = 0x80 if place < _TIME_BYTES - 1 else 0
        records["time"][..., place] = times >> 7 * place & 0x7F | more
    return records


def encode_series(labels: Sequence[bytes], samples: bytes) -> bytes:
    """Return one series, as a part of a request."""
    content = b"".join((*labels, samples))
    return b"\x0a" + _encode_varint(len(content)) + content


def encode_request(series: Sequence[bytes]) -> bytes:
    """Return the compressed body of a request with these series."""
    return bytes(cramjam.snappy.compress_raw(b"".join(series)))


def _encode_part(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | _LENGTH]) + _encode_varint(len(content)) + content


def _encode_varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
