"""Decodes the bodies and frames that agents send into samples; touches no state.

There are five shapes of one body, because decoding straight into the final types is fastest, but fails as a whole:

- `Body` holds either `Sample`s or one `ColumnsBody`. It is decoded first; if all is valid, nothing else is tried.
- `_LooseBody` and `_LooseColumns` are the same two, with each sample, or each cell of `servers`, `time` and `values`,
  left as bytes (`msgspec.Raw`). They are decoded if `Body` fails; then each sample is decoded alone, so that one bad
  sample costs only itself.

All of them end as `IndexedSamples`: pairs of an index and a `Sample` or its error.
"""

import contextlib
import re
from collections.abc import Iterator
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
from streamd.core.state.samples import IndexedSamples, Sample, Time
from streamd.http.foreign_tokens import explain_field, explain_row, explain_sample, mark_foreign_tokens
from streamd.http.wire.codecs import DECODING_ERRORS, Decoder, Encoding, translate_decoding_error
from streamd.http.wire.tensors import WireTensor, is_array, read_tensor

Identifier = str | Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | float | None
"""The id of a frame, returned in its ack. An integer has at most 64 bits, since the JSON encoder takes no larger."""

Row = list[float | None]
"""The values of one server at one time, in the order of `features`; `None` is a missing value."""


class ColumnsBody(msgspec.Struct):
    """Rows of many servers: `values[row][feature]` for `servers[row]` at `time` (one for all, or one a row)."""

    servers: list[str]
    time: Time | list[Time]
    features: list[str]
    values: list[Row] | WireTensor


class Body(msgspec.Struct):
    """A body of `POST /v1/samples`, or a frame of `/v1/ingest`."""

    samples: list[Sample] | None = None
    columns: ColumnsBody | None = None
    id: Identifier = None


class _LooseColumns(msgspec.Struct):
    servers: list[msgspec.Raw]
    time: msgspec.Raw
    features: list[str]
    values: list[msgspec.Raw] | WireTensor


class _LooseBody(msgspec.Struct):
    samples: list[msgspec.Raw] | None = None
    columns: _LooseColumns | None = None
    id: Identifier = None


_body_decoder = Decoder(Body)
_loose_body_decoder = Decoder(_LooseBody)
_sample_decoder = Decoder(Sample)
_server_decoder = Decoder(str)
_time_decoder = Decoder(Time)
_times_decoder = Decoder(list[msgspec.Raw])
_row_decoder = Decoder(Row)


def decode_body(data: bytes | str, encoding: Encoding) -> tuple[Identifier, IndexedSamples]:
    """Return the id of a body and its samples by index; a sample that cannot be decoded is an error in its place.

    Raises `MalformedError` if nothing of the body can be decoded.
    """
    try:
        body = _body_decoder.decode_raw(data, encoding)
    except DECODING_ERRORS:
        body = _decode_loosely(data.encode() if isinstance(data, str) else data, encoding)
    if (body.samples is None) == (body.columns is None):
        raise MalformedError("expected an object with either 'samples' or 'columns'")
    if body.columns is not None:
        return body.id, _check_columns(body.columns, encoding)
    if isinstance(body, Body):
        assert body.samples is not None
        return body.id, enumerate(body.samples)
    return body.id, ((index, _decode_sample(raw, encoding)) for index, raw in enumerate(body.samples))


def _decode_loosely(data: bytes, encoding: Encoding) -> _LooseBody:
    """Decode a body without its samples, so that each of them can be refused alone."""
    try:
        return _decode_loose_body(data, encoding)
    except DECODING_ERRORS as exc:
        marked = mark_foreign_tokens(data) if encoding is Encoding.JSON else None
        if marked is not None:
            with contextlib.suppress(*DECODING_ERRORS):
                return _decode_loose_body(marked, encoding)
        raise translate_decoding_error(exc, data) from exc


def _decode_loose_body(data: bytes, encoding: Encoding) -> _LooseBody:
    body: _LooseBody = _loose_body_decoder.decode_raw(data, encoding)
    return body


def _decode_sample(raw: msgspec.Raw, encoding: Encoding) -> Sample | InvalidInputError:
    try:
        sample: Sample = _sample_decoder.decode_raw(bytes(raw), encoding)
    except DECODING_ERRORS as exc:
        return explain_sample(bytes(raw)) or _make_sample_error(exc)
    return sample


