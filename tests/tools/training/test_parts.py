"""Tests `streamd/tools/training/parts.py`: cutting at gaps, splits in time, and alignment at the splits."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.tools.training.parts import (
    RecordedPart,
    SplitLengths,
    align_parts,
    cut_at_gaps,
    split_at_time,
    split_by_share,
)

STEP = 300


def make_part(count: int, begin: int = 0, name: str = "a") -> RecordedPart:
    return RecordedPart(name=name, begin=begin, values=np.arange(1.0, count + 1, dtype=np.float32)[:, None])


def test_a_machine_without_a_long_gap_is_one_part_of_its_name() -> None:
    values = np.array([[np.nan], [1], [np.nan], [np.nan], [2], [np.nan]], np.float32)
    (part,) = cut_at_gaps("a", 600, values, longest_gap=2, least=1, step_seconds=STEP)
    assert (part.name, part.begin) == ("a", 900)
    np.testing.assert_array_equal(part.values[:, 0], [1, np.nan, np.nan, 2])


def test_a_longer_gap_cuts_and_short_parts_are_left_out() -> None:
    values = np.full((20, 1), np.nan, np.float32)
    values[[0, 1, 2, 6, 10, 11, 12, 13]] = 1.0
    parts = cut_at_gaps("a", 0, values, longest_gap=2, least=3, step_seconds=STEP)
    assert [(p.name, p.begin // STEP, len(p.values)) for p in parts] == [("a/1", 0, 3), ("a/2", 10, 4)]


def test_a_machine_without_values_has_no_part() -> None:
    assert cut_at_gaps("a", 0, np.full((5, 1), np.nan, np.float32), longest_gap=1, least=1, step_seconds=STEP) == []


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(0, 5))
def test_parts_have_every_value_once_at_its_time_and_no_long_gap(seen: list[bool], longest: int) -> None:
    values = np.where(seen, np.arange(1.0, len(seen) + 1), np.nan).astype(np.float32)[:, None]
    parts = cut_at_gaps("a", 3000, values, longest_gap=longest, least=1, step_seconds=STEP)
    found: dict[int, float] = {}
    for part in parts:
        at = np.flatnonzero(~np.isnan(part.values[:, 0]))
        assert at[0] == 0
        assert at[-1] == len(part.values) - 1
        assert (np.diff(at) <= longest + 1).all()
        found |= {(part.begin - 3000) // STEP + int(i): float(part.values[i, 0]) for i in at}
    assert found == {i: i + 1.0 for i, known in enumerate(seen) if known}
    for one, other in pairwise(parts):
        assert (other.begin - one.begin) // STEP - len(one.values) > longest


def test_the_last_part_has_the_validation_and_test_steps() -> None:
    parts = [make_part(500), make_part(1000, 1000 * STEP)]
    assert split_by_share(parts, 0.2, val=100, least=50) == [
        SplitLengths(train=500, val=0, test=0),
        SplitLengths(train=700, val=100, test=200),
    ]


def test_a_part_too_short_for_the_splits_is_for_training() -> None:
    assert split_by_share([make_part(149)], 0.2, val=100, least=50) == [SplitLengths(train=149, val=0, test=0)]
    assert split_by_share([make_part(150)], 0.2, val=100, least=50) == [SplitLengths(train=0, val=100, test=50)]


def test_a_boundary_in_time_splits_each_part_and_validates_the_last_before_it() -> None:
    parts = [make_part(100), make_part(60, 200 * STEP), make_part(50, 400 * STEP)]
    assert split_at_time(parts, 420 * STEP, val=15, step_seconds=STEP) == [
        SplitLengths(train=100, val=0, test=0),
        SplitLengths(train=60, val=0, test=0),
        SplitLengths(train=5, val=15, test=30),
    ]
    assert split_at_time(parts, 300 * STEP, val=15, step_seconds=STEP) == [
        SplitLengths(train=100, val=0, test=0),
        SplitLengths(train=45, val=15, test=0),
        SplitLengths(train=0, val=0, test=50),
    ]


def test_a_last_part_too_short_for_validation_is_all_validated() -> None:
    (only,) = split_at_time([make_part(30)], 10 * STEP, val=15, step_seconds=STEP)
    assert only == SplitLengths(train=0, val=10, test=20)


@given(
    st.lists(st.tuples(st.integers(1, 20), st.integers(0, 40)), min_size=1, max_size=6),
    st.integers(0, 40),
    st.integers(1, 5),
)
def test_aligned_parts_keep_values_times_and_splits(rows: list[tuple[int, int]], boundary: int, val: int) -> None:
    begins = [begin * STEP for _, begin in rows]
    lengths = [
        split_at_time([make_part(n, b)], boundary * STEP, val, STEP)[0] for (n, _), b in zip(rows, begins, strict=True)
    ]
    counts = [x.train + x.val + x.test for x in lengths]
    parts = [make_part(n, b, f"m{i}") for i, (n, b) in enumerate(zip(counts, begins, strict=True))]
    aligned = align_parts(parts, lengths, STEP)
    assert aligned.names == [part.name for part in parts]
    for i, (part, length) in enumerate(zip(parts, lengths, strict=True)):
        known = np.flatnonzero(~np.isnan(aligned.values[i, :, 0]))
        np.testing.assert_array_equal(aligned.values[i, known], part.values)
        assert aligned.begins[i] + known[0] * STEP == part.begin
        for split in ("train", "val", "test"):
            first, end = aligned.splits[split]
            assert ((known >= first) & (known < end)).sum() == getattr(length, split)


def test_a_part_with_another_validation_split_is_refused() -> None:
    lengths = [SplitLengths(train=10, val=0, test=10), SplitLengths(train=5, val=5, test=10)]
    with pytest.raises(ValueError, match=r"part 'a' has SplitLengths\(train=10, val=0, test=10\), expected 5 steps"):
        align_parts([make_part(20), make_part(20)], lengths, STEP)
