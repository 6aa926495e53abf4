"""Tensors on the wire: `{"shape", "dtype", "data"}` with little-endian bytes, or nested lists.

Checks only the form; the model's shapes are checked where the tensors are used.
"""

import math
from collections.abc import Generator, Iterator, Mapping
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from streamd.core.errors import InvalidTensorError, TooLargeError
from streamd.http.wire.codecs import DECODING_ERRORS, MAX_JOINED_ITEMS, Decoder, Encoding, join_array

WIRE_DTYPES = {
    name: np.dtype(np.dtype(name).newbyteorder("<").str)
    for name in ("float16", "float32", "float64", "int32", "int64", "uint8")
}
"""The accepted values of `dtype`. On a little-endian machine they are numpy's own types, which need no conversion."""

_NAMES = {dtype: name for name, dtype in WIRE_DTYPES.items()}


class WireTensor(msgspec.Struct):
    """A tensor as little-endian bytes in C order."""

    shape: list[int]
    dtype: str
    data: bytes


Vector = list[float | None]
_tensor_decoder = Decoder(WireTensor)
_list_decoders = [Decoder(list[list[Vector]]), Decoder(list[Vector])]
"""Nested lists with and without the batch axis."""
_items_decoder = Decoder(Annotated[list[msgspec.Raw], msgspec.Meta(max_length=MAX_JOINED_ITEMS)])

LIST_GROUP_BYTES = 2**18
"""Nested lists are decoded in groups of items of this size, which takes 5 ms."""

MAX_LISTS, MAX_LIST_VALUES = 400_000, 1_500_000
"""Lists and commas in large nested lists of JSON: to find the end of each takes 0.06 µs, of all of them at once."""

MAX_ITEM_BYTES = 2**21
"""The size of one item of large nested lists, such as a window: it is decoded as a whole."""

_ALIGNMENT = 16
"""The bytes of a tensor in a message begin at a multiple of this, so that arrays are written fast."""


def decode_tensor(name: str, raw: msgspec.Raw, encoding: Encoding) -> npt.NDArray[Any]:
    """Return a tensor or nested lists (null is NaN) as an array; raises `InvalidTensorError` with `name`."""
    data = bytes(raw)
    first_error: Exception | None = None
    for decoder in [_tensor_decoder] if is_map(data, encoding) else _list_decoders:
        try:
            given = decoder.decode_raw(data, encoding)
        except DECODING_ERRORS as exc:
            first_error = first_error or exc
            continue
        return read_tensor(name, given) if isinstance(given, WireTensor) else _convert_lists(name, given)
    raise InvalidTensorError(f"{name}: expected a tensor or nested lists of numbers: {first_error}") from first_error


def decode_tensor_in_steps(name: str, raw: msgspec.Raw, encoding: Encoding) -> Generator[None, None, npt.NDArray[Any]]:
    """Decode as `decode_tensor` does, but large nested lists in steps, between which the event loop may run.

    Raises `TooLargeError` for nested lists of too many items, or with an item of over `MAX_ITEM_BYTES`.
    """
    data = bytes(raw)
    if len(data) <= LIST_GROUP_BYTES or is_map(data, encoding):
        return decode_tensor(name, raw, encoding)
    if encoding is Encoding.JSON and (data.count(b"]") > MAX_LISTS or data.count(b",") > MAX_LIST_VALUES):
        raise TooLargeError(
            f"{name}: over {MAX_LISTS} lists or {MAX_LIST_VALUES} numbers are accepted only as a tensor"
        )
    try:
        items = _items_decoder.decode_raw(data, encoding)
    except DECODING_ERRORS as exc:
        raise InvalidTensorError(f"{name}: expected a tensor or nested lists of numbers: {exc}") from exc
    arrays: list[npt.NDArray[Any]] = []
    for group in _group_items(name, items):
        yield
        arrays.append(decode_tensor(name, msgspec.Raw(join_array(group, encoding)), encoding))
        if arrays[-1].shape[1:] != arrays[0].shape[1:]:
            raise InvalidTensorError(f"{name}: expected nested lists that are all of one length")
    return np.concatenate(arrays)


