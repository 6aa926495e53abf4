"""Decodes the usual body of columns to a `ColumnFrame`, without an object for each row; touches no state.

Samples that are alike become one too, once they are decoded.

Only a body in which everything fits is decoded here. Anything else is left to `bodies.py`, which knows what to answer.
The encoded lists of servers and features are looked up as bytes: senders repeat them, and to decode 500 names takes
ten times as long as all else.
"""

from collections.abc import Collection, Sequence
from itertools import chain
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from streamd.core.state.column_frames import ColumnFrame, NameList
from streamd.core.state.samples import MAX_SAMPLE_VALUES, Sample, Time
from streamd.http.body_turns import LARGE_BODY_BYTES
from streamd.http.wire.body_types import MAX_DECODED_SAMPLES, MAX_DECODED_VALUES, Identifier, Row
from streamd.http.wire.codecs import DECODING_ERRORS, Decoder, Encoding
from streamd.http.wire.tensors import WIRE_DTYPES, WireTensor

MAX_LISTED_NAMES = 400_000
"""Names in the remembered lists: those of a fleet that sends each server in one list, in 30 to 80 MB with all else that
is remembered of them."""

_LIST_OVERHEAD = 20
"""A list takes as much more memory as so many names."""

_NAME_BYTES = 32
"""Each further so many bytes of a list count as a name: names may be of any length, and such bytes take 160."""

MAX_LIST_BYTES = 2**23
"""A list whose encoded form is longer is decoded each time."""

MIN_JOINED_SAMPLES = 16
"""Fewer samples are quicker one by one."""

_HEAD_BYTES = 512
"""`columns` is looked for in so much of a body: behind it, an id of usual length has space."""


_Times = Annotated[list[Time], msgspec.Meta(max_length=MAX_DECODED_SAMPLES)]


class _TensorColumns(msgspec.Struct, gc=False):
    servers: msgspec.Raw
    time: Time | _Times
    features: msgspec.Raw
    values: WireTensor


class _ListColumns(msgspec.Struct, gc=False):
    servers: msgspec.Raw
    time: Time | _Times
    features: msgspec.Raw
    values: list[Row] | WireTensor


class _TensorBody(msgspec.Struct, gc=False):
    columns: _TensorColumns
    samples: msgspec.Raw = msgspec.Raw()
    id: Identifier = None


class _ListBody(msgspec.Struct, gc=False):
    columns: _ListColumns
    samples: msgspec.Raw = msgspec.Raw()
    id: Identifier = None


_decode_tensor_body = msgspec.msgpack.Decoder(_TensorBody).decode
_list_body_decoder = Decoder(_ListBody)
_servers_decoder = Decoder(Annotated[list[str], msgspec.Meta(max_length=MAX_DECODED_SAMPLES)])
_features_decoder = Decoder(Annotated[list[str], msgspec.Meta(max_length=MAX_SAMPLE_VALUES)])


class ColumnDecoder:
    """Decodes bodies of columns, and remembers the lists of names in them."""

    def __init__(self) -> None:
        self._servers = _NameLists(_servers_decoder)
        self._features = _NameLists(_features_decoder, is_distinct=True)

    def decode(self, data: bytes | str, encoding: Encoding) -> tuple[Identifier, ColumnFrame] | None:
        """Return the id of a body and its frame; `None` if it has no columns, or anything in them is unusual."""
        if not _has_columns(data) or (encoding is Encoding.JSON and len(data) >= LARGE_BODY_BYTES):
            return None
        try:
            body = _decode_body(data, encoding)
            if body is None or body.samples:
                return None
            frame = self._make_frame(body.columns, encoding)
        except DECODING_ERRORS:
            return None
        return None if frame is None else (body.id, frame)

    def _make_frame(self, columns: _TensorColumns | _ListColumns, encoding: Encoding) -> ColumnFrame | None:
        features = self._features.find(columns.features, encoding)
        width = len(features.names)
        values = _read_values(columns.values, width)
        if values is None or not _is_within_limits(len(values), width):
            return None
        servers, time = self._servers.find(columns.servers, encoding), columns.time
        rows = len(servers.names)
        if len(values) != rows or (isinstance(time, list) and len(time) != rows):
            return None
        return ColumnFrame(servers=servers, features=features, time=time, values=values)

    def join_samples(self, samples: Sequence[Sample]) -> ColumnFrame | None:
        """Return decoded samples as a frame; `None` if they are few, name different features, or have a status."""
        if len(samples) < MIN_JOINED_SAMPLES:
            return None
        count, rows = len(samples), [each.values for each in samples]
        names = tuple(rows[0])
        if [each.status for each in samples].count(None) < count or list(map(tuple, rows)).count(names) < count:
            return None
        times = [each.time for each in samples]
        return ColumnFrame(
            servers=self._servers.find_names(tuple([each.server for each in samples])),
            features=self._features.find_names(names),
            time=times[0] if times.count(times[0]) == count else times,
            values=_join_cells([each.values() for each in rows], len(names)),
        )


