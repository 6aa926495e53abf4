"""Kinds of series that grow until something sets them back: disks, memory with leaks, garbage collection.

Growth is a sum of what is written, which follows the load of the server in part.
"""

import torch
from torch import Tensor

from streamd.tools.training.generated.draws import STEPS_A_DAY, STEPS_A_WEEK
from streamd.tools.training.generated.loads import SeriesRows
from streamd.tools.training.generated.segments import Segments, count_segments, make_segments


def make_growing_sum(rows: SeriesRows) -> Tensor:
    """Return sums `(rows, length)` that never fall and grow by about one a day: evenly, with the load, or by lumps."""
    draws, count = rows.draws, len(rows)
    driven = draws.draw_switches(0.6, count, rows.load, 1.0)
    tail = draws.draw_log_uniform(0.05, 2.0, count, 1)
    uneven = torch.exp(tail * draws.draw_normal(count, draws.length) - 0.5 * tail**2)
    lumps = draws.draw_chance(0.02, count, draws.length) * 50.0 * uneven
    written = driven * draws.draw_switches(0.75, count, uneven, lumps)
    return (written / written.mean(-1, keepdim=True).clamp(min=1e-6)).cumsum(-1) / STEPS_A_DAY


def make_clock_segments(rows: SeriesRows) -> Segments:
    """Return segments that begin by the clock: daily or weekly, at an hour of their own."""
    draws, count = rows.draws, len(rows)
    period = draws.draw_choice((STEPS_A_DAY, STEPS_A_DAY, STEPS_A_WEEK), count, 1)
    hour = torch.floor(draws.draw_uniform(0.0, 1.0, count, 1) * period / 12) * 12
    return make_segments(draws, period.expand(-1, count_segments(draws)), rows.begin + hour)


def make_disks(rows: SeriesRows) -> Tensor:
    """Return disks that fill: cleaned at a limit, by the clock, by and by, or full until somebody comes."""
    draws, count = rows.draws, len(rows)
    days = draws.draw_log_uniform(0.1, 60.0, count, 1)
    filled = make_growing_sum(rows) / days + draws.draw_uniform(0.0, 1.0, count, 1)
    at_limit = filled % 1.0
    cleaned = make_clock_segments(rows).restart(filled)
    number = count_segments(draws)
    visits = make_segments(draws, draws.draw_log_uniform(0.3, 3.0, count, number) * days * STEPS_A_DAY * 1.3)
    full = visits.restart(filled).clamp(max=1.0)
    kind = draws.draw_uniform(0.0, 1.0, count, 1)
    level = torch.where(kind < 0.35, at_limit, torch.where(kind < 0.6, cleaned, torch.where(kind < 0.8, full, filled)))
    low = draws.draw_uniform(0.0, 4.0, count, 1)
    grain = draws.draw_switches(0.4, count, draws.draw_log_uniform(0.002, 0.05, count, 1), 1e-5)
    return torch.round((low + level) / grain) * grain


def make_leaks(rows: SeriesRows) -> Tensor:
    """Return memory that leaks until a restart, daily or when it happens, over a part that follows the load slowly."""
    draws, count = rows.draws, len(rows)
    grown = make_growing_sum(rows)
    number = count_segments(draws)
    life = draws.draw_log_uniform(24.0, 3000.0, count, 1) * draws.draw_log_uniform(0.3, 2.0, count, number)
    by_chance = make_segments(draws, life).restart(grown)
    leak = draws.draw_switches(0.5, count, by_chance, make_clock_segments(rows).restart(grown))
    ceiling = leak.amax(-1, keepdim=True) * draws.draw_uniform(0.4, 1.2, count, 1)
    leak = draws.draw_switches(0.3, count, ceiling * torch.tanh(leak / ceiling.clamp(min=1e-6)), leak)
    slow = draws.smooth_causally(rows.load, draws.draw_log_uniform(6.0, 200.0, count, 1))
    part = draws.draw_switches(0.6, count, draws.draw_log_uniform(0.05, 1.0, count, 1), 0.0) * leak.std(
        -1, keepdim=True
    )
    noise = draws.draw_log_uniform(0.003, 0.3, count, 1) * leak.std(-1, keepdim=True)
    x = leak + part * slow + noise * draws.make_noise(count, 0.0, 1.5)
    return x + draws.draw_uniform(0.0, 4.0, count, 1) * x.std(-1, keepdim=True)


def make_collections(rows: SeriesRows) -> Tensor:
    """Return a heap between two garbage collections: it fills within minutes to hours and falls to a rising floor."""
    draws, count = rows.draws, len(rows)
    allocated = make_growing_sum(rows) * STEPS_A_DAY
    period = draws.draw_log_uniform(2.5, 200.0, count, 1)
    young = (allocated / period) % 1.0
    old = (allocated / (period * draws.draw_log_uniform(6.0, 60.0, count, 1))) % 1.0
    floor = draws.draw_switches(0.6, count, draws.draw_log_uniform(0.1, 1.5, count, 1), 0.0) * old
    noise = draws.draw_log_uniform(0.002, 0.2, count, 1) * draws.draw_normal(count, draws.length)
    return draws.draw_uniform(0.0, 2.0, count, 1) + young + floor + noise
