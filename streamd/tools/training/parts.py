"""Cuts recorded series at long gaps, splits each part in time, and aligns all parts at their splits.

This module is pure NumPy; it reads no file.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(kw_only=True)
class RecordedPart:
    """A machine's rows without a long gap, on their own grid."""

    name: str
    begin: int
    """Epoch seconds of the first step."""

    values: np.ndarray
    """`(step, metric) float32`, NaN for a step without a sample."""


@dataclass(frozen=True, kw_only=True)
class SplitLengths:
    """The number of steps of each split of a part, in this order in time; each can be 0."""

    train: int
    val: int
    test: int


def cut_at_gaps(
    name: str, begin: int, values: np.ndarray, longest_gap: int, least: int, step_seconds: int
) -> list[RecordedPart]:
    """Return the parts of a machine between gaps of more than `longest_gap` steps, and no part of under `least` steps.

    `values` is `(step, metric)`; a gap is a run of steps without any value. Parts are numbered from 1 if there are more
    than one.
    """
    seen = np.flatnonzero(~np.isnan(values).all(axis=1))
    runs = np.split(seen, np.flatnonzero(np.diff(seen) > longest_gap + 1) + 1) if len(seen) else []
    spans = [(int(run[0]), int(run[-1]) + 1) for run in runs]
    spans = [(first, end) for first, end in spans if end - first >= least]
    return [
        RecordedPart(
            name=name if len(spans) == 1 else f"{name}/{number}",
            begin=begin + first * step_seconds,
            values=values[first:end],
        )
        for number, (first, end) in enumerate(spans, 1)
    ]


def split_by_share(parts: list[RecordedPart], share: float, val: int, least: int) -> list[SplitLengths]:
    """Return the splits of the parts of one machine, in time order: the last part has all validation and test steps.

    The test split is the last `share` of that part, at least `least` steps; the `val` steps before it are for
    validation. A part that is too short for both, or is not the last one, is for training.
    """
    found = [SplitLengths(train=len(part.values), val=0, test=0) for part in parts]
    if parts:
        count = len(parts[-1].values)
        test = max(least, int(count * share))
        if count >= val + test:
            found[-1] = SplitLengths(train=count - val - test, val=val, test=test)
    return found


def split_at_time(parts: list[RecordedPart], test_begin: int, val: int, step_seconds: int) -> list[SplitLengths]:
    """Return the splits of the parts of one machine, in time order: what is from `test_begin` on is for the test.

    The last `val` steps before it are for validation: of the last part that has steps before it, all if it has fewer.
    """
    before = [min(len(p.values), max(0, -((p.begin - test_begin) // step_seconds))) for p in parts]
    last = max((i for i, count in enumerate(before) if count), default=-1)
    found = []
    for i, (part, count) in enumerate(zip(parts, before, strict=True)):
        validated = min(val, count) if i == last else 0
        found.append(SplitLengths(train=count - validated, val=validated, test=len(part.values) - count))
    return found


@dataclass(kw_only=True)
class AlignedParts:
    """Parts on one grid on which all change from training to validation and to test at the same step."""

    names: list[str]
    begins: np.ndarray
    """`(part,) int64`: epoch seconds of step 0 of each part; a later part begins with steps without values."""

    values: np.ndarray
    """`(part, step, metric) float32`."""

    splits: dict[str, tuple[int, int]]
    """The first step and the step after the last, of `train`, `val` and `test`."""


def align_parts(parts: list[RecordedPart], lengths: list[SplitLengths], step_seconds: int) -> AlignedParts:
    """Place parts so that their splits fall on the same steps.

    Raises `ValueError` if a part has training steps and, after them, other steps but not the longest validation split:
    then no place is right for it.
    """
    train, val, test = (max(getattr(length, split) for length in lengths) for split in ("train", "val", "test"))
    columns = parts[0].values.shape[1]
    values = np.full((len(parts), train + val + test, columns), np.nan, np.float32)
    begins = np.zeros(len(parts), np.int64)
    for i, (part, length) in enumerate(zip(parts, lengths, strict=True)):
        later = length.val or length.test
        if later and length.train and length.val != val:
            raise ValueError(f"part {part.name!r} has {length}, expected {val} steps for validation")
        offset = train + val - length.train - length.val if later else train - length.train
        values[i, offset : offset + len(part.values)] = part.values
        begins[i] = part.begin - offset * step_seconds
    splits = {"train": (0, train), "val": (train, train + val), "test": (train + val, train + val + test)}
    return AlignedParts(names=[part.name for part in parts], begins=begins, values=values, splits=splits)
