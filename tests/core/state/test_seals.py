"""Tests `streamd/core/state/seals.py`: many seals at once are those of each row, and each small change shows."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.state.seals import NO_SEAL, PRIME, compute_seal, compute_seals, compute_seals_of_step

WORDS = st.integers(0, 2**32 - 1)
STEPS = st.integers(-1, 2**40)
MARKS = st.integers(0, 255)


@st.composite
def sealed_rows(draw: st.DrawFn) -> tuple[list[bytes], list[tuple[int, int, int]]]:
    """Draw rows of one length, up to beyond one block of words, with the seed, step and mark of each."""
    size = 4 * draw(st.sampled_from([1, 3, 14, 64, 65, 200]))
    rows = draw(st.lists(st.binary(min_size=size, max_size=size), min_size=1, max_size=8))
    return rows, [draw(st.tuples(WORDS, STEPS, MARKS)) for _ in rows]


@given(sealed_rows())
def test_many_seals_at_once_are_those_of_each_row(drawn: tuple[list[bytes], list[tuple[int, int, int]]]) -> None:
    rows, sources = drawn
    words = np.stack([np.frombuffer(row, np.uint32) for row in rows])
    seeds, steps, marks = zip(*sources, strict=True)
    found = compute_seals(words, np.array(seeds, np.uint32), np.array(steps, np.int64), np.array(marks, np.uint8))
    assert found.dtype == np.uint32
    assert found.tolist() == [compute_seal(row, *source) for row, source in zip(rows, sources, strict=True)]


@given(sealed_rows(), STEPS, MARKS)
def test_seals_of_one_step_are_those_of_each_row(
    drawn: tuple[list[bytes], list[tuple[int, int, int]]], step: int, mark: int
) -> None:
    rows, sources = drawn
    words = np.stack([np.frombuffer(row, np.uint32) for row in rows])
    seeds = np.array([source[0] for source in sources], np.int64)
    expected = [compute_seal(row, source[0], step, mark) for row, source in zip(rows, sources, strict=True)]
    assert compute_seals_of_step(words, seeds, step, mark).tolist() == expected


def test_the_largest_row_is_exact() -> None:
    rows = np.full((1_500, 64), 2**32 - 1, np.uint32)
    seal = compute_seal(rows[0].tobytes(), 2**32 - 1, 2**40, 255)
    arguments = (np.full(1_500, 2**32 - 1, np.uint32), np.full(1_500, 2**40), np.full(1_500, 255, np.uint8))
    assert set(compute_seals(rows, *arguments).tolist()) == {seal}


@given(st.binary(min_size=56, max_size=56), WORDS, STEPS, MARKS)
def test_a_seal_is_never_that_of_no_row(row: bytes, seed: int, step: int, mark: int) -> None:
    assert NO_SEAL < compute_seal(row, seed, step, mark) <= PRIME


@given(st.binary(min_size=56, max_size=56), st.integers(0, 55 * 8), st.integers(1, 2**29 - 1), WORDS, STEPS, MARKS)
def test_changed_bits_among_29_neighbours_change_the_seal(
    row: bytes, first: int, bits: int, seed: int, step: int, mark: int
) -> None:
    changed = (int.from_bytes(row, "little") ^ bits << first).to_bytes(64, "little")
    assert compute_seal(changed, seed, step, mark) != compute_seal(row, seed, step, mark)


@given(st.binary(min_size=8, max_size=8), WORDS, st.integers(0, 2**40), st.integers(1, 3_000_000), MARKS, MARKS)
def test_the_same_row_of_another_step_or_with_another_mark_has_another_seal(
    row: bytes, seed: int, step: int, later: int, mark: int, other: int
) -> None:
    assert compute_seal(row, seed, step, mark) != compute_seal(row, seed, step + later, other)
    if mark != other:
        assert compute_seal(row, seed, step, mark) != compute_seal(row, seed, step, other)


def test_rows_of_small_numbers_rarely_share_a_seal() -> None:
    """Seals of rows whose values are few whole numbers, at neighbouring steps: no more alike than by chance."""
    values = np.stack(np.meshgrid(*[np.arange(16, dtype=np.float32)] * 4), axis=-1).reshape(-1, 4)
    steps = np.repeat(np.arange(1_000_000, 1_000_004), len(values))
    rows = np.tile(values, (4, 1)).view(np.uint32)
    seals = compute_seals(rows, np.full(len(rows), 7, np.uint32), steps, np.full(len(rows), 0x80, np.uint8))
    pairs = len(rows) ** 2 / 2 / PRIME
    assert len(rows) - len(np.unique(seals)) <= pairs + 6 * pairs**0.5 + 3
