"""The messages of a shard's chain of forecasts: to bytes and back. Pure.

The first byte of a message is its kind, the second the version of its format; the rest is MessagePack. Behind that of
forecasts, from a multiple of eight bytes on, are their values (float32): of long messages each copy counts.
"""

import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

import msgspec
import numpy as np

from streamd.core.arrays import Float32, Numbers
from streamd.core.cluster.chain_entries import ChainEntry, EntryKind
from streamd.core.cluster.formats import check_format
from streamd.core.errors import InvalidServerError, MalformedError
from streamd.core.state.directory import check_server_name
from streamd.core.state.forecast_seals import MAX_MODEL_BYTES

FORMAT_VERSION = 1

MAX_KIND = 15
"""Later releases may have more kinds, up to this."""

_Body = TypeVar("_Body")

MAX_STEP_RECORD_BYTES = 64 * 2**20
"""A record that would decompress to more is refused; a million servers take less."""


class ChainKind(IntEnum):
    """The kinds of messages."""

    FORECASTS = 1
    MARKER = 2
    """A node has become the owner."""
    RECORD = 3
    """The newest forecast steps of one part of the servers."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ChainBatch:
    """Forecasts of `n` distinct servers, made by one version, and servers that were forgotten before they were made.

    `steps (n,)` are those of the newest rows, `contexts (n,)` the numbers of rows that the windows had, and
    `values (n, targets, horizon, quantiles)` float32.
    """

    fence: int
    """The revision of the lease under which they were made."""
    number: int
    """The place among the messages of this fence: with it an owner finds its own message in the log."""
    model: str
    servers: tuple[str, ...]
    steps: Numbers
    contexts: Numbers
    values: Float32
    forgotten: tuple[str, ...] = ()
    forgot_rows: int = 0
    """The sequence in the row log of the newest order to forget that the chain has."""
    serials: Numbers | None = None
    """Of forecasts that the chain had already, and that stay in it: the serials `(n,)` with which they were posted."""
    made_fence: int = 0
    """The fence under which such forecasts were made."""


@dataclass(frozen=True, kw_only=True)
class OwnerMarker:
    """The first message of a new owner: no append of an earlier one can succeed behind it."""

    fence: int
    number: int
    node: str


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """The newest forecast step of each server of one part of a shard; it replaces the part's earlier record."""

    fence: int
    number: int
    part: int
    steps: dict[str, int]
    forgot_rows: int


ChainMessage = ChainBatch | OwnerMarker | StepRecord


class _ForecastsBody(msgspec.Struct, array_like=True, kw_only=True):
    fence: int
    number: int
    model: str
    servers: tuple[str, ...]
    steps: bytes
    contexts: bytes
    shape: tuple[int, int, int]
    forgotten: tuple[str, ...]
    forgot_rows: int
    serials: bytes
    made_fence: int


class _MarkerBody(msgspec.Struct, array_like=True):
    fence: int
    number: int
    node: str


class _RecordBody(msgspec.Struct, array_like=True, kw_only=True):
    fence: int
    number: int
    part: int
    steps: dict[str, int]
    forgot_rows: int


_FORECASTS_HEAD = struct.Struct("<BBI")
"""The kind, the version, and the bytes of MessagePack."""

_ALIGNMENT = 8

_forecasts_decoder = msgspec.msgpack.Decoder(_ForecastsBody)
_marker_decoder = msgspec.msgpack.Decoder(_MarkerBody)
_record_decoder = msgspec.msgpack.Decoder(_RecordBody)


def encode_chain_message(message: ChainMessage) -> bytes:
    """Return a message of the chain as bytes."""
    if isinstance(message, OwnerMarker):
        marker = _MarkerBody(message.fence, message.number, message.node)
        return _begin(ChainKind.MARKER) + msgspec.msgpack.encode(marker)
    if isinstance(message, StepRecord):
        return _encode_record(message)
    targets, horizon, quantiles = message.values.shape[1:]
    body = _ForecastsBody(
        fence=message.fence,
        number=message.number,
        model=message.model,
        servers=message.servers,
        steps=message.steps.astype("<i8", copy=False).tobytes(),
        contexts=message.contexts.astype("<i4", copy=False).tobytes(),
        shape=(targets, horizon, quantiles),
        forgotten=message.forgotten,
        forgot_rows=message.forgot_rows,
        serials=b"" if message.serials is None else message.serials.astype("<i8", copy=False).tobytes(),
        made_fence=message.made_fence,
    )
    encoded = msgspec.msgpack.encode(body)
    head = _FORECASTS_HEAD.pack(ChainKind.FORECASTS, FORMAT_VERSION, len(encoded))
    padding = b"\0" * (-(len(head) + len(encoded)) % _ALIGNMENT)
    return b"".join((head, encoded, padding, np.ascontiguousarray(message.values, "<f4").data))


def _encode_record(record: StepRecord) -> bytes:
    body = _RecordBody(
        fence=record.fence,
        number=record.number,
        part=record.part,
        steps=record.steps,
        forgot_rows=record.forgot_rows,
    )
    # Compressed: names of servers are much alike.
    return _begin(ChainKind.RECORD) + zlib.compress(msgspec.msgpack.encode(body), 1)


