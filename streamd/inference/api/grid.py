"""Places windows on a larger array: a grid along some of its axes."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from streamd.core.errors import ConfigError, InvalidTensorError
from streamd.inference.runner import Array, TensorSpec

Axes = int | Sequence[int]
Overlap = float | Sequence[float]

DEFAULT_OVERLAP = 0.5

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Steps:
    """The requested steps: each is one value for all axes or one for each; at most one of `stride` and `overlap`."""

    axis: Axes | None = None
    length: Axes | None = None
    stride: Axes | None = None
    overlap: Overlap | None = None


@dataclass(frozen=True)
class Grid:
    """Windows begin at `starts[i]` along `axes[i]` of the array and are `lengths[i]` long there."""

    axes: tuple[int, ...]
    lengths: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of windows along each axis."""
        return tuple(map(len, self.starts))

    def places(self) -> Iterator[tuple[int, ...]]:
        """Every window as its number along each axis, the last axis fastest."""
        return itertools.product(*map(range, self.shape))

    def window(self, array: Array, place: tuple[int, ...]) -> Array:
        """The part of the array that a window shows."""
        firsts = [starts[number] for starts, number in zip(self.starts, place, strict=True)]
        return array[make_block_index(array.ndim, self.axes, firsts, self.lengths)]


def make_grid(whole: Array, spec: TensorSpec, steps: Steps) -> Grid:
    """Lay a grid over one row of an input that is larger than the network takes.

    Raises `InvalidTensorError` for an array that no window fits, `ConfigError` for steps that make no sense.
    """
    if whole.ndim != len(spec.shape):
        raise InvalidTensorError(
            f"input {spec.name!r} is {whole.shape}, expected as many axes as a row of {spec.description}"
        )
    larger = [at for at, size in enumerate(spec.shape) if size not in (None, whole.shape[at])]
    axes = tuple(larger) if steps.axis is None else normalize_axes("axis", steps.axis, whole.ndim)
    for fixed in sorted(set(larger) - set(axes)):
        raise InvalidTensorError(
            f"input {spec.name!r} has {whole.shape[fixed]} along axis {fixed}, which does not slide: "
            f"expected {spec.shape[fixed]}, or axis={fixed} among those that do"
        )
    lengths = _lengths(spec, axes, steps.length)
    for axis, length in zip(axes, lengths, strict=True):
        if whole.shape[axis] < length:
            raise InvalidTensorError(
                f"input {spec.name!r} has {whole.shape[axis]} along axis {axis}, expected {length} or more: pad it"
            )
    strides = _strides(lengths, steps)
    sizes = [whole.shape[axis] for axis in axes]
    starts = tuple(list_window_starts(*each) for each in zip(sizes, lengths, strides, strict=True))
    return Grid(axes, lengths, starts)


def list_window_starts(size: int, length: int, stride: int) -> tuple[int, ...]:
    """Return where windows begin along an axis: every `stride`; the last one ends with the axis."""
    return (*range(0, size - length, stride), size - length)


def make_block_index(
    ndim: int, axes: Sequence[int], firsts: Sequence[int], lengths: Sequence[int]
) -> tuple[slice, ...]:
    """The index of a block: bounded along some axes, whole along the others."""
    index = [slice(None)] * ndim
    for axis, first, length in zip(axes, firsts, lengths, strict=True):
        index[axis] = slice(first, first + length)
    return tuple(index)


def normalize_axes(what: str, given: Axes, ndim: int) -> tuple[int, ...]:
    """Axes as numbers from 0, none twice; raises `ConfigError`."""
    axes = (given,) if isinstance(given, int) else tuple(given)
    numbers = tuple(axis + ndim if axis < 0 else axis for axis in axes)
    if any(not 0 <= axis < ndim for axis in numbers) or len(set(numbers)) < len(numbers):
        raise ConfigError(f"{what} is {given}, expected different axes from 0 to {ndim - 1}, without the batch axis")
    return numbers


def _lengths(spec: TensorSpec, axes: tuple[int, ...], length: Axes | None) -> tuple[int, ...]:
    own = [spec.shape[axis] for axis in axes]
    given: Sequence[int | None] = own if length is None else _for_each("length", length, len(axes))
    lengths = []
    for axis, want, size in zip(axes, own, given, strict=True):
        if size is None or size < 1 or want not in (None, size):
            expected = "one of 1 or more, since the graph leaves it open" if want is None else str(want)
            raise ConfigError(f"the window's length along axis {axis} is {size}, expected {expected}")
        lengths.append(size)
    return tuple(lengths)


def _strides(lengths: tuple[int, ...], steps: Steps) -> tuple[int, ...]:
    if steps.stride is not None and steps.overlap is not None:
        raise ConfigError(f"stride {steps.stride} and overlap {steps.overlap}: give one")
    if steps.stride is not None:
        strides = _for_each("stride", steps.stride, len(lengths))
    else:
        overlap = DEFAULT_OVERLAP if steps.overlap is None else steps.overlap
        shared = _for_each("overlap", overlap, len(lengths))
        strides = tuple(map(_stride, lengths, shared))
    for stride, length in zip(strides, lengths, strict=True):
        if not 1 <= stride <= length:
            raise ConfigError(f"a stride of {stride} for windows of {length}, expected 1 to {length}: no gaps")
    return strides


def _stride(length: int, overlap: float) -> int:
    if isinstance(overlap, int):
        return length - overlap
    if not 0 <= overlap < 1:
        raise ConfigError(f"overlap is {overlap}, expected a share from 0 to less than 1, or a whole number")
    return max(1, round(length * (1 - overlap)))


def _for_each(what: str, given: Number | Sequence[Number], count: int) -> tuple[Number, ...]:
    values = tuple(given) if isinstance(given, Sequence) else (given,) * count
    if len(values) != count:
        raise ConfigError(f"{what} is {given}, expected one value, or one for each of the {count} axes that slide")
    return values
