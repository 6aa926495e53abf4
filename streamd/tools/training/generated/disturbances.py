"""Changes made servers as real ones are changed: outages, another behaviour, mixtures, coarse values, single spikes.

Each function takes and returns `(server, series, length) float32`, each series with a deviation of about one.
"""

import torch
from torch import Tensor

from streamd.tools.training.generated.draws import SeriesDraws


def scale_to_unit(x: Tensor) -> Tensor:
    """Return series with the deviation one along time and the level in proportion; a constant becomes one or zero."""
    deviation, level = x.std(dim=-1, keepdim=True), x.mean(dim=-1, keepdim=True).abs()
    return x / torch.where(deviation > 1e-4 * level, deviation, level).clamp(min=1e-9)


def disturb_servers(draws: SeriesDraws, x: Tensor) -> Tensor:
    """Return servers with all disturbances, each in a share of the series or servers."""
    x = mix_series(draws, x)
    x = change_behaviour(draws, x)
    x = turn_over(draws, x)
    x = add_outages(draws, x)
    x = add_rare_spikes(draws, x)
    return hold_values(draws, round_values(draws, x))


def _draw_share(draws: SeriesDraws, x: Tensor, share: float) -> Tensor:
    return draws.draw_chance(share, *x.shape[:2], 1)


def mix_series(draws: SeriesDraws, x: Tensor) -> Tensor:
    """Return series of which some are the sum of two of their server: a base of one kind, events of another."""
    weight = draws.draw_uniform(0.1, 0.9, *x.shape[:2], 1)
    mixed = scale_to_unit(weight * x + (1 - weight) * x.roll(1, dims=1))
    return torch.where(_draw_share(draws, x, 0.15), mixed, x)


def change_behaviour(draws: SeriesDraws, x: Tensor) -> Tensor:
    """Return series of which some become another kind at a step, as after a release, and some go back after days."""
    first = draws.draw_uniform(0.0, 1.0, *x.shape[:2], 1) * draws.length
    last = first + draws.draw_log_uniform(36.0, 4.0 * draws.length, *x.shape[:2], 1)
    other = x.roll(3, dims=1) * draws.draw_log_uniform(0.1, 3.0, *x.shape[:2], 1)
    during = (draws.time >= first) & (draws.time < last)
    return torch.where(_draw_share(draws, x, 0.07) & during, other, x)


def turn_over(draws: SeriesDraws, x: Tensor) -> Tensor:
    """Return series of which some are what is left of a limit, as an idle processor or free memory."""
    top = x.amax(-1, keepdim=True) * draws.draw_log_uniform(1.0, 2.0, *x.shape[:2], 1)
    return torch.where(_draw_share(draws, x, 0.06), top - x, x)


def add_outages(draws: SeriesDraws, x: Tensor) -> Tensor:
    """Return servers of which some were down for minutes to hours: zero, or for some series a tenth."""
    servers = len(x)
    for chance in (0.09, 0.05, 0.03):
        first = draws.draw_uniform(0.0, 1.0, servers, 1, 1) * draws.length
        span = draws.draw_log_uniform(0.7, 150.0, servers, 1, 1)
        during = (draws.time >= first) & (draws.time < first + span) & draws.draw_chance(chance, servers, 1, 1)
        during = during & ~_draw_share(draws, x, 0.2)
        x = torch.where(during, torch.where(_draw_share(draws, x, 0.2), 0.1 * x, 0.0), x)
    return x


def add_rare_spikes(draws: SeriesDraws, x: Tensor) -> Tensor:
    """Return series of which some have one to three spikes far above all else, of one step or a few."""
    touched = _draw_share(draws, x, 0.05)
    for chance in (1.0, 0.5, 0.3):
        first = torch.floor(draws.draw_uniform(0.0, 1.0, *x.shape[:2], 1) * draws.length)
        span = draws.draw_log_uniform(1.0, 6.0, *x.shape[:2], 1)
        height = draws.draw_log_uniform(3.0, 40.0, *x.shape[:2], 1)
        during = (draws.time >= first) & (draws.time < first + span) & _draw_share(draws, x, chance)
        x = torch.where(touched & during, x + height, x)
    return x


def round_values(draws: SeriesDraws, x: Tensor) -> Tensor:
    """Return series of which some have few values, as percent without decimals have."""
    grain = draws.draw_log_uniform(0.02, 0.8, *x.shape[:2], 1)
    return torch.where(_draw_share(draws, x, 0.12), torch.round(x / grain) * grain, x)


def hold_values(draws: SeriesDraws, x: Tensor) -> Tensor:
    """Return series of which some have a new value only each 2 to 24 steps, as a slower collector reports them."""
    period = torch.floor(draws.draw_log_uniform(2.0, 25.0, *x.shape[:2], 1))
    reported = (torch.floor(draws.time / period) * period).long()
    return torch.where(_draw_share(draws, x, 0.04), x.gather(-1, reported), x)
