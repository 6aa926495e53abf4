"""The package's CUDA kernels in numpy, over addresses of ordinary memory: what `fake_cuda`'s driver launches."""

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from streamd.core.contract import MAX_STATUS

Array = npt.NDArray[Any]


def view(pointer: int, dtype: npt.DTypeLike, *shape: int) -> Array:
    """The memory at an address."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    memory: Any = (ctypes.c_uint8 * size).from_address(pointer)
    return np.frombuffer(memory, dtype).reshape(shape)


def scatter_rows(blocks: int, threads: int, arguments: list[int]) -> None:
    values, marks, positions, new_values, new_marks, rows, features = arguments
    assert blocks * threads >= rows * features, "a thread for each value"
    for row, position in enumerate(view(positions, np.uint32, rows).tolist()):
        view(values + 4 * position * features, np.uint32, features)[:] = view(
            new_values + 4 * row * features, np.uint32, features
        )
        view(marks + position, np.uint8, 1)[:] = view(new_marks + row, np.uint8, 1)


def gather_windows(blocks: int, threads: int, arguments: list[int]) -> None:
    values, marks, slots, starts, servers, calendar_of, calendars, *into = arguments[:11]
    length, features, horizon, calendar = arguments[11:]
    encoder_cont, encoder_cat, decoder_cont, decoder_cat = into
    for window in range(blocks):
        slot, start, server, day = (
            int(view(each, np.uint32, blocks)[window]) for each in (slots, starts, servers, calendar_of)
        )
        ring = view(values + 4 * slot * length * features, np.uint32, length, features)
        statuses = np.roll(view(marks + slot * length, np.uint8, length), -start) & MAX_STATUS
        size = length * features
        view(encoder_cont + 4 * window * size, np.uint32, length, features)[:] = np.roll(ring, -start, axis=0)
        past = view(encoder_cat + 8 * window * length, np.int32, length, 2)
        past[:, 0], past[:, 1] = server, statuses
        ahead = view(decoder_cat + 8 * window * horizon, np.int32, horizon, 2)
        ahead[:, 0], ahead[:, 1] = server, statuses[-1]
        view(decoder_cont + 4 * window * calendar, np.uint32, calendar)[:] = view(
            calendars + 4 * day * calendar, np.uint32, calendar
        )


def finish_forecasts(blocks: int, threads: int, arguments: list[int]) -> None:
    predictions, forecasts, reports, multipliers, horizon, targets, quantiles, _ = arguments
    given = view(predictions, np.float32, blocks, horizon, targets, quantiles)
    made = view(forecasts, np.float32, blocks, targets, horizon, quantiles)
    made[:] = np.sort(given.transpose(0, 2, 1, 3), axis=-1)
    size = horizon * targets * quantiles
    words = np.zeros((blocks, size + size % 2), np.uint32)
    words[:, :size] = made.reshape(blocks, size).view(np.uint32)
    factors = view(multipliers, np.uint64, words.shape[1] // 2)
    report = view(reports, np.uint64, blocks, 2)
    report[:, 0] = (words.view(np.uint64) * factors).sum(axis=1)
    report[:, 1] = ~np.isfinite(made).all(axis=(1, 2, 3))


KERNELS: dict[str, Callable[[int, int, list[int]], None]] = {
    each.__name__: each for each in (scatter_rows, gather_windows, finish_forecasts)
}
ARGUMENTS = {"scatter_rows": 7, "gather_windows": 15, "finish_forecasts": 8}
