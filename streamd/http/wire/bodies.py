"""Decodes the bodies and frames that agents send into samples; touches no state.

There are five shapes of one body, because decoding straight into the final types is fastest, but fails as a whole:

- `Body` holds either `Sample`s or one `ColumnsBody`. A small body is decoded so first; if all is valid, nothing else is
  tried.
- `_LooseBody` and `_LooseColumns` are the same two, with each sample, or each cell of `servers`, `time` and `values`,
  left as bytes (`msgspec.Raw`). They are decoded if `Body` fails, and always if the body is large. Then the samples are
  decoded in groups while they are taken, and those of a group that fails one by one. So one bad sample costs only
  itself, and a large body neither blocks the event loop nor is ever decoded as a whole.

All of them end as `IndexedSamples`: pairs of an index and a `Sample` or its error.
"""

import re
from collections.abc import Generator, Sequence
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from streamd.core.errors import (
    InvalidInputError,
    InvalidSampleError,
    InvalidServerError,
    InvalidTensorError,
    InvalidTimeError,
    InvalidValueError,
    MalformedError,
    TooLargeError,
)
from streamd.core.state.samples import MAX_SAMPLE_VALUES, IndexedSamples, Sample, Time
from streamd.http.body_turns import LARGE_BODY_BYTES
from streamd.http.foreign_tokens import explain_field, explain_row, explain_sample, mark_pieces
from streamd.http.wire.codecs import DECODING_ERRORS, Decoder, Encoding, join_array, translate_decoding_error
from streamd.http.wire.list_counts import count_commas_of_lists
from streamd.http.wire.tensors import WireTensor, is_array, read_tensor

T = TypeVar("T")

MAX_DECODED_SAMPLES = 100_000
"""Samples, or rows of columns, in one body: it takes a few bytes to send one and 4 µs to reject it."""

MAX_DECODED_VALUES = 1_000_000
"""Cells of columns in one body, and commas in a large one of JSON: to find the end of each takes 0.06 µs at once."""

_GROUP = 250
"""Samples that are decoded together."""

_GROUP_BYTES = 2**18
"""The samples of a group that is larger are decoded one by one."""

_MAX_COLUMNS_COMMAS = 3 * MAX_DECODED_SAMPLES + MAX_SAMPLE_VALUES
"""Commas in the lists of columns: `servers`, `time`, `values` and `features`."""

_Bounded = msgspec.Meta(max_length=MAX_DECODED_SAMPLES)

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
    servers: Annotated[list[msgspec.Raw], _Bounded]
    time: msgspec.Raw
    features: Annotated[list[str], msgspec.Meta(max_length=MAX_SAMPLE_VALUES)]
    values: Annotated[list[msgspec.Raw], _Bounded] | WireTensor


class _LooseBody(msgspec.Struct):
    samples: Annotated[list[msgspec.Raw], _Bounded] | None = None
    columns: _LooseColumns | None = None
    id: Identifier = None


_body_decoder = Decoder(Body)
_loose_body_decoder = Decoder(_LooseBody)
_sample_decoder = Decoder(Sample)
_samples_decoder = Decoder(list[Sample])
_server_decoder = Decoder(str)
_servers_decoder = Decoder(list[str])
_time_decoder = Decoder(Time)
_times_decoder = Decoder(list[Time])
_raw_times_decoder = Decoder(list[msgspec.Raw])
_row_decoder = Decoder(Annotated[Row, msgspec.Meta(max_length=MAX_SAMPLE_VALUES)])
_rows_decoder = Decoder(list[Annotated[Row, msgspec.Meta(max_length=MAX_SAMPLE_VALUES)]])

DecodingSteps = Generator[None, None, T]
"""Work that is done in steps, between which the event loop may run; it returns the result."""


def decode_body(data: bytes | str, encoding: Encoding) -> tuple[Identifier, IndexedSamples]:
    """Return the id of a body and its samples by index; a sample that cannot be decoded is an error in its place.

    Raises `MalformedError` if nothing of the body can be decoded, and `TooLargeError` if it has more samples or values
    than a body may have.
    """
    steps = decode_body_in_steps(data, encoding)
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: tuple[Identifier, IndexedSamples] = stop.value
            return result


