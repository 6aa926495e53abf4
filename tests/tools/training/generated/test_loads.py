"""Tests `streamd/tools/training/generated/loads.py`: loads have a day and a week, told by the true time."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from streamd.tools.training.generated.loads import make_day_factors, make_day_shape, make_loads  # noqa: E402


def test_a_load_is_positive_with_a_mean_of_one(draws: Any) -> None:
    load = make_loads(draws, torch.zeros(100, 1))
    assert load.min() >= 0
    torch.testing.assert_close(load.mean(-1), torch.ones(100))


def test_a_day_repeats_itself(draws: Any) -> None:
    shape = make_day_shape(draws, 2016.0 + draws.time.expand(50, -1))
    torch.testing.assert_close(shape[:, 288:], shape[:, :-288], atol=1e-3, rtol=0)
    assert (shape.std(-1) - 1).abs().max() < 0.01


def test_most_weekends_are_quieter_wherever_the_week_begins(draws: Any) -> None:
    begin = 288.0 * (torch.arange(400) % 7).view(-1, 1)
    factors = make_day_factors(draws, begin + draws.time)
    weekday = ((begin + draws.time) / 288).long() % 7
    sunday = torch.where(weekday == 6, factors, torch.nan).nanmean(-1)
    tuesday = torch.where(weekday == 1, factors, torch.nan).nanmean(-1)
    assert (sunday < 0.9 * tuesday).float().mean() > 0.3
    assert (sunday > tuesday).float().mean() > 0.1
    friday_noon = factors.gather(1, (4 * 288 + 144 - begin).long() % 2016)
    assert ((friday_noon > 0.6).float().mean()) > 0.8