def _group_items(name: str, items: list[msgspec.Raw]) -> Iterator[list[msgspec.Raw]]:
    """Yield items in groups of about `LIST_GROUP_BYTES`."""
    group: list[msgspec.Raw] = []
    size = 0
    for item in items:
        if len(item) > MAX_ITEM_BYTES:
            raise TooLargeError(
                f"{name}: a list has {len(item)} bytes, at most {MAX_ITEM_BYTES} are accepted; send a tensor"
            )
        group.append(item)
        size += len(item)
        if size >= LIST_GROUP_BYTES or len(group) >= MAX_JOINED_ITEMS:
            yield group
            group, size = [], 0
    if group:
        yield group


def is_map(data: bytes, encoding: Encoding) -> bool:
    """Whether an encoded value is an object (in MessagePack a map), by its first byte."""
    if encoding is Encoding.JSON:
        return data.lstrip()[:1] == b"{"
    return 0x80 <= data[0] <= 0x8F or data[0] in (0xDE, 0xDF)


def is_array(data: bytes, encoding: Encoding) -> bool:
    """Whether an encoded value is a list, by its first byte."""
    if encoding is Encoding.JSON:
        return data.lstrip()[:1] == b"["
    return 0x90 <= data[0] <= 0x9F or data[0] in (0xDC, 0xDD)


def read_tensor(name: str, given: WireTensor) -> npt.NDArray[Any]:
    """Return a tensor as an array that shares its bytes; raises `InvalidTensorError` with `name`."""
    dtype = WIRE_DTYPES.get(given.dtype)
    if dtype is None:
        raise InvalidTensorError(f"{name}.dtype is {given.dtype!r}, expected one of {', '.join(WIRE_DTYPES)}")
    if min(given.shape, default=0) < 0 or len(given.shape) > 8:
        raise InvalidTensorError(f"{name}.shape is {given.shape}, expected at most 8 sizes, each 0 or more")
    expected = math.prod(given.shape) * dtype.itemsize
    if len(given.data) != expected:
        raise InvalidTensorError(
            f"{name}.data has {len(given.data)} bytes, expected {expected} for {given.shape} of {given.dtype}"
        )
    try:
        return np.frombuffer(given.data, dtype).reshape(given.shape)
    except ValueError as exc:  # without any number, other sizes may be larger than those of any array
        raise InvalidTensorError(f"{name}.shape is {given.shape}, which no array can have: {exc}") from exc


def _convert_lists(name: str, given: list[Any]) -> npt.NDArray[Any]:
    try:
        return np.array(given, np.float64)
    except ValueError as exc:
        raise InvalidTensorError(f"{name}: expected nested lists that are all of one length: {exc}") from exc


def make_wire_tensor(array: npt.NDArray[Any]) -> dict[str, Any]:
    """Return an array as a tensor for MessagePack, in C order; `data` is a view if the array is so already."""
    name = _NAMES.get(array.dtype) or array.dtype.name
    little = np.ascontiguousarray(array, WIRE_DTYPES.get(name) or array.dtype.newbyteorder("<"))
    return {"shape": list(array.shape), "dtype": name, "data": little.data}


def make_tensor_message(
    fields: Mapping[str, Any], name: str, shape: tuple[int, ...], dtype: str
) -> tuple[memoryview, npt.NDArray[Any]]:
    """Return a MessagePack message with a tensor as its last field, and the tensor, which its caller fills.

    The array is a view of the message, so its bytes are written once. `fields` has 1 to 14 others.
    """
    wire_dtype = WIRE_DTYPES[dtype]
    size_bytes = math.prod(shape) * wire_dtype.itemsize
    tensor = _add_field(msgspec.msgpack.encode({"shape": shape, "dtype": dtype}), "data") + b"\xc6"
    head = _add_field(msgspec.msgpack.encode(fields), name) + tensor + size_bytes.to_bytes(4, "big")
    padding = -len(head) % _ALIGNMENT
    content = np.empty(padding + len(head) + size_bytes, np.uint8)
    content[padding : padding + len(head)] = np.frombuffer(head, np.uint8)
    return content[padding:].data, content[padding + len(head) :].view(wire_dtype).reshape(shape)


def _add_field(fields: bytes, name: str) -> bytes:
    """Return an encoded map of 1 to 14 fields with the name of one more, whose value the caller adds."""
    return bytes([fields[0] + 1]) + fields[1:] + msgspec.msgpack.encode(name)
