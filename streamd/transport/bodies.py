"""What agents send, decoded: typed and fast where all is well, sample by sample where something is not."""

import re
from typing import Annotated, Any

import msgspec
import numpy as np

from streamd.core.errors import (
    InvalidInputError,
    InvalidSampleError,
    InvalidServerError,
    InvalidTensorError,
    InvalidTimeError,
    InvalidValueError,
    MalformedError,
)
from streamd.core.samples import Indexed, Sample, Time
from streamd.transport.codecs import DECODING_ERRORS, Decoder, Encoding, malformed
from streamd.transport.tensors import Tensor, read_tensor

Identifier = str | Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | float | None
"""Echoed as it came; a whole number must fit 64 bits, for JSON's encoder writes no larger one."""

Row = list[float | None]


class Columns(msgspec.Struct):
    """Rows of many servers at once: `values[row][feature]` for `servers[row]` at `time` (one, or one a row)."""

    servers: list[str]
    time: Time | list[Time]
    features: list[str]
    values: list[Row] | Tensor


class Body(msgspec.Struct):
    """A body of `POST /v1/samples`, or a frame of `/v1/ingest`."""

    samples: list[Sample] | None = None
    columns: Columns | None = None
    id: Identifier = None


class _LooseColumns(msgspec.Struct):
    servers: list[Any]
    time: Any
    features: list[str]
    values: list[Any] | Tensor


class _LooseBody(msgspec.Struct):
    samples: list[msgspec.Raw] | None = None
    columns: _LooseColumns | None = None
    id: Identifier = None


_body = Decoder(Body)
_loose_body = Decoder(_LooseBody)
_sample = Decoder(Sample)


def decode_body(data: bytes | str, encoding: Encoding) -> tuple[Identifier, Indexed]:
    """Return a body's id and its samples by index; one that cannot be read is an error in its place.

    Raises `MalformedError` where nothing of it can be read.
    """
    try:
        body = _body.raw(data, encoding)
    except DECODING_ERRORS:
        body = _loose_body.decode(data.encode() if isinstance(data, str) else data, encoding)
    if (body.samples is None) == (body.columns is None):
        raise MalformedError("expected an object with either 'samples' or 'columns'")
    if body.columns is not None:
        return body.id, _rows(body.columns)
    if isinstance(body, Body):
        assert body.samples is not None
        return body.id, enumerate(body.samples)
    return body.id, ((index, _one(raw, encoding)) for index, raw in enumerate(body.samples))


def _one(raw: msgspec.Raw, encoding: Encoding) -> Sample | InvalidInputError:
    try:
        sample: Sample = _sample.raw(bytes(raw), encoding)
    except DECODING_ERRORS as exc:
        return _sample_error(exc)
    return sample


_FIELD = re.compile(r"`\$\.(server|time|values|status)\b")
_ERRORS: dict[str, type[InvalidInputError]] = {
    "server": InvalidServerError,
    "time": InvalidTimeError,
    "values": InvalidValueError,
    "status": InvalidSampleError,
}


def _sample_error(exc: Exception) -> InvalidInputError:
    """Give a sample's decoding error the code of the field that it speaks of."""
    message = str(malformed(exc))
    match = _FIELD.search(message)
    if match and match[1] == "time":
        message += "; expected epoch seconds as a number, or RFC 3339 with an offset"
    return (_ERRORS[match[1]] if match else InvalidSampleError)(message)


def _rows(columns: Columns | _LooseColumns) -> Indexed:
    """Check the columns against each other and return their rows as samples."""
    count = len(columns.servers)
    if isinstance(columns.values, Tensor):
        try:
            array = read_tensor("columns.values", columns.values)
        except InvalidTensorError as exc:
            raise MalformedError(str(exc)) from exc
        if array.ndim != 2:
            raise MalformedError(f"columns.values has {array.ndim} axes, expected 2: row and feature")
        values: list[Any] = array.astype(np.float64).tolist()
    else:
        values = columns.values
    if len(values) != count:
        raise MalformedError(f"columns.values has {len(values)} rows, expected {count}: one for each server")
    times = columns.time if isinstance(columns.time, list) else [columns.time] * count
    if len(times) != count:
        raise MalformedError(f"columns.time has {len(times)} times, expected one, or {count}")
    if len(set(columns.features)) != len(columns.features):
        raise MalformedError("columns.features names a feature twice")
    return _zip(columns, times, values)


def _zip(columns: Columns | _LooseColumns, times: list[Any], values: list[Any]) -> Indexed:
    loose = isinstance(columns, _LooseColumns)
    width = len(columns.features)
    for index, (server, time, row) in enumerate(zip(columns.servers, times, values, strict=True)):
        if isinstance(row, list) and len(row) != width:
            yield index, InvalidValueError(f"values has {len(row)} numbers, expected {width}: one a feature")
        elif loose:
            yield index, _convert(server, time, row, columns.features)
        else:
            yield index, Sample(server, time, dict(zip(columns.features, row, strict=True)))


def _convert(server: Any, time: Any, row: Any, features: list[str]) -> Sample | InvalidInputError:
    values = dict(zip(features, row, strict=True)) if isinstance(row, list) else row
    try:
        return msgspec.convert({"server": server, "time": time, "values": values}, Sample)
    except (msgspec.ValidationError, ValueError) as exc:
        return _sample_error(exc)
