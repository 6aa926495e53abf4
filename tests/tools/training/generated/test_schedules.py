"""Tests `streamd/tools/training/generated/schedules.py`: tasks come by the clock, bursts by chance, jobs by load."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from streamd.tools.training.generated import schedules  # noqa: E402
from streamd.tools.training.generated.loads import SeriesRows  # noqa: E402


def test_a_task_comes_at_the_same_time_of_the_week_wherever_the_series_begins(rows: Any) -> None:
    x = schedules.make_task(rows, 0.3) > 0
    week, later = x[:, :2016].float(), x[:, 2016:].float()
    same = (week * later).sum(-1) / later.sum(-1).clamp(min=1)
    assert same.quantile(0.7) > 0.8
    assert 0 < x.float().mean() < 0.4


def test_tasks_follow_the_clock_and_not_the_beginning_of_the_series(draws: Any) -> None:
    def make(begin: float) -> Any:
        draws.rng.manual_seed(3)
        return schedules.make_task(SeriesRows(draws, torch.full((80, 1), begin), torch.ones(80, 4032)), 0.3) > 0

    def compare(a: Any, b: Any) -> Any:
        """Return the share of the running steps that two series have in common, by the upper third of the rows."""
        return ((a & b).sum(-1) / (a | b).sum(-1)).nanquantile(0.67)

    early, late = make(0.0), make(301.0)
    assert compare(early[:, 301:2000], late[:, :1699]) > 0.7
    assert compare(early[:, :1699], late[:, :1699]) < 0.4


def test_cron_spikes_stand_out_of_their_base(rows: Any) -> None:
    x = schedules.make_cron(rows)
    above = (x.amax(-1) - x.median(-1).values) / (x.quantile(0.75, -1) - x.quantile(0.25, -1) + 1e-3)
    assert above.median() > 5


def test_ticks_repeat_themselves_within_minutes_to_hours(rows: Any) -> None:
    x = schedules.make_ticks(rows)
    assert x.min() >= 0
    power = torch.fft.rfft(x - x.mean(-1, keepdim=True)).abs() ** 2
    quick = power[:, 4032 // 50 :].sum(-1) / power.sum(-1)
    peak = power[:, 4032 // 50 :].topk(20).values.sum(-1) / power.sum(-1)
    assert quick.median() > 0.6
    assert peak.median() > 0.2


def test_jobs_are_on_and_off(rows: Any) -> None:
    x = schedules.make_jobs(rows)
    assert x.std(-1).min() > 0
    low = x.amin(-1, keepdim=True) + 0.3 * (x.amax(-1, keepdim=True) - x.amin(-1, keepdim=True))
    share = (x < low).float().mean(-1)
    assert ((share > 0.1) & (share < 0.999)).float().mean() > 0.8


def test_shots_grow_and_spread_with_the_load(rows: Any) -> None:
    rows.load = torch.ones_like(rows.load)
    rows.load[:, 2016:] = 3.0
    x = schedules.make_shots(rows)
    assert x.min() >= 0
    assert (x[:, 2200:].mean(-1) > x[:, :2016].mean(-1)).float().mean() > 0.6


def test_bursts_are_rare(rows: Any) -> None:
    x = schedules.make_bursts(rows)
    rest = (x == x.amin(-1, keepdim=True)).float().mean(-1)
    assert rest.median() > 0.8