def decode_chain_message(data: bytes, forecast_shape: Sequence[int]) -> ChainMessage:
    """Return the message of the chain in `data`; raises `MalformedError` that names what is wrong, `LaterFormatError`.

    `forecast_shape` is `(targets, horizon, quantiles)` of the contract.
    """
    kind, body = _read_beginning(data)
    if kind == ChainKind.MARKER:
        marker = _decode(_marker_decoder, body, "a marker")
        return OwnerMarker(fence=marker.fence, number=marker.number, node=marker.node)
    if kind == ChainKind.RECORD:
        record = _decode(_record_decoder, _decompress(body), "a record of steps")
        _check_servers(tuple(record.steps))
        return StepRecord(
            fence=record.fence,
            number=record.number,
            part=record.part,
            steps=record.steps,
            forgot_rows=record.forgot_rows,
        )
    if kind == ChainKind.FORECASTS:
        return _read_forecasts(data, tuple(forecast_shape))
    raise MalformedError(f"a message of the forecast chain has the kind {kind}, expected 1, 2 or 3")


def make_chain_entry(message: ChainMessage, sequence: int = 0) -> ChainEntry:
    """Return the entry of a message, as `ForecastChain` takes it; `sequence` is its place in the stream."""
    if isinstance(message, OwnerMarker):
        return ChainEntry(kind=EntryKind.MARKER, fence=message.fence, sequence=sequence)
    if isinstance(message, StepRecord):
        return ChainEntry(
            kind=EntryKind.RECORD,
            fence=message.fence,
            sequence=sequence,
            steps=message.steps,
            part=message.part,
            forgot_rows=message.forgot_rows,
        )
    return ChainEntry(
        kind=EntryKind.BATCH,
        fence=message.fence,
        sequence=sequence,
        steps=dict(zip(message.servers, message.steps.tolist(), strict=True)),
        forgotten=message.forgotten,
        forgot_rows=message.forgot_rows,
    )


def _read_forecasts(data: bytes, shape: tuple[int, ...]) -> ChainBatch:
    body, values = _split_forecasts(data)
    count = len(body.servers)
    _check_servers(body.servers)
    _check_servers(body.forgotten)
    if body.shape != shape:
        raise MalformedError(f"forecasts have the shape {body.shape}, expected {shape} (targets, horizon, quantiles)")
    if not (body.model.isascii() and len(body.model) <= MAX_MODEL_BYTES):
        raise MalformedError(f"forecasts have the version {body.model!r:.120}, expected {MAX_MODEL_BYTES} of ASCII")
    columns = (("steps", body.steps, 8), ("contexts", body.contexts, 4), ("values", values, 4 * math.prod(shape)))
    kept = (("serials", body.serials, 8),) if body.serials else ()
    for name, column, size in (*columns, *kept):
        if len(column) != count * size:
            raise MalformedError(f"forecasts have {len(column)} bytes of {name}, expected {count * size} for {count}")
    steps = np.frombuffer(body.steps, "<i8").astype(np.int64)
    contexts = np.frombuffer(body.contexts, "<i4").astype(np.int64)
    if count and (steps.min() < 0 or contexts.min() < 1):
        raise MalformedError("forecasts have a step below 0 or a context below 1")
    return ChainBatch(
        fence=body.fence,
        number=body.number,
        model=body.model,
        servers=body.servers,
        steps=steps,
        contexts=contexts,
        values=np.frombuffer(values, "<f4").reshape(count, *shape),
        forgotten=body.forgotten,
        forgot_rows=body.forgot_rows,
        serials=np.frombuffer(body.serials, "<i8").astype(np.int64) if body.serials else None,
        made_fence=body.made_fence,
    )


def _split_forecasts(data: bytes) -> tuple[_ForecastsBody, memoryview]:
    """Return what describes forecasts, and the bytes of their values."""
    if len(data) < _FORECASTS_HEAD.size:
        raise MalformedError(f"forecasts have {len(data)} bytes, expected at least {_FORECASTS_HEAD.size}")
    end = _FORECASTS_HEAD.size + _FORECASTS_HEAD.unpack_from(data)[2]
    if end > len(data):
        raise MalformedError(f"forecasts have {len(data)} bytes, and their description takes {end}")
    view = memoryview(data)
    body = _decode(_forecasts_decoder, view[_FORECASTS_HEAD.size : end], "forecasts")
    return body, view[end + -end % _ALIGNMENT :]


def _decompress(data: bytes | memoryview) -> bytes:
    decompressor = zlib.decompressobj()
    try:
        plain = decompressor.decompress(data, MAX_STEP_RECORD_BYTES)
    except zlib.error as exc:
        raise MalformedError(f"a record of steps cannot be decompressed: {exc}") from exc
    if not decompressor.eof:
        raise MalformedError(f"a record of steps is cut off, or has over {MAX_STEP_RECORD_BYTES} bytes")
    return plain


def _begin(kind: ChainKind) -> bytes:
    return bytes((kind, FORMAT_VERSION))


def _read_beginning(data: bytes) -> tuple[int, memoryview]:
    if len(data) < 2:
        raise MalformedError(f"a message has {len(data)} bytes, expected at least 2")
    if not 0 < data[0] <= MAX_KIND:
        raise MalformedError(f"a message of the forecast chain has the kind {data[0]}, expected 1 to {MAX_KIND}")
    check_format(data[1], FORMAT_VERSION, "a message of the forecast chain")
    return data[0], memoryview(data)[2:]


def _decode(decoder: msgspec.msgpack.Decoder[_Body], data: bytes | memoryview, what: str) -> _Body:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise MalformedError(f"{what} cannot be read: {exc}") from exc


def _check_servers(servers: tuple[str, ...]) -> None:
    if len(set(servers)) != len(servers):
        raise MalformedError("a server is named twice, expected distinct servers")
    try:
        for server in servers:
            check_server_name(server)
    except InvalidServerError as exc:
        raise MalformedError(str(exc)) from exc
