"""Kinds of series that follow the load of their server: services, work-day plateaus, counts, queues, instances.

Each function takes the rows of its kind and returns `(rows, length) float32` in any unit.
"""

import torch
from torch import Tensor

from streamd.tools.training.generated.draws import STEPS_A_DAY, SeriesDraws
from streamd.tools.training.generated.loads import SeriesRows, make_loads


def add_roughness(draws: SeriesDraws, x: Tensor, least: float = 0.003, most: float = 0.4) -> Tensor:
    """Return series, not below zero, with noise of any colour in proportion to their value and some white noise."""
    rows = len(x)
    size = draws.draw_log_uniform(least, most, rows, 1)
    colour = draws.draw_switches(0.5, rows, draws.make_noise(rows, 0.0, 1.4), draws.draw_normal(rows, draws.length))
    white = draws.draw_log_uniform(0.001, 0.15, rows, 1) * x.std(-1, keepdim=True)
    return (x * torch.exp(size * colour - 0.5 * size**2) + white * draws.draw_normal(rows, draws.length)).clamp(min=0.0)


def make_service(rows: SeriesRows) -> Tensor:
    """Return metrics that follow the load at once or after a while, in proportion or not, above a base."""
    draws, count = rows.draws, len(rows)
    late = draws.smooth_causally(rows.load, draws.draw_log_uniform(0.3, 100.0, count, 1))
    load = draws.draw_switches(0.6, count, rows.load, late).clamp(min=0.0)
    bent = load ** draws.draw_log_uniform(0.5, 2.0, count, 1)
    top = draws.draw_log_uniform(0.6, 6.0, count, 1) * bent.mean(-1, keepdim=True)
    bent = draws.draw_switches(0.3, count, bent / (1 + bent / top), bent)
    base = draws.draw_switches(0.6, count, draws.draw_log_uniform(0.05, 20.0, count, 1), 0.0)
    return add_roughness(draws, base + bent)


def make_working_days(rows: SeriesRows) -> Tensor:
    """Return metrics with their own day and week, apart from the load of their server; some have hardly any noise."""
    draws, count = rows.draws, len(rows)
    load = make_loads(draws, rows.begin)
    floor = draws.draw_uniform(0.0, 1.0, count, 1) * load.amin(-1, keepdim=True)
    return add_roughness(draws, load - floor, 0.001, 0.3)


def make_growth(rows: SeriesRows) -> Tensor:
    """Return heavy traffic that grows or shrinks over the weeks, in proportion or in amplitude only."""
    draws, count = rows.draws, len(rows)
    days = draws.time / STEPS_A_DAY
    trend = torch.exp((0.08 * draws.draw_normal(count, 1) * days).clamp(-4, 4))
    low = rows.load.amin(-1, keepdim=True)
    return add_roughness(draws, draws.draw_switches(0.7, count, rows.load * trend, low + (rows.load - low) * trend))


def make_saturation(rows: SeriesRows) -> Tensor:
    """Return a load that reaches its ceiling for hours, as a processor at 100 %, exactly or within noise."""
    draws, count = rows.draws, len(rows)
    demand = add_roughness(draws, rows.load * draws.draw_log_uniform(0.5, 3.0, count, 1))
    loss = draws.draw_switches(0.5, count, draws.draw_log_uniform(0.002, 0.05, count, 1), 0.0)
    return torch.minimum(demand, 1.0 - loss * draws.draw_normal(count, draws.length).abs())


def make_counts(rows: SeriesRows) -> Tensor:
    """Return Poisson counts whose rate follows the load, from one event a day to hundreds a step; some are flat."""
    draws, count = rows.draws, len(rows)
    rate = rows.load ** draws.draw_log_uniform(0.5, 2.0, count, 1)
    rate = draws.draw_switches(0.75, count, rate, torch.ones_like(rate))
    wild = draws.draw_switches(0.5, count, draws.draw_log_uniform(0.05, 1.0, count, 1), 0.0)
    rate = rate * torch.exp(wild * draws.make_noise(count, 0.0, 2.0) - 0.5 * wild**2)
    return draws.draw_counts(rate * draws.draw_log_uniform(0.004, 300.0, count, 1))


def make_backlog(rows: SeriesRows) -> Tensor:
    """Return queues that grow while the load is above the capacity and are empty at other times."""
    draws, count = rows.draws, len(rows)
    load = add_roughness(draws, rows.load, 0.02, 0.6)
    ordered = load[:, ::7].sort(dim=-1).values
    place = (draws.draw_uniform(0.3, 0.97, count, 1) * ordered.shape[1]).long()
    capacity = ordered.gather(1, place).clamp(min=1.02)
    total = (load - capacity).cumsum(-1)
    queue = total - torch.cummin(total, dim=-1).values
    return draws.draw_switches(0.5, count, queue, torch.log1p(queue * draws.draw_log_uniform(0.1, 100.0, count, 1)))


def make_instances(rows: SeriesRows) -> Tensor:
    """Return the number of instances that are started for the load, or the load of each of them."""
    draws, count = rows.draws, len(rows)
    late = draws.smooth_causally(rows.load, draws.draw_log_uniform(0.5, 24.0, count, 1)).clamp(min=0.01)
    instances = torch.ceil(late * draws.draw_log_uniform(1.5, 12.0, count, 1)).clamp(min=1.0)
    return draws.draw_switches(0.5, count, instances, add_roughness(draws, rows.load / instances))
