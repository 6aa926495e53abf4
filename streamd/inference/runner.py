"""The interface of a runner: any network on one stream or session, with tensors by name.

Knows nothing of forecasts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Arrays = dict[str, Array]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output by name; `shape` is that of one row, without the batch axis; an open axis is `None`.

    `ranked` is false for an output whose number of axes the graph does not state; its `shape` is empty. An input is
    `optional` if a caller may leave it out.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]
    ranked: bool = True
    optional: bool = False

    @property
    def has_known_shape(self) -> bool:
        """Whether the size of every axis but the batch is known."""
        return self.ranked and None not in self.shape

    @property
    def description(self) -> str:
        """The shape and type, as `(batch, 3, ?) float32`."""
        if not self.ranked:
            return f"(batch, ...) {self.dtype}"
        axes = ["batch", *("?" if size is None else str(size) for size in self.shape)]
        optional = " (optional)" if self.optional else ""
        return f"({', '.join(axes)}{',' if len(axes) == 1 else ''}) {self.dtype}{optional}"

    def make_batch_shape(self, count: int) -> tuple[int, ...]:
        """Return the shape of this many rows; no axis may be open."""
        sizes = tuple(size for size in self.shape if size is not None)
        assert len(sizes) == len(self.shape), f"{self.name!r} is {self.description}"
        return (count, *sizes)

    def count_bytes(self, count: int) -> int:
        """Return the size in bytes of this many rows; no axis may be open."""
        return prod(self.make_batch_shape(count)) * self.dtype.itemsize


class Runner(Protocol):
    """Runs one batch at a time; `buckets` and `pads` as a lane's."""

    name: str
    device: str
    buckets: tuple[int, ...]
    pads: bool
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, feeds: Mapping[str, Array]) -> Arrays:
        """Run 1 to `buckets[-1]` rows of each input; blocks with the GIL released. The results are the caller's own.

        Optional inputs may be missing.

        Raises `BatchFailedError` if this batch is the cause, `LaneLostError` if the runner is unusable.
        """
        ...

    def close(self) -> None:
        """Release its resources; a second call does nothing."""
        ...
