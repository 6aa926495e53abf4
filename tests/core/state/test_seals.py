"""Tests `streamd/core/state/seals.py`: many seals at once are those of zlib, and no two rows share one by a step."""

import zlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.state.seals import compute_seals, mix_seed

WORDS = st.integers(0, 2**32 - 1)


@given(st.lists(st.tuples(WORDS, st.lists(WORDS, min_size=3, max_size=3)), min_size=1, max_size=20))
def test_many_seals_at_once_are_those_of_zlib(rows: list[tuple[int, list[int]]]) -> None:
    words = np.array([row for _, row in rows], np.uint32)
    seeds = np.array([seed for seed, _ in rows], np.uint32)
    expected = [zlib.crc32(np.array(row, "<u4").tobytes(), seed) or 1 for seed, row in rows]
    assert compute_seals(words, seeds).tolist() == expected


@given(
    WORDS,
    st.integers(0, 2**30),
    st.integers(1, 2_000),
    st.sampled_from([0x80, 0x85, 3]),
    st.binary(min_size=8, max_size=8),
)
def test_the_same_row_of_another_step_has_another_seal(seed: int, step: int, later: int, mark: int, row: bytes) -> None:
    assert zlib.crc32(row, mix_seed(seed, step, mark)) != zlib.crc32(row, mix_seed(seed, step + later, mark))
