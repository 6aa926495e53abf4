"""Kinds of series that are made of events: cron spikes, batch jobs, bursts, and the sum of many jobs.

Events come by the clock, by the load or by chance, and their sizes and durations have heavy tails.
"""

import torch
from torch import Tensor

from streamd.tools.training.generated.draws import STEPS_A_DAY, SeriesDraws
from streamd.tools.training.generated.levels import make_heavy_noise
from streamd.tools.training.generated.loads import SeriesRows
from streamd.tools.training.generated.segments import count_segments, make_segments

PERIODS_OF_TASKS = (
    *(3.0, 6.0, 6.0, 12.0, 12.0, 12.0, 24.0, 36.0, 48.0, 72.0, 72.0, 96.0, 144.0),
    *(288.0, 288.0, 288.0, 288.0, 2016.0),
)
"""Periods of scheduled tasks in steps; 12 is an hour, 288 a day, 2016 a week."""


def make_task(rows: SeriesRows, longest: float) -> Tensor:
    """Return the demand of one scheduled task: zero, and in each period once a spike or a run of some steps.

    It begins late by a jitter, and some runs are missing. `longest` bounds the duration as a share of the period.
    """
    draws, count = rows.draws, len(rows)
    period = draws.draw_choice(PERIODS_OF_TASKS, count, 1)
    period = draws.draw_switches(0.1, count, torch.floor(draws.draw_log_uniform(4.0, 600.0, count, 1)), period)
    # A pause of a fixed time after each run: the period is longer by the run, and no whole number of steps.
    period = draws.draw_switches(0.25, count, period * (1.0 + draws.draw_log_uniform(0.003, 0.2, count, 1)), period)
    minute = torch.floor(draws.draw_uniform(0.0, 1.0, count, 1) * period)
    minute = draws.draw_switches(0.4, count, torch.floor(minute / 12) * 12, minute)  # On the hour, as people write it.
    clock = rows.weekly_steps() + 2016.0 - minute
    number = torch.floor(clock / period)
    number = (number - number[:, :1]).long()
    runs = int(number.max()) + 1
    most = (longest * period).clamp(min=1.0)
    usual = 1.0 + torch.floor((most.clamp(max=6.0) ** draws.draw_uniform(0.0, 1.0, count, 1)) - 0.5)
    usual = torch.where(draws.draw_chance(0.3, count, 1), most ** draws.draw_uniform(0.0, 1.0, count, 1), usual)
    uneven = draws.draw_switches(0.4, count, draws.draw_log_uniform(0.05, 1.0, count, 1), 0.0)
    duration = torch.minimum(usual * torch.exp(uneven * draws.draw_normal(count, runs)), 0.9 * period).clamp(min=0.6)
    jitter = draws.draw_switches(0.4, count, draws.draw_log_uniform(0.5, 12.0, count, 1), 0.0)
    late = torch.minimum(jitter * draws.draw_uniform(0.0, 1.0, count, runs), 0.5 * period)
    size = torch.exp(draws.draw_log_uniform(0.01, 0.8, count, 1) * draws.draw_normal(count, runs))
    kept = ~draws.draw_chance(0.08, count, runs) | draws.draw_chance(0.6, count, 1)
    age = clock % period - late.gather(1, number)
    span = duration.gather(1, number)
    running = ((age >= 0) & (age < span)).float()
    fading = draws.draw_switches(0.3, count, (1 - age / span).clamp(0.0, 1.0), 1.0)
    return running * fading * (size * kept).gather(1, number)


def make_cron(rows: SeriesRows) -> Tensor:
    """Return spikes of one to three scheduled tasks on a quiet base; some series hold only the spikes."""
    draws, count = rows.draws, len(rows)
    x = make_task(rows, 0.3)
    for chance in (0.4, 0.2):
        other = make_task(rows, 0.3) * draws.draw_log_uniform(0.1, 3.0, count, 1)
        x = x + draws.draw_switches(chance, count, other, 0.0)
    rough = make_heavy_noise(draws, count)
    base = draws.draw_log_uniform(0.005, 0.5, count, 1)
    swing = draws.draw_log_uniform(0.05, 1.0, count, 1)
    base = base * (1.0 + draws.draw_log_uniform(0.01, 1.0, count, 1) * rough + swing * (rows.load - 1.0))
    x = x * (1.0 + draws.draw_log_uniform(0.005, 0.3, count, 1) * draws.draw_normal(count, draws.length))
    return x + draws.draw_switches(0.8, count, base, 0.0)


