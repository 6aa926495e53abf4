"""Turns columns of a body into samples: their rows in groups, and those of a group that fails one by one.

Columns in which everything fits do not come here: `column_frames.py` decodes them.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from streamd.core.errors import InvalidInputError, InvalidTensorError, InvalidValueError, MalformedError, TooLargeError
from streamd.core.state.samples import MAX_SAMPLE_VALUES, IndexedSamples, Sample, Time
from streamd.http.foreign_tokens import explain_field, explain_row
from streamd.http.wire.body_types import (
    EXPECTED_SAMPLE_TIME,
    FIELD_ERRORS,
    GROUP_BYTES,
    GROUP_SAMPLES,
    MAX_DECODED_SAMPLES,
    MAX_DECODED_VALUES,
    ColumnsBody,
    LooseColumns,
    Row,
    has_too_many_values,
)
from streamd.http.wire.codecs import DECODING_ERRORS, Decoder, Encoding, join_array, translate_decoding_error
from streamd.http.wire.tensors import WireTensor, is_array, read_tensor

_server_decoder = Decoder(str)
_servers_decoder = Decoder(list[str])
_time_decoder = Decoder(Time)
_times_decoder = Decoder(list[Time])
_raw_times_decoder = Decoder(list[msgspec.Raw])
_row_decoder = Decoder(Annotated[Row, msgspec.Meta(max_length=MAX_SAMPLE_VALUES)])
_rows_decoder = Decoder(list[Annotated[Row, msgspec.Meta(max_length=MAX_SAMPLE_VALUES)]])


def read_columns(columns: ColumnsBody | LooseColumns, encoding: Encoding) -> IndexedSamples:
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


def _find_times(columns: ColumnsBody | LooseColumns, encoding: Encoding) -> list[Any] | None:
    """Return the times of the rows, or `None` if one time is given for all of them."""
    if isinstance(columns, ColumnsBody):
        return columns.time if isinstance(columns.time, list) else None
    data = bytes(columns.time)
    if not is_array(data, encoding):
        return None
    times: list[Any] = _raw_times_decoder.decode(data, encoding)
    return times


def _decode_rows(columns: LooseColumns, times: list[Any] | None, values: Any, encoding: Encoding) -> IndexedSamples:
    """Decode the rows of columns in groups, and those of a group that fails one by one."""
    servers, features = columns.servers, columns.features
    for begin in range(0, len(servers), GROUP_SAMPLES):
        end = min(begin + GROUP_SAMPLES, len(servers))
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
    if sum(map(len, raws)) > GROUP_BYTES:
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
        if has_too_many_values(raw, encoding):
            return _make_width_error(raw.count(b",") + 1, features)
        cells: Row = _row_decoder.decode_raw(raw, encoding) if isinstance(row, msgspec.Raw) else row
    except DECODING_ERRORS as exc:
        explained = explain_row(raw, features) if field == "values" else explain_field(field, raw)
        expected = EXPECTED_SAMPLE_TIME if field == "time" else ""
        return explained or FIELD_ERRORS[field](f"{field}: {translate_decoding_error(exc)}{expected}")
    if len(cells) != len(features):
        return _make_width_error(len(cells), features)
    return Sample(name, at, dict(zip(features, cells, strict=True)))