def decode_body_in_steps(data: bytes | str, encoding: Encoding) -> DecodingSteps[tuple[Identifier, IndexedSamples]]:
    """Decode a body as `decode_body` does; no step of a body of a few megabytes takes over 0.1 s."""
    body: Body | _LooseBody | None = None
    if len(data) < LARGE_BODY_BYTES:
        try:
            body = _body_decoder.decode_raw(data, encoding)
        except DECODING_ERRORS:
            body = None
    if body is None:
        body = yield from _decode_loosely(data.encode() if isinstance(data, str) else data, encoding)
    if (body.samples is None) == (body.columns is None):
        raise MalformedError("expected an object with either 'samples' or 'columns'")
    if body.columns is not None:
        return body.id, _check_columns(body.columns, encoding)
    assert body.samples is not None
    if isinstance(body, Body):
        return body.id, enumerate(body.samples)
    return body.id, _decode_samples(body.samples, encoding)


def _decode_loosely(data: bytes, encoding: Encoding) -> DecodingSteps[_LooseBody]:
    """Decode a body without its samples, so that each of them can be refused alone."""
    if encoding is Encoding.JSON and len(data) >= LARGE_BODY_BYTES:
        yield from _check_lists(data)
    try:
        return _decode_loose_body(data, encoding)
    except DECODING_ERRORS as exc:
        if encoding is Encoding.JSON and (body := (yield from _decode_marked(data))) is not None:
            return body
        raise translate_decoding_error(exc, data) from exc


def _check_lists(data: bytes) -> DecodingSteps[None]:
    """Raise `TooLargeError` if a large body of JSON has lists of too many elements; none of them is built."""
    commas = data.count(b",")
    if commas > MAX_DECODED_VALUES:
        raise TooLargeError(f"the body has over {MAX_DECODED_VALUES} commas, and so more values than are accepted")
    if commas < MAX_DECODED_SAMPLES:
        return
    for counts in count_commas_of_lists(data):
        if counts.commas_at_2 >= MAX_DECODED_SAMPLES or counts.list_commas_at_3 >= _MAX_COLUMNS_COMMAS:
            raise TooLargeError(f"the lists of the body have more elements than {MAX_DECODED_SAMPLES} samples or rows")
        yield


def _decode_marked(data: bytes) -> DecodingSteps[_LooseBody | None]:
    """Decode JSON with its foreign tokens marked; returns `None` if it has no foreign token or another fault."""
    pieces: list[bytes] = []
    has_marks = False
    try:
        for piece, is_marked in mark_pieces(data):
            pieces.append(piece)
            has_marks |= is_marked
            yield
        return _decode_loose_body(b"".join(pieces), Encoding.JSON) if has_marks else None
    except (*DECODING_ERRORS, MalformedError):
        return None


def _decode_loose_body(data: bytes, encoding: Encoding) -> _LooseBody:
    try:
        body: _LooseBody = _loose_body_decoder.decode_raw(data, encoding)
    except msgspec.ValidationError as exc:
        # MessagePack states the length first: in a body of fewer bytes it is false, and the body malformed.
        if len(data) > MAX_DECODED_SAMPLES and _TOO_LONG.search(str(exc)):
            raise TooLargeError(str(exc)) from exc
        raise
    return body


_TOO_LONG = re.compile(r"length <= \d+ - at `\$\.(samples|columns\.\w+)`$")


def _decode_samples(raws: list[msgspec.Raw], encoding: Encoding) -> IndexedSamples:
    for begin in range(0, len(raws), _GROUP):
        group = raws[begin : begin + _GROUP]
        try:
            if sum(map(len, group)) > _GROUP_BYTES:
                raise ValueError("decoded one by one")
            samples: list[Any] = _samples_decoder.decode_raw(join_array(group, encoding), encoding)
        except DECODING_ERRORS:
            for index, raw in enumerate(group, begin):
                yield index, _decode_sample(raw, encoding)
        else:
            yield from enumerate(samples, begin)


def _decode_sample(raw: msgspec.Raw, encoding: Encoding) -> Sample | InvalidInputError:
    data = bytes(raw)
    if _has_too_many_values(data, encoding):
        return InvalidValueError(f"values has over {MAX_SAMPLE_VALUES} features, at most so many are accepted")
    try:
        sample: Sample = _sample_decoder.decode_raw(data, encoding)
    except DECODING_ERRORS as exc:
        return explain_sample(data) or _make_sample_error(exc)
    return sample


