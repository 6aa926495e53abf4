"""Makes the load of a server: what its users and schedules ask of it, by the time of day and the day of the week.

A load is positive with a mean of about one. The metrics of a server follow it in other modules.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from streamd.tools.training.generated.draws import STEPS_A_DAY, STEPS_A_WEEK, SeriesDraws, standardize


@dataclass
class SeriesRows:
    """The rows of a kind of series, and what they know of their servers."""

    draws: SeriesDraws
    begin: Tensor
    """`(rows, 1) float32`: the step of the week, counted from a Monday 00:00 UTC, at step 0."""

    load: Tensor
    """`(rows, length) float32`: the load of the server of each row."""

    def __len__(self) -> int:
        return len(self.begin)

    def weekly_steps(self) -> Tensor:
        """Return the steps `(rows, length)` since a Monday 00:00 UTC; they run on over the weeks."""
        return self.begin + self.draws.time


def make_loads(draws: SeriesDraws, begin: Tensor) -> Tensor:
    """Return the loads `(rows, length)` of servers whose first step is `begin (rows, 1)` of the week.

    Most have a day and many a week; some only wander. The amplitude differs from day to day.
    """
    rows = len(begin)
    ahead = STEPS_A_WEEK + draws.draw_uniform(-0.5, 0.5, rows, 1) * STEPS_A_DAY  # The local time of its users.
    steps = begin + ahead + draws.time
    depth = draws.draw_log_uniform(0.15, 1.7, rows, 1)
    day = make_day_shape(draws, steps)
    shape = draws.draw_switches(0.5, rows, torch.exp(depth * day), (1.0 + 0.6 * depth * day).clamp(min=0.02))
    shape = shape * make_day_factors(draws, steps)
    other = (1.0 + 0.5 * draws.make_noise(rows, 1.0, 2.4)).clamp(min=0.05)
    load = torch.where(draws.draw_chance(0.9, rows, 1), shape, other)
    rough = draws.draw_log_uniform(0.004, 0.4, rows, 1) * draws.make_noise(rows, 0.0, 1.5)
    load = load * torch.exp(rough - 0.5 * rough.var(-1, keepdim=True))
    load = load * _make_transfers(draws, rows)
    return load / load.mean(-1, keepdim=True).clamp(min=1e-4)


def _make_transfers(draws: SeriesDraws, rows: int) -> Tensor:
    """Return a factor `(rows, length)`: in some rows traffic went to other servers, or came, for hours or more."""
    first = draws.draw_uniform(-0.3, 1.0, rows, 1) * draws.length
    span = draws.draw_log_uniform(24.0, 4.0 * draws.length, rows, 1)
    during = (draws.time >= first) & (draws.time < first + span) & draws.draw_chance(0.12, rows, 1)
    factor = torch.where(during, draws.draw_log_uniform(0.25, 2.5, rows, 1), 1.0)
    return draws.smooth_causally(factor, draws.draw_log_uniform(0.3, 12.0, rows, 1)).clamp(min=0.0)


def make_day_shape(draws: SeriesDraws, steps: Tensor) -> Tensor:
    """Return a shape that repeats each day, with the mean zero and the deviation of about one.

    It is a smooth wave, a plateau of any width and steepness, a working day with a break at noon, or a blend.
    """
    rows = len(steps)
    phase = (steps / STEPS_A_DAY) % 1.0
    decay = draws.draw_uniform(0.7, 2.5, rows, 1)
    wave = torch.zeros_like(phase)
    for k in range(1, 7):
        shift, size = draws.draw_uniform(0.0, 1.0, rows, 1), draws.draw_normal(rows, 1) * k**-decay
        wave = wave + size * torch.sin(2 * torch.pi * (k * phase + shift))
    width, sharp = draws.draw_uniform(0.06, 0.46, rows, 1), draws.draw_log_uniform(8.0, 200.0, rows, 1)
    away = (phase - 0.5).abs()
    plateau = torch.sigmoid(sharp * (width - away))
    dip, narrow = draws.draw_uniform(0.1, 0.8, rows, 1), draws.draw_uniform(0.03, 0.08, rows, 1)
    working = plateau * (1 - dip * torch.exp(-(((phase - draws.draw_uniform(0.42, 0.58, rows, 1)) / narrow) ** 2)))
    kind = draws.draw_uniform(0.0, 1.0, rows, 1)
    blend = standardize(wave) + draws.draw_uniform(0.5, 2.0, rows, 1) * standardize(plateau)
    shape = torch.where(kind < 0.35, wave, torch.where(kind < 0.6, plateau, torch.where(kind < 0.75, working, blend)))
    return standardize(shape)


def make_day_factors(draws: SeriesDraws, steps: Tensor) -> Tensor:
    """Return a factor `(rows, length)` for each day: weekends, holidays, and days that merely differ.

    Half of the rows know a weekend, mostly quieter and sometimes busier; some of these are nearly still at weekends.
    """
    rows, device = len(steps), steps.device
    day = (steps / STEPS_A_DAY).long()
    weekday = day % 7
    table = torch.ones(rows, 7, device=device)
    quiet = draws.draw_switches(0.3, rows, draws.draw_uniform(0.0, 0.4, rows, 1), draws.draw_uniform(0.4, 1.0, rows, 1))
    off = draws.draw_switches(0.75, rows, quiet, draws.draw_uniform(0.95, 1.4, rows, 1))
    table[:, 6:] = off
    near = draws.draw_switches(0.75, rows, off, (off + 1) / 2)
    table[:, 5:6] = torch.where(draws.draw_chance(0.85, rows, 1), near, 1.0)
    table[:, 4:5] = draws.draw_switches(0.2, rows, (3 + off) / 4, 1.0)
    table = torch.where(draws.draw_chance(0.52, rows, 1), table, 1.0)
    table = torch.where(draws.draw_chance(0.08, rows, 1), torch.exp(0.4 * draws.draw_normal(rows, 7)), table)
    days = draws.length // STEPS_A_DAY + 17
    uneven = draws.draw_log_uniform(0.003, 0.3, rows, 1) * draws.draw_normal(rows, days)
    holiday = draws.draw_chance(0.02, rows, days) & draws.draw_chance(0.5, rows, 1)
    apart = torch.where(holiday, off, torch.exp(uneven))
    factor = table.gather(1, weekday) * apart.gather(1, day)
    return draws.smooth_causally(factor, draws.draw_log_uniform(0.5, 48.0, rows, 1))