_EXPECTED_TIME = "; expected epoch seconds as a number, or RFC 3339 with an offset"
_FIELD = re.compile(r"`\$\.(server|time|values|status)\b")
_FIELD_ERRORS: dict[str, type[InvalidInputError]] = {
    "server": InvalidServerError,
    "time": InvalidTimeError,
    "values": InvalidValueError,
    "status": InvalidSampleError,
}


def _make_sample_error(exc: Exception) -> InvalidInputError:
    """Return the decoding error of a sample, with the code of the field that it names."""
    message = str(translate_decoding_error(exc))
    match = _FIELD.search(message)
    if match and match[1] == "time":
        message += _EXPECTED_TIME
    return (_FIELD_ERRORS[match[1]] if match else InvalidSampleError)(message)


def _check_columns(columns: ColumnsBody | _LooseColumns, encoding: Encoding) -> IndexedSamples:
    """Check the columns against each other and return their rows as samples."""
    count = len(columns.servers)
    values = _read_matrix(columns.values) if isinstance(columns.values, WireTensor) else columns.values
    if len(values) != count:
        raise MalformedError(f"columns.values has {len(values)} rows, expected {count}: one for each server")
    times = _find_times(columns, encoding)
    if times is None:
        times = [columns.time] * count
    if len(times) != count:
        raise MalformedError(f"columns.time has {len(times)} times, expected one, or {count}")
    if len(set(columns.features)) != len(columns.features):
        raise MalformedError("columns.features names a feature twice")
    features = columns.features
    rows: Iterator[tuple[Any, Any, Any]] = zip(columns.servers, times, values, strict=True)
    if isinstance(columns, ColumnsBody):
        return _make_rows(rows, features)
    return enumerate(_decode_row(*row, features, encoding) for row in rows)


def _read_matrix(tensor: WireTensor) -> list[Any]:
    try:
        array = read_tensor("columns.values", tensor)
    except InvalidTensorError as exc:
        raise MalformedError(str(exc)) from exc
    if array.ndim != 2:
        raise MalformedError(f"columns.values has {array.ndim} axes, expected 2: row and feature")
    rows: list[Any] = array.astype(np.float64).tolist()
    return rows


def _find_times(columns: ColumnsBody | _LooseColumns, encoding: Encoding) -> list[Any] | None:
    """Return the times of the rows, or `None` if one time is given for all of them."""
    if isinstance(columns, ColumnsBody):
        return columns.time if isinstance(columns.time, list) else None
    data = bytes(columns.time)
    if not is_array(data, encoding):
        return None
    times: list[Any] = _times_decoder.decode(data, encoding)
    return times


def _make_rows(rows: Iterator[tuple[str, Any, Row]], features: list[str]) -> IndexedSamples:
    width = len(features)
    for index, (server, time, row) in enumerate(rows):
        if len(row) == width:
            yield index, Sample(server, time, dict(zip(features, row, strict=True)))
        else:
            yield index, _make_width_error(row, features)


def _make_width_error(row: Row, features: list[str]) -> InvalidValueError:
    return InvalidValueError(f"values has {len(row)} numbers, expected {len(features)}: one for each feature")


def _decode_row(
    server: msgspec.Raw, time: msgspec.Raw, row: msgspec.Raw | Row, features: list[str], encoding: Encoding
) -> Sample | InvalidInputError:
    """Decode one row of columns; its parts are still bytes, except the values of a tensor, which are numbers."""
    field, raw = "server", bytes(server)  # the part that is being decoded, for the error
    try:
        name = _server_decoder.decode_raw(raw, encoding)
        field, raw = "time", bytes(time)
        at = _time_decoder.decode_raw(raw, encoding)
        field, raw = "values", bytes(row) if isinstance(row, msgspec.Raw) else b""
        cells: Row = _row_decoder.decode_raw(raw, encoding) if isinstance(row, msgspec.Raw) else row
    except DECODING_ERRORS as exc:
        explained = explain_row(raw, features) if field == "values" else explain_field(field, raw)
        expected = _EXPECTED_TIME if field == "time" else ""
        return explained or _FIELD_ERRORS[field](f"{field}: {translate_decoding_error(exc)}{expected}")
    if len(cells) != len(features):
        return _make_width_error(cells, features)
    return Sample(name, at, dict(zip(features, cells, strict=True)))
