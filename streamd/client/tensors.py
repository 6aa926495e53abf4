"""Arrays as the wire has them in MessagePack. Pure."""

import sys
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt


class ReceivedTensor(msgspec.Struct, frozen=True):
    """An array in a message."""

    shape: tuple[int, ...]
    dtype: str
    data: memoryview
    """Little-endian bytes, in C order."""

    def to_array(self) -> npt.NDArray[Any]:
        """Return the array: a view of the message, only to be read. Raises `ValueError` if the sizes do not fit."""
        array = np.frombuffer(self.data, np.dtype(self.dtype).newbyteorder("<")).reshape(self.shape)
        return array if sys.byteorder == "little" else array.astype(array.dtype.newbyteorder("="))


def make_tensor_object(array: npt.NDArray[Any]) -> dict[str, Any]:
    """Return an array as an object that MessagePack can hold; of `float16`, `float32`, `int32` and the like."""
    dtype = array.dtype.newbyteorder("<")
    return {"shape": array.shape, "dtype": array.dtype.name, "data": np.ascontiguousarray(array, dtype).tobytes()}