def _has_columns(data: bytes | str) -> bool:
    if isinstance(data, str):
        return data.find("columns", 0, _HEAD_BYTES) >= 0
    return data.find(b"columns", 0, _HEAD_BYTES) >= 0


def _decode_body(data: bytes | str, encoding: Encoding) -> _TensorBody | _ListBody | None:
    """Decode a body with its names left as bytes; values as lists, only if the body is small."""
    if encoding is Encoding.MSGPACK:
        try:
            return _decode_tensor_body(data)  # type: ignore[arg-type]
        except msgspec.ValidationError:
            if len(data) >= LARGE_BODY_BYTES:
                return None
    body: _ListBody = _list_body_decoder.decode_raw(data, encoding)
    return body


def _is_within_limits(rows: int, width: int) -> bool:
    return 0 < rows <= MAX_DECODED_SAMPLES and rows * width <= MAX_DECODED_VALUES


def _read_values(given: WireTensor | Sequence[Row], width: int) -> npt.NDArray[Any] | None:
    """Return the values as `(rows, width)`, or `None` if they are no such matrix."""
    if isinstance(given, WireTensor):
        return _read_matrix(given, width)
    if set(map(len, given)) != {width}:
        return None
    return _join_cells(given, width)


def _join_cells(rows: Sequence[Collection[float | None]], width: int) -> npt.NDArray[np.float64]:
    """Return rows of equal width as a matrix; a missing value, `None`, becomes NaN."""
    try:
        cells = np.fromiter(chain.from_iterable(rows), np.float64, len(rows) * width)
    except TypeError:
        cells = np.array(list(chain.from_iterable(rows)), np.float64)
    return cells.reshape(len(rows), width)


def _read_matrix(given: WireTensor, width: int) -> npt.NDArray[Any] | None:
    """Return a tensor as `tensors.read_tensor` does, or `None`, in a third of the time."""
    dtype, shape = WIRE_DTYPES.get(given.dtype), given.shape
    if dtype is None or len(shape) != 2 or shape[1] != width:
        return None
    if shape[0] < 0 or len(given.data) != shape[0] * width * dtype.itemsize:
        return None
    return np.ndarray((shape[0], width), dtype, given.data)


class _NameLists:
    """Lists of names by their encoded form; all are forgotten when they become too large."""

    def __init__(self, decoder: Decoder, *, is_distinct: bool = False) -> None:
        self._decoder = decoder
        self._is_distinct = is_distinct
        self._lists: dict[bytes | tuple[str, ...], NameList] = {}
        self._weight = 0
        """What is remembered, in names of usual length."""

    def find(self, raw: msgspec.Raw, encoding: Encoding) -> NameList:
        """Return the list that these bytes encode; raises one of `DECODING_ERRORS` if it is not one."""
        key = bytes(raw)
        found = self._lists.get(key)
        return self._learn(key, self._decoder.decode_raw(key, encoding), len(key)) if found is None else found

    def find_names(self, names: tuple[str, ...]) -> NameList:
        """Return the list of these names."""
        found = self._lists.get(names)
        return self._learn(names, names, sum(map(len, names))) if found is None else found

    def _learn(self, key: bytes | tuple[str, ...], given: Sequence[str], size: int) -> NameList:
        names = NameList(given)
        if self._is_distinct and len(set(given)) != len(given):
            raise ValueError("a name is there twice")
        if size > MAX_LIST_BYTES:
            return names
        weight = len(names) + size // _NAME_BYTES + _LIST_OVERHEAD
        self._weight += weight
        if self._weight > MAX_LISTED_NAMES:
            self._lists.clear()
            self._weight = weight
        self._lists[key] = names
        return names
