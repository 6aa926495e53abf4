"""Runs a network over an array larger than its input: windows that overlap, and outputs blended where they do.

Windows form a grid, so a weight is a product of one number an axis: beside the results nothing of their size is held.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import islice

import numpy as np
import numpy.typing as npt

from streamd.core.errors import ConfigError, InvalidTensorError
from streamd.inference.api.arrays import ArrayInputs, cast_array
from streamd.inference.api.grid import Axes, Grid, Overlap, Steps, make_block_index, make_grid, normalize_axes
from streamd.inference.runner import Array, Arrays, TensorSpec

Weights = Callable[[int], npt.ArrayLike]
Blend = str | Weights | None

BLENDS: dict[str, Weights] = {
    "mean": np.ones,
    "triangular": lambda length: np.minimum(np.arange(1, length + 1), np.arange(length, 0, -1)),
    "gaussian": lambda length: np.exp(-0.5 * ((np.arange(length) - (length - 1) / 2) / (length / 8)) ** 2),
}
"""The weight of each element of a window of that length, along one axis; windows are worth most in their middle."""


class Network(ABC):
    """A function of arrays that can also be slid: an engine, or an ensemble of them.

    `rows_at_once` is how many rows keep it busy.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    rows_at_once: int

    @abstractmethod
    def __call__(self, inputs: ArrayInputs) -> Arrays:
        """Run rows, however many, and return the outputs by name."""

    def slide(
        self,
        array: npt.ArrayLike,
        axis: Axes | None = None,
        *,
        length: Axes | None = None,
        stride: Axes | None = None,
        overlap: Overlap | None = None,
        blend: Blend = "triangular",
        output_axis: Axes | None = None,
        others: Mapping[str, npt.ArrayLike] | None = None,
    ) -> Arrays:
        """Return the outputs over a whole array: one row of the input, without the batch axis, but larger.

        Windows go along `axis`, one or several (those where the array is larger than the input), by `stride`, or so
        that neighbours share `overlap`: a share of the window (0.5) or, as an integer, a number of elements. The last
        one ends where the array does. `length` is the window's, needed only where the graph leaves the axis open.
        `others` are one row of each other input, the same for every window; optional ones may be left out.

        `blend` weighs windows where they overlap: a name in `BLENDS`, or a function from a length to positive
        weights. Each output must then keep the axes, at whatever scale: as the same ones, or as `output_axis`. With
        `blend=None` any output will do, and results are `(windows along each axis..., *row)`.
        Raises `InvalidTensorError`, `ConfigError`, and what a call raises.
        """
        rest = dict(others or {})
        spec = _sliding_input(self.inputs, rest)
        whole = cast_array(np.asarray(array), spec)
        grid = make_grid(whole, spec, Steps(axis, length, stride, overlap))
        weights = _weights(blend)
        canvases: dict[str, SlidingWindows | Canvas] = {}
        for places, results in self._windows(grid, whole, spec.name, rest):
            for name, rows in results.items():
                if name not in canvases:
                    made = SlidingWindows(grid) if weights is None else Canvas(name, rows, grid, output_axis, weights)
                    canvases[name] = made
                canvases[name].add(places, rows)
        return {name: canvas.result() for name, canvas in canvases.items()}

    def _windows(
        self, grid: Grid, whole: Array, name: str, others: Mapping[str, npt.ArrayLike]
    ) -> Iterator[tuple[list[tuple[int, ...]], Arrays]]:
        """Run the windows, as many at a time as keep the network busy."""
        fixed = {each: np.asarray(values) for each, values in others.items()}
        left = grid.places()
        while places := list(islice(left, self.rows_at_once)):
            feeds = {each: np.broadcast_to(row, (len(places), *row.shape)) for each, row in fixed.items()}
            feeds[name] = np.stack([grid.window(whole, place) for place in places])
            yield places, self(feeds)


class SlidingWindows:
    """One output, window by window."""

    def __init__(self, grid: Grid) -> None:
        self._shape = grid.shape
        self._rows: list[Array] = []

    def add(self, places: Sequence[tuple[int, ...]], rows: Array) -> None:
        """Add windows, in the grid's order."""
        self._rows.append(rows)

    def result(self) -> Array:
        """`(windows along each axis..., *row)`."""
        rows = np.concatenate(self._rows)
        return rows.reshape(*self._shape, *rows.shape[1:])


