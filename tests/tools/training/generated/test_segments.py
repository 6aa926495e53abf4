"""Tests `streamd/tools/training/generated/segments.py` on random spans, against a count step by step."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from streamd.tools.training.generated.draws import SeriesDraws  # noqa: E402
from streamd.tools.training.generated.segments import Segments, count_segments, make_segments  # noqa: E402

LENGTH = 60


def make(spans: list[int], begin: int) -> tuple[Any, Any]:
    draws = SeriesDraws(torch.Generator().manual_seed(1), torch.device("cpu"), LENGTH)
    return draws, make_segments(draws, torch.tensor([spans], dtype=torch.float32), torch.tensor([[float(begin)]]))


@given(spans=st.lists(st.integers(1, 30), min_size=1, max_size=20), begin=st.integers(0, 700))
def test_segments_follow_one_another(spans: list[int], begin: int) -> None:
    _, segments = make(spans, begin)
    sequence = [(n, age, span) for n, span in enumerate(spans) for age in range(span)]
    expected = [sequence[(begin + t) % len(sequence)] for t in range(LENGTH)]
    found = zip(segments.number[0].tolist(), segments.age[0].tolist(), segments.span[0].tolist(), strict=True)
    assert list(found) == expected


@given(spans=st.lists(st.integers(1, 30), min_size=1, max_size=20), begin=st.integers(0, 700))
def test_a_sum_restarts_with_each_segment(spans: list[int], begin: int) -> None:
    _, segments = make(spans, begin)
    level = segments.restart(2.0 * torch.arange(LENGTH, dtype=torch.float32).view(1, -1))
    torch.testing.assert_close(level, 2.0 * segments.age)


def test_values_are_spread_over_their_segments() -> None:
    _, segments = make([2, 3], 1)
    assert segments.spread(torch.tensor([[10.0, 20.0]]))[0, :6].tolist() == [10, 20, 20, 20, 10, 10]


def test_segments_begin_anywhere_and_are_enough(draws: Any) -> None:
    spans = draws.draw_log_uniform(6.0, 60.0, 200, count_segments(draws))
    segments: Segments = make_segments(draws, spans)
    assert (segments.age[:, 0] > 0).any()
    assert len(segments.number[0].unique()) > 50