def make_ticks(rows: SeriesRows) -> Tensor:
    """Return the mean, or the largest value, of steps in which short tasks run each few minutes to hours.

    Their periods are no whole number of steps, so that what a step has of them goes up and down as a beat. The
    amplitude drifts, follows the load, or changes from time to time.
    """
    draws, count = rows.draws, len(rows)
    first, second = _make_tick(rows), _make_tick(rows) * draws.draw_log_uniform(0.1, 2.0, count, 1)
    x = first + draws.draw_switches(0.4, count, second, 0.0)
    rough = draws.draw_log_uniform(0.01, 0.6, count, 1) * x.std(-1, keepdim=True) * make_heavy_noise(draws, count)
    spikes = draws.draw_switches(0.4, count, make_task(rows, 0.1) * draws.draw_log_uniform(0.5, 8.0, count, 1), 0.0)
    base = draws.draw_log_uniform(0.05, 10.0, count, 1)
    return (base + x + rough + spikes).clamp(min=0.0)


def _make_tick(rows: SeriesRows) -> Tensor:
    draws, count = rows.draws, len(rows)
    near = draws.draw_choice((2.0, 3.0, 4.0, 6.0, 12.0), count, 1) + 0.02 * draws.draw_normal(count, 1)
    period = draws.draw_switches(0.5, count, near, draws.draw_log_uniform(1.2, 40.0, count, 1))
    lasting = period * draws.draw_log_uniform(0.02, 0.6, count, 1)
    time = draws.time + draws.draw_uniform(0.0, 100.0, count, 1) * period
    share = _count_running_time(time + 1.0, period, lasting) - _count_running_time(time, period, lasting)
    seen = draws.draw_switches(0.3, count, (share > 1e-3).float(), share)
    drift = torch.exp(draws.draw_log_uniform(0.01, 0.5, count, 1) * draws.make_noise(count, 0.5, 2.2))
    number = count_segments(draws)
    segments = make_segments(draws, draws.draw_log_uniform(60.0, 4000.0, count, number))
    changed = segments.spread(draws.draw_log_uniform(0.2, 2.0, count, number))
    size = drift * draws.draw_switches(0.4, count, rows.load, 1.0) * draws.draw_switches(0.3, count, changed, 1.0)
    return size * seen / share.mean(-1, keepdim=True).clamp(min=1e-3)


def _count_running_time(time: Tensor, period: Tensor, lasting: Tensor) -> Tensor:
    """Return the steps for which a task has run since time 0 that begins with each period."""
    return torch.floor(time / period) * lasting + torch.minimum(time % period, lasting)


def make_jobs(rows: SeriesRows) -> Tensor:
    """Return a machine that works on jobs and waits between them: by chance, while the load is high, or by a plan."""
    draws, count = rows.draws, len(rows)
    number = count_segments(draws)
    usual = draws.draw_log_uniform(2.0, 400.0, count, 2)
    tail = draws.draw_log_uniform(0.1, 1.3, count, 2)
    odd = torch.arange(number, device=draws.device) % 2
    spans = usual[:, odd] * torch.exp(tail[:, odd] * draws.draw_normal(count, number))
    segments = make_segments(draws, spans)
    few = draws.draw_log_uniform(0.2, 1.0, count, 3).gather(
        1, torch.floor(draws.draw_uniform(0, 3, count, number)).long()
    )
    any_height = torch.exp(0.6 * draws.draw_normal(count, number))
    height = draws.draw_switches(0.4, count, few, draws.draw_switches(0.5, count, any_height, 1.0))
    works = segments.spread(height) * (segments.number % 2)
    busy = rows.load > draws.draw_uniform(0.4, 1.3, count, 1)
    works = works * torch.where(draws.draw_chance(0.3, count, 1), busy.float(), 1.0)
    planned = make_task(rows, 0.6) + draws.draw_switches(0.3, count, make_task(rows, 0.6), 0.0)
    x = draws.draw_switches(0.65, count, works, planned)
    rough = draws.draw_switches(0.5, count, draws.make_noise(count, 0.0, 1.5), make_heavy_noise(draws, count))
    noisy = x * (1.0 + draws.draw_log_uniform(0.005, 0.5, count, 1) * rough)
    base = draws.draw_log_uniform(0.003, 0.4, count, 1) * (1.0 + 0.2 * draws.draw_normal(count, draws.length))
    return draws.draw_switches(0.75, count, noisy, x).clamp(min=0.0) + draws.draw_switches(0.6, count, base, 0.0)


