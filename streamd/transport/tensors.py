"""Tensors on the wire: `{"shape", "dtype", "data"}` with little-endian bytes, or nested lists."""

import math
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from streamd.core.errors import InvalidTensorError

DTYPES = {
    name: np.dtype(name).newbyteorder("<") for name in ("float16", "float32", "float64", "int32", "int64", "uint8")
}


class Tensor(msgspec.Struct):
    """A tensor as bytes, C order."""

    shape: list[int]
    dtype: str
    data: bytes


def read_tensor(name: str, given: Any) -> npt.NDArray[Any]:
    """Return a tensor or nested lists as an array (null is NaN); raises `InvalidTensorError` naming it."""
    if isinstance(given, Tensor):
        return _from_bytes(name, given)
    if isinstance(given, dict):
        try:
            return _from_bytes(name, msgspec.convert(given, Tensor))
        except msgspec.ValidationError as exc:
            raise InvalidTensorError(f"{name}: {exc}") from exc
    if not isinstance(given, list):
        raise InvalidTensorError(f"{name} is {type(given).__name__}, expected a tensor or nested lists")
    return _from_lists(name, given)


def _from_bytes(name: str, given: Tensor) -> npt.NDArray[Any]:
    dtype = DTYPES.get(given.dtype)
    if dtype is None:
        raise InvalidTensorError(f"{name}.dtype is {given.dtype!r}, expected one of {', '.join(DTYPES)}")
    if any(size < 0 for size in given.shape) or len(given.shape) > 8:
        raise InvalidTensorError(f"{name}.shape is {given.shape}, expected at most 8 sizes, none negative")
    expected = math.prod(given.shape) * dtype.itemsize
    if len(given.data) != expected:
        raise InvalidTensorError(
            f"{name}.data has {len(given.data)} bytes, expected {expected} for {given.shape} of {given.dtype}"
        )
    return np.frombuffer(given.data, dtype).reshape(given.shape)


def _from_lists(name: str, given: list[Any]) -> npt.NDArray[Any]:
    try:
        array = np.array(given)
        if array.dtype == object:  # null among the numbers, or ragged: numpy tells which
            array = np.array(given, np.float64)
    except (ValueError, TypeError, OverflowError) as exc:
        raise InvalidTensorError(f"{name}: expected nested lists of numbers, all of one length: {exc}") from exc
    if array.dtype.kind not in "fiu" and array.size:
        raise InvalidTensorError(f"{name} holds {array.dtype.name}, expected numbers or null")
    return array


def write_tensor(array: npt.NDArray[Any]) -> dict[str, Any]:
    """Return an array as a tensor for MessagePack."""
    array = np.ascontiguousarray(array)
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return {"shape": list(array.shape), "dtype": array.dtype.name, "data": little.data}
