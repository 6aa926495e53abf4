"""Converts what a caller gives into what a network takes: names, shapes and types are checked, nothing is guessed.

Numbers are only converted where their value survives: see `cast_array`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamd.core.errors import InvalidTensorError
from streamd.inference.runner import Array, Arrays, TensorSpec

ArrayInputs = Mapping[str, npt.ArrayLike] | npt.ArrayLike


@dataclass(frozen=True, slots=True)
class ArrayBatch:
    """Rows by input name; `single` where they came without the batch axis."""

    rows: Arrays
    count: int
    single: bool

    def part(self, start: int, stop: int) -> Arrays:
        """Some of the rows."""
        return {name: rows[start:stop] for name, rows in self.rows.items()}


def prepare_batch(given: ArrayInputs, specs: Sequence[TensorSpec]) -> ArrayBatch:
    """Check what a caller gave and return it as a batch; raises `InvalidTensorError` with what was expected."""
    rows: Arrays = {}
    counts: dict[str, int | None] = {}
    arrays = _by_name(given, specs)
    for spec in specs:
        if spec.optional and spec.name not in arrays:
            continue
        array, counts[spec.name] = _with_batch_axis(arrays[spec.name], spec)
        rows[spec.name] = cast_array(array, spec)
    sizes = set(counts.values())
    if len(sizes) > 1:
        counted = {name: "no batch axis" if count is None else f"{count} rows" for name, count in counts.items()}
        raise InvalidTensorError(f"inputs have different numbers of rows: {counted}; expected as many of each")
    (count,) = sizes
    return ArrayBatch(rows, 1 if count is None else count, count is None)


def cast_array(array: Array, spec: TensorSpec) -> Array:
    """Return the array in the input's type, C-ordered.

    Floats are rounded to the network's; integers are taken where each is exactly representable. Raises
    `InvalidTensorError` with the first place where a finite number would overflow or change, and for floats where
    integers are expected.
    """
    source, target = array.dtype.kind, spec.dtype.kind
    integers_to_float = source in "iu" and target == "f"  # which numpy calls safe where int64 is rounded
    if not integers_to_float and np.can_cast(array.dtype, spec.dtype, "safe"):
        return np.ascontiguousarray(array, spec.dtype)
    if source not in "iuf" or target == "b" or (source == "f" and target != "f"):
        raise InvalidTensorError(f"input {spec.name!r} is {array.dtype}, expected {spec.dtype}")
    with np.errstate(over="ignore", invalid="ignore"):
        made = array.astype(spec.dtype)
        wrong = np.isinf(made) & np.isfinite(array) if source == "f" else _changed(array, made)
    if wrong.any():
        place = tuple(int(axis) for axis in np.unravel_index(int(np.argmax(wrong)), wrong.shape))
        raise InvalidTensorError(
            f"input {spec.name!r} at {place} is {array[place]} ({array.dtype}), which {spec.dtype} cannot hold"
        )
    return np.ascontiguousarray(made)


def _changed(array: Array, made: Array) -> npt.NDArray[np.bool_]:
    """Return where integers changed their value."""
    limits = np.iinfo(array.dtype)
    if made.dtype.kind == "f":
        beyond = made >= 2.0 ** (limits.bits - (array.dtype.kind == "i"))  # rounded up to what has no way back
        return np.asarray(beyond | (made.astype(array.dtype) != array))
    room = np.iinfo(made.dtype)
    low, high = max(room.min, limits.min), min(room.max, limits.max)
    return np.asarray((array < low) | (array > high))


def _by_name(given: ArrayInputs, specs: Sequence[TensorSpec]) -> Arrays:
    expected = {spec.name: spec.description for spec in specs}
    needed = [spec.name for spec in specs if not spec.optional]
    if not isinstance(given, Mapping):
        if len(needed) != 1:
            raise InvalidTensorError(f"one array was given for {len(needed)} inputs, expected one by name: {expected}")
        given = {needed[0]: given}
    if not set(needed) <= set(given) <= set(expected):
        missing, unknown = sorted(set(needed) - set(given)), sorted(map(str, set(given) - set(expected)))
        faults = "; ".join(f"{what} {names}" for what, names in (("missing", missing), ("unknown", unknown)) if names)
        raise InvalidTensorError(f"inputs: {faults}; expected {expected}")
    arrays = {}
    for name, values in given.items():
        try:
            arrays[name] = np.asarray(values)
        except ValueError as exc:  # nested lists of unequal lengths
            raise InvalidTensorError(f"input {name!r}: {exc}, expected {expected[name]}") from exc
    return arrays


def _with_batch_axis(array: Array, spec: TensorSpec) -> tuple[Array, int | None]:
    """Return the array with a batch axis, and the number of its rows; `None` if it came without the axis."""
    axes = len(spec.shape)
    single = array.ndim == axes
    shape = array.shape if single else array.shape[1:]
    fits = array.ndim in (axes, axes + 1) and all(
        want in (None, got) for got, want in zip(shape, spec.shape, strict=True)
    )
    if not fits:
        raise InvalidTensorError(
            f"input {spec.name!r} is {array.shape}, expected {spec.description}, or one row without the batch axis"
        )
    return (array[None], None) if single else (array, len(array))
