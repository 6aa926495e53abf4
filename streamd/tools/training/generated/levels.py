"""Kinds of series without a schedule: noise about a level, wandering, steps between levels, states, idle machines.

For most of these the quantiles of the window, or its last values, are the best forecast.
"""

import torch
from torch import Tensor

from streamd.tools.training.generated.draws import SeriesDraws, standardize
from streamd.tools.training.generated.loads import SeriesRows
from streamd.tools.training.generated.segments import count_segments, make_segments


def make_heavy_noise(draws: SeriesDraws, rows: int) -> Tensor:
    """Return white noise of many distributions: normal, Student's t, lognormal, Weibull, two bands, mostly zero.

    The deviation is about one; the mean is not zero for one-sided distributions.
    """
    normal = draws.draw_normal(rows, draws.length)
    uniform = draws.draw_uniform(1e-6, 1.0, rows, draws.length)
    freedom = draws.draw_uniform(2.1, 6.0, rows, 1)
    # Bailey's polar method: Student's t from a uniform radius and a uniform direction.
    direction = torch.cos(2 * torch.pi * draws.draw_uniform(0.0, 1.0, rows, draws.length))
    student = direction * (freedom * (uniform ** (-2 / freedom) - 1)).sqrt()
    lognormal = torch.exp(draws.draw_log_uniform(0.15, 1.6, rows, 1) * normal)
    # A power of an exponential: Weibull, from near a bell to far heavier than exponential, as gamma has it.
    weibull = (-torch.log(uniform)) ** draws.draw_log_uniform(0.3, 2.5, rows, 1)
    share = draws.draw_uniform(0.02, 0.5, rows, 1)
    bands = (uniform < share) * draws.draw_log_uniform(1.0, 20.0, rows, 1) + 0.5 * normal
    rare = (uniform < share) * (-torch.log((uniform / share).clamp(1e-6, 1.0)))
    listed = [normal, uniform, student, lognormal, weibull, bands, rare]
    weights = [0.28, 0.06, 0.16, 0.2, 0.15, 0.08, 0.07]
    kind, total, chosen = draws.draw_uniform(0.0, 1.0, rows, 1), 0.0, normal
    for one, weight in zip(listed, weights, strict=True):
        chosen = torch.where((kind >= total) & (kind < total + weight), one, chosen)
        total += weight
    return chosen / chosen.std(-1, keepdim=True).clamp(min=1e-3)


def make_level_noise(rows: SeriesRows) -> Tensor:
    """Return noise about a level; some with a drifting variance, a trace of the load or a short memory."""
    draws, count = rows.draws, len(rows)
    noise = make_heavy_noise(draws, count)
    short = draws.make_reverting_noise(draws.draw_log_uniform(0.3, 60.0, count, 1))
    tail = torch.exp(draws.draw_log_uniform(0.1, 1.2, count, 1) * short)
    noise = draws.draw_switches(
        0.65, count, noise, draws.draw_switches(0.6, count, short, tail / tail.std(-1, keepdim=True))
    )
    swell = torch.exp(draws.draw_uniform(0.1, 1.0, count, 1) * draws.make_noise(count, 1.5, 2.5))
    noise = noise * draws.draw_switches(0.25, count, swell, 1.0)
    trace = draws.draw_log_uniform(0.02, 1.0, count, 1) * standardize(rows.load)
    noise = noise + draws.draw_switches(0.35, count, trace, 0.0)
    return noise + draws.draw_switches(0.7, count, draws.draw_log_uniform(0.3, 300.0, count, 1), 0.0)


