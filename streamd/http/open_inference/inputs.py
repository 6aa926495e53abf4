"""The tensors of a request as arrays: from the bytes behind the JSON header, or from numbers in the JSON.

Checks shapes and types against the contract before anything is decoded; the numbers are checked by the service.
"""

import math
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from streamd.core.contract import ModelContract
from streamd.core.errors import InvalidTensorError
from streamd.http.open_inference.messages import MAX_NUMBERS_BYTES, RequestInput, cut_at_commas
from streamd.http.wire.codecs import DECODING_ERRORS, translate_decoding_error
from streamd.http.wire.tensors import WIRE_DTYPES
from streamd.runtime.predict import MAX_WINDOWS

DATATYPES = {
    "FP16": WIRE_DTYPES["float16"],
    "FP32": WIRE_DTYPES["float32"],
    "FP64": WIRE_DTYPES["float64"],
    "INT32": WIRE_DTYPES["int32"],
    "INT64": WIRE_DTYPES["int64"],
    "UINT8": WIRE_DTYPES["uint8"],
}
"""The accepted values of `datatype`."""

_numbers_decoder = msgspec.json.Decoder(list[float | None])


class RequestReader:
    """Reads the inputs of requests for one contract."""

    def __init__(self, contract: ModelContract) -> None:
        self._shapes = contract.input_shapes

    def read_in_steps(
        self, inputs: Sequence[RequestInput], behind: memoryview
    ) -> Generator[None, None, dict[str, npt.NDArray[Any]]]:
        """Return the arrays of a request by name, between whose pieces the event loop may run.

        `behind` are the bytes behind the JSON header; arrays from it share its memory, in any alignment. Raises
        `InvalidTensorError`.
        """
        arrays: dict[str, npt.NDArray[Any]] = {}
        begin = 0
        for each in inputs:
            dtype = self._check_form(each)
            if each.name in arrays:
                raise InvalidTensorError(f"input {each.name} is given twice")
            size_bytes = None if each.parameters is None else each.parameters.binary_data_size
            if size_bytes is None:
                arrays[each.name] = yield from _decode_data_in_steps(each)
            else:
                arrays[each.name] = _view_bytes(each, dtype, behind[begin : begin + size_bytes], size_bytes)
                begin += size_bytes
        if begin != len(behind):
            raise InvalidTensorError(
                f"{len(behind)} bytes follow the JSON, expected {begin}, the sum of binary_data_size"
            )
        return arrays

    def _check_form(self, given: RequestInput) -> "np.dtype[Any]":
        """Return the type of an input; raises `InvalidTensorError` if its name, type, shape or place is wrong."""
        inner = self._shapes.get(given.name)
        if inner is None:
            raise InvalidTensorError(f"input {given.name[:80]!r} is unknown, expected {', '.join(self._shapes)}")
        dtype = DATATYPES.get(given.datatype)
        if dtype is None:
            raise InvalidTensorError(
                f"input {given.name} has datatype {given.datatype[:80]!r}, expected one of {', '.join(DATATYPES)}"
            )
        shape = given.shape
        if tuple(shape[1:]) != inner or not 1 <= shape[0] <= MAX_WINDOWS:
            expected = ["n", *inner]
            raise InvalidTensorError(
                f"input {given.name} has shape {shape!s:.80}, expected [{', '.join(map(str, expected))}] with n from 1 "
                f"to {MAX_WINDOWS}"
            )
        if given.parameters is not None and given.parameters.shared_memory_region is not None:
            raise InvalidTensorError(f"input {given.name} is in shared memory, expected its data in the request")
        return dtype


def _view_bytes(given: RequestInput, dtype: "np.dtype[Any]", data: memoryview, stated_bytes: int) -> npt.NDArray[Any]:
    """Return a tensor that shares the memory of the body."""
    expected = math.prod(given.shape) * dtype.itemsize
    if stated_bytes != expected:
        raise InvalidTensorError(
            f"input {given.name} has binary_data_size {stated_bytes!s:.40}, expected {expected} for {given.shape} of "
            f"{given.datatype}"
        )
    if len(given.data):
        raise InvalidTensorError(f"input {given.name} has both data and binary_data_size, expected one of them")
    if len(data) < expected:
        raise InvalidTensorError(f"input {given.name} has {len(data)} bytes behind the JSON, expected {expected}")
    return np.frombuffer(data, dtype).reshape(given.shape)


def _decode_data_in_steps(given: RequestInput) -> Generator[None, None, npt.NDArray[Any]]:
    """Return numbers in JSON, flat or nested in any way, as float64; null is NaN.

    Only their order and their count matter. So the brackets are removed, and the pieces between any two commas are
    decoded one after another.
    """
    data = bytes(given.data)
    if not data.startswith(b"["):
        raise InvalidTensorError(f"input {given.name} has no data, expected a list of numbers or binary_data_size")
    arrays: list[npt.NDArray[np.float64]] = []
    for array in _decode_pieces(given.name, data):
        if arrays:
            yield
        arrays.append(array)
    values = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    expected = math.prod(given.shape)
    if len(values) != expected:
        raise InvalidTensorError(f"input {given.name} has {len(values)} numbers, expected {expected} for {given.shape}")
    return values.reshape(given.shape)


def _decode_pieces(name: str, data: bytes) -> Iterator[npt.NDArray[np.float64]]:
    for piece in cut_at_commas(data):
        if len(piece) > MAX_NUMBERS_BYTES:
            raise InvalidTensorError(f"input {name}: data has no comma in over {MAX_NUMBERS_BYTES} bytes")
        try:
            numbers = _numbers_decoder.decode(b"[" + piece.translate(None, b"[]") + b"]")
        except DECODING_ERRORS as exc:
            reason = str(translate_decoding_error(exc)).partition(" - at ")[0]
            raise InvalidTensorError(f"input {name}: data is not a list of numbers, null and NaN: {reason}") from exc
        yield np.array(numbers, np.float64)