def make_shots(rows: SeriesRows) -> Tensor:
    """Return the sum of many jobs of unequal size and duration, which arrive as the load has it.

    Few arrivals are single bursts; many are a day's shape with a roughness that grows with its level. Some decay by a
    power law, as the aftershocks of an incident do.
    """
    draws, count = rows.draws, len(rows)
    rate = draws.draw_log_uniform(0.004, 6.0, count, 1) * rows.load ** draws.draw_log_uniform(0.6, 2.5, count, 1)
    rate = draws.draw_switches(0.8, count, rate, rate.mean(-1, keepdim=True).expand(-1, draws.length))
    tail = draws.draw_log_uniform(0.1, 1.8, count, 1)
    size = torch.exp(tail * draws.draw_normal(count, draws.length) - 0.5 * tail**2)
    arrivals = draws.draw_counts(rate)
    work = _answer(draws, arrivals * size)
    white = draws.draw_switches(0.3, count, 0.0, draws.draw_log_uniform(0.01, 0.3, count, 1))
    base = draws.draw_switches(0.5, count, draws.draw_log_uniform(0.01, 3.0, count, 1), 0.0)
    x = work.clamp(min=0.0) * torch.exp(white * draws.draw_normal(count, draws.length))
    return x + base * x.mean(-1, keepdim=True)


def _answer(draws: SeriesDraws, events: Tensor) -> Tensor:
    """Return what events leave behind: jobs of one duration, exponential or power-law decay."""
    count, time = len(events), draws.time.view(1, -1)
    lasting = draws.draw_log_uniform(0.5, 100.0, count, 1)
    box = (time < lasting.clamp(min=1.0)).float()
    exponential = torch.exp(-time / lasting)
    power = (1.0 + time / lasting.clamp(max=12.0)) ** -draws.draw_uniform(0.7, 2.5, count, 1)
    kind = draws.draw_uniform(0.0, 1.0, count, 1)
    kernel = torch.where(kind < 0.3, box, torch.where(kind < 0.8, exponential, power))
    return draws.convolve(events, kernel)


def make_bursts(rows: SeriesRows) -> Tensor:
    """Return counters that are zero for hours to weeks, and then for some steps anything."""
    draws, count = rows.draws, len(rows)
    number = count_segments(draws)
    usual = torch.cat(
        [draws.draw_log_uniform(12.0, 6.0 * STEPS_A_DAY, count, 1), draws.draw_log_uniform(0.5, 12.0, count, 1)], 1
    )
    odd = torch.arange(number, device=draws.device) % 2
    spans = usual[:, odd] * torch.exp(draws.draw_uniform(0.3, 1.5, count, 1) * draws.draw_normal(count, number))
    segments = make_segments(draws, spans)
    height = torch.exp(draws.draw_uniform(0.1, 1.5, count, 1) * draws.draw_normal(count, number))
    each = torch.exp(draws.draw_uniform(0.0, 1.0, count, 1) * draws.draw_normal(count, draws.length))
    x = segments.spread(height) * (segments.number % 2) * each
    grain = draws.draw_log_uniform(0.05, 1.0, count, 1)
    counted = torch.ceil(x / grain) * grain
    x = draws.draw_switches(0.5, count, counted, x)
    return x + draws.draw_switches(0.3, count, draws.draw_log_uniform(0.01, 10.0, count, 1), 0.0)