def make_wandering(rows: SeriesRows) -> Tensor:
    """Return walks that revert to their mean within minutes to weeks; some as a logarithm, some with fine noise."""
    draws, count = rows.draws, len(rows)
    walk = draws.make_reverting_noise(draws.draw_log_uniform(3.0, 6000.0, count, 1))
    walk = draws.draw_switches(0.3, count, draws.make_noise(count, 1.2, 2.4), walk)
    walk = draws.draw_switches(0.3, count, torch.exp(draws.draw_uniform(0.2, 1.2, count, 1) * walk), walk + 3.0)
    fine = draws.draw_switches(0.5, count, draws.draw_log_uniform(0.01, 0.5, count, 1), 0.0)
    return walk.clamp(min=0.0) + fine * draws.draw_normal(count, draws.length)


def make_steps(rows: SeriesRows) -> Tensor:
    """Return levels that hold for hours to weeks and change at once; some return to one usual level."""
    draws, count = rows.draws, len(rows)
    number = count_segments(draws)
    mean = draws.draw_log_uniform(60.0, 4000.0, count, 1)
    segments = make_segments(draws, mean * draws.draw_log_uniform(0.1, 3.0, count, number))
    change = draws.draw_log_uniform(0.05, 1.5, count, 1)
    away = torch.exp(change * draws.draw_normal(count, number))
    odd = torch.arange(number, device=draws.device).view(1, -1) % 2 == 1
    level = segments.spread(torch.where(draws.draw_chance(0.4, count, 1) & odd, 1.0, away))
    noise = draws.draw_switches(0.8, count, draws.draw_log_uniform(0.001, 0.3, count, 1), 0.0)
    return level * (1.0 + noise * make_heavy_noise(draws, count))


def make_regimes(rows: SeriesRows) -> Tensor:
    """Return a few states, each with its level and noise, that follow one another at random."""
    draws, count = rows.draws, len(rows)
    number, states = count_segments(draws), 4
    spread = draws.draw_log_uniform(1.5, 20.0, count, 1)
    spans = draws.draw_log_uniform(6.0, 900.0, count, 1) * spread ** draws.draw_uniform(-1.0, 1.0, count, number)
    segments = make_segments(draws, spans)
    used = torch.floor(draws.draw_uniform(2.0, states + 1.0, count, 1))
    state = torch.floor(draws.draw_uniform(0.0, 1.0, count, number) * used).long()
    level = draws.draw_log_uniform(0.02, 3.0, count, states).gather(1, state)
    noise = (draws.draw_log_uniform(0.005, 0.6, count, states) * draws.draw_switches(0.5, count, 1.0, 0.1)).gather(
        1, state
    )
    follows = (draws.draw_chance(0.3, count, states)).float().gather(1, state)
    driven = 1.0 + segments.spread(follows) * (rows.load - 1.0)
    rough = draws.draw_switches(0.5, count, draws.make_noise(count, 0.0, 1.2), make_heavy_noise(draws, count))
    return segments.spread(level) * driven * (1.0 + segments.spread(noise) * rough)


def make_idle(rows: SeriesRows) -> Tensor:
    """Return the processor of an idle machine: a few percent in coarse values, with small ticks of its own timers."""
    draws, count = rows.draws, len(rows)
    noise = make_heavy_noise(draws, count) * draws.draw_log_uniform(0.05, 1.0, count, 1)
    base = draws.draw_log_uniform(0.3, 12.0, count, 1)
    period = draws.draw_choice((3.0, 6.0, 12.0, 12.0, 12.0, 36.0, 72.0, 288.0), count, 1)
    tick = ((rows.weekly_steps() + torch.floor(draws.draw_uniform(0.0, 1.0, count, 1) * period)) % period < 1.0).float()
    height = draws.draw_switches(0.6, count, draws.draw_log_uniform(0.2, 8.0, count, 1), 0.0)
    x = base + noise + tick * height * (1.0 + 0.3 * draws.draw_normal(count, draws.length))
    x = x + draws.draw_switches(0.25, count, 0.2 * base * standardize(rows.load), 0.0)
    grain = draws.draw_switches(0.6, count, draws.draw_choice((0.1, 0.5, 1.0, 1.0), count, 1), 1e-3)
    return (torch.round(x / grain) * grain).clamp(min=0.0)