class Canvas:
    """One output over the whole array: the weighted mean of all windows that cover an element."""

    def __init__(self, name: str, rows: Array, grid: Grid, output_axis: Axes | None, weights: Weights) -> None:
        shape = rows.shape[1:]
        if rows.dtype.kind != "f":
            raise ConfigError(f"output {name!r} is {rows.dtype}, only floats can be blended: expected blend=None")
        self._axes = _axes_of(name, shape, grid, output_axis)
        self._lengths = [shape[axis] for axis in self._axes]
        self._starts: list[list[int]] = []
        self._shares: list[list[Array]] = []
        self._dtype, wide = rows.dtype, np.result_type(rows.dtype, np.float32)
        sizes = list(shape)
        for at, (axis, length) in enumerate(zip(self._axes, self._lengths, strict=True)):
            starts = _scaled(name, grid.starts[at], Fraction(length, grid.lengths[at]))
            stretched = [length if each == axis else 1 for each in range(len(shape))]
            self._starts.append(starts)
            self._shares.append([share.astype(wide).reshape(stretched) for share in _shares(starts, length, weights)])
            sizes[axis] = starts[-1] + length
        self._total = np.zeros(sizes, wide)

    def add(self, places: Sequence[tuple[int, ...]], rows: Array) -> None:
        """Add windows by their places; each is added once."""
        for place, row in zip(places, rows, strict=True):
            firsts = [starts[number] for starts, number in zip(self._starts, place, strict=True)]
            share = np.ones((), self._total.dtype)
            for each, number in zip(self._shares, place, strict=True):
                share = share * each[number]
            self._total[make_block_index(self._total.ndim, self._axes, firsts, self._lengths)] += row * share

    def result(self) -> Array:
        """Return the blended output, in its own type."""
        return self._total.astype(self._dtype, copy=False)


def _sliding_input(specs: Sequence[TensorSpec], others: Mapping[str, npt.ArrayLike]) -> TensorSpec:
    names = [spec.name for spec in specs]
    if unknown := sorted(set(others) - set(names)):
        raise InvalidTensorError(f"others: there are no inputs {unknown}, expected some of {names}")
    left = [spec for spec in specs if spec.name not in others and not spec.optional]
    if len(left) != 1:
        raise InvalidTensorError(f"one input slides, expected all of {names} but that one in others={sorted(others)}")
    return left[0]


def _weights(blend: Blend) -> Weights | None:
    if isinstance(blend, str):
        if blend not in BLENDS:
            raise ConfigError(f"blend is {blend!r}, expected one of {sorted(BLENDS)}, a function, or None")
        return BLENDS[blend]
    return blend


def _axes_of(name: str, shape: tuple[int, ...], grid: Grid, output_axis: Axes | None) -> tuple[int, ...]:
    """The axes of an output's row that the grid's are."""
    try:
        axes = normalize_axes("output_axis", grid.axes if output_axis is None else output_axis, len(shape))
    except ConfigError as exc:
        raise ConfigError(f"output {name!r} is (batch, {shape}): {exc}; or blend=None, to get windows") from exc
    if len(axes) != len(grid.axes):
        raise ConfigError(f"output_axis is {output_axis}, expected an axis for each of {grid.axes}, which slide")
    return axes


def _scaled(name: str, starts: Sequence[int], scale: Fraction) -> list[int]:
    """Return where windows begin in an output that is `scale` times as long as the input."""
    scaled = [start * scale for start in starts]
    for start, exact in zip(starts, scaled, strict=True):
        if exact.denominator != 1:
            raise ConfigError(
                f"output {name!r} is {scale} times as long as its input, so that a window at {start} begins between "
                f"two elements: expected strides, and an array, in multiples of {scale.denominator}"
            )
    return [int(exact) for exact in scaled]


def _shares(starts: Sequence[int], length: int, weights: Weights) -> list[Array]:
    """Each window's share along one axis: its weights, divided by those of all windows that cover the element."""
    own = np.asarray(weights(length), np.float64)
    if own.shape != (length,) or not (np.isfinite(own) & (own > 0)).all():
        raise ConfigError(f"blend gave weights of shape {own.shape}, expected {length} positive numbers")
    total = np.zeros(starts[-1] + length)
    for start in starts:
        total[start : start + length] += own
    return [own / total[start : start + length] for start in starts]