def _has_too_many_values(data: bytes, encoding: Encoding) -> bool:
    """Whether a large sample or row of JSON has too many values; MessagePack states their number first."""
    return encoding is Encoding.JSON and len(data) > _GROUP_BYTES and data.count(b",") > MAX_SAMPLE_VALUES + 16


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
    count, features = len(columns.servers), columns.features
    values = _read_matrix(columns.values) if isinstance(columns.values, WireTensor) else columns.values
    if len(values) != count:
        raise MalformedError(f"columns.values has {len(values)} rows, expected {count}: one for each server")
    times = _find_times(columns, encoding)
    if times is not None and len(times) != count:
        raise MalformedError(f"columns.time has {len(times)} times, expected one, or {count}")
    if len(set(features)) != len(features):
        raise MalformedError("columns.features names a feature twice")
    if count > MAX_DECODED_SAMPLES or count * len(features) > MAX_DECODED_VALUES:
        raise TooLargeError(
            f"columns has {count} rows of {len(features)} features, expected at most {MAX_DECODED_SAMPLES} rows and"
            f" {MAX_DECODED_VALUES} values"
        )
    if isinstance(columns, ColumnsBody):
        return _make_rows(columns.servers, times or [columns.time] * count, values, features)
    return _decode_rows(columns, times, values, encoding)


def _read_matrix(tensor: WireTensor) -> npt.NDArray[Any]:
    try:
        array = read_tensor("columns.values", tensor)
    except InvalidTensorError as exc:
        raise MalformedError(str(exc)) from exc
    if array.ndim != 2:
        raise MalformedError(f"columns.values has {array.ndim} axes, expected 2: row and feature")
    return array


def _to_rows(matrix: npt.NDArray[Any]) -> list[Any]:
    rows: list[Any] = matrix.astype(np.float64).tolist()
    return rows


def _find_times(columns: ColumnsBody | _LooseColumns, encoding: Encoding) -> list[Any] | None:
    """Return the times of the rows, or `None` if one time is given for all of them."""
    if isinstance(columns, ColumnsBody):
        return columns.time if isinstance(columns.time, list) else None
    data = bytes(columns.time)
    if not is_array(data, encoding):
        return None
    times: list[Any] = _raw_times_decoder.decode(data, encoding)
    return times


def _decode_rows(columns: _LooseColumns, times: list[Any] | None, values: Any, encoding: Encoding) -> IndexedSamples:
    """Decode the rows of columns in groups, and those of a group that fails one by one."""
    servers, features = columns.servers, columns.features
    for begin in range(0, len(servers), _GROUP):
        end = min(begin + _GROUP, len(servers))
        group = servers[begin:end]
        group_times = times[begin:end] if times is not None else [columns.time] * len(group)
        rows = values[begin:end] if isinstance(values, list) else _to_rows(values[begin:end])
        try:
            decoded = _decode_row_group(group, group_times, rows, encoding)
        except DECODING_ERRORS:
            for index, row in enumerate(zip(group, group_times, rows, strict=True), begin):
                yield index, _decode_row(*row, features, encoding)
        else:
            yield from _make_rows(*decoded, features, begin)


def _decode_row_group(
    servers: list[msgspec.Raw], times: list[msgspec.Raw], rows: list[Any], encoding: Encoding
) -> tuple[list[str], list[Any], list[Row]]:
    """Decode some rows of columns together; `rows` are still bytes, or numbers if they are of a tensor."""
    raws = [*servers, *times, *(row for row in rows if isinstance(row, msgspec.Raw))]
    if sum(map(len, raws)) > _GROUP_BYTES:
        raise ValueError("decoded one by one")
    if len(raws) > 2 * len(servers):
        rows = _rows_decoder.decode_raw(join_array(rows, encoding), encoding)
    return (
        _servers_decoder.decode_raw(join_array(servers, encoding), encoding),
        _times_decoder.decode_raw(join_array(times, encoding), encoding),
        rows,
    )


def _make_rows(
    servers: Sequence[str], times: Sequence[Any], values: Any, features: list[str], first: int = 0
) -> IndexedSamples:
    width = len(features)
    rows: Sequence[Row] = values if isinstance(values, list) else _to_rows(values)
    for index, (server, time, row) in enumerate(zip(servers, times, rows, strict=True), first):
        if len(row) == width:
            yield index, Sample(server, time, dict(zip(features, row, strict=True)))
        else:
            yield index, _make_width_error(len(row), features)


def _make_width_error(width: int, features: list[str]) -> InvalidValueError:
    return InvalidValueError(f"values has {width} numbers, expected {len(features)}: one for each feature")


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
        if _has_too_many_values(raw, encoding):
            return _make_width_error(raw.count(b",") + 1, features)
        cells: Row = _row_decoder.decode_raw(raw, encoding) if isinstance(row, msgspec.Raw) else row
    except DECODING_ERRORS as exc:
        explained = explain_row(raw, features) if field == "values" else explain_field(field, raw)
        expected = _EXPECTED_TIME if field == "time" else ""
        return explained or _FIELD_ERRORS[field](f"{field}: {translate_decoding_error(exc)}{expected}")
    if len(cells) != len(features):
        return _make_width_error(len(cells), features)
    return Sample(name, at, dict(zip(features, cells, strict=True)))
