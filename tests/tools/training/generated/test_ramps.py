"""Tests `streamd/tools/training/generated/ramps.py`: what grows is set back, at a limit, by the clock or by chance."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from streamd.tools.training.generated import ramps  # noqa: E402


def test_a_growing_sum_never_falls_and_grows_by_one_a_day(rows: Any) -> None:
    x = ramps.make_growing_sum(rows)
    assert (x.diff() >= 0).all()
    torch.testing.assert_close(x[:, -1], torch.full((60,), 14.0), rtol=0.01, atol=0)


def test_disks_fill_slowly_and_are_cleaned_at_once(rows: Any) -> None:
    step = ramps.make_disks(rows).diff()
    rising, falling = (step > 0).sum(-1), (step < 0).sum(-1)
    assert (rising > 3 * falling).float().mean() > 0.7
    assert (falling > 0).float().mean() > 0.4


def test_clock_segments_begin_at_a_full_hour(rows: Any) -> None:
    segments = ramps.make_clock_segments(rows)
    begins = torch.nonzero(segments.age == 0)[:, 1]
    assert len(begins) > 60
    assert (begins % 12 == 0).all()


def test_leaks_fall_faster_than_they_grow(rows: Any) -> None:
    step = ramps.make_leaks(rows).diff()
    assert (step.amin(-1).abs() > step.amax(-1)).float().mean() > 0.7


def test_collections_saw_up_and_down(rows: Any) -> None:
    x = ramps.make_collections(rows)
    fall = x.diff() < -0.3
    assert (fall.float().sum(-1) > 10).float().mean() > 0.9
