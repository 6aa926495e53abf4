"""Random compositions of periodic, smooth, rough, trend and jump components, then made to look like metrics.

After KernelSynth (Ansari et al., 2024, arXiv 2403.07815). Here they are direct spectral and pulse constructions, which
need no covariance matrix. They are the kind of series that no recorded fleet has, so that networks learn to forecast
and not to recall.
"""

import torch
from torch import Tensor

from streamd.tools.training.generated.disturbances import scale_to_unit
from streamd.tools.training.generated.draws import SeriesDraws, standardize

PERIODS = (288.0, 288.0, 288.0, 288.0, 144.0, 96.0, 72.0, 48.0, 36.0, 24.0, 12.0, 6.0)
"""Periods in steps; the daily one (288 steps of 5 minutes) is listed four times, so that it is the likeliest."""


def compose_servers(draws: SeriesDraws, servers: int, series: int) -> Tensor:
    """Return `(server, series, length) float32`, mostly non-negative, each with a deviation of about one.

    The series of one server depend on three hidden causes in random shares, as the metrics of a real server do.
    """
    length = draws.length
    causes = _compose_series(draws, servers * 3).view(servers, 3, length)
    shares = _uniform(draws, servers, series, 3) ** 2
    shares = shares * (_uniform(draws, servers, series, 1) < 0.7)
    own = _compose_series(draws, servers * series).view(servers, series, length)
    mixed = scale_to_unit(torch.einsum("sck,skl->scl", shares, causes)) * (shares.sum(-1, keepdim=True) > 0)
    weight = _uniform(draws, servers, series, 1)
    metrics = _turn_into_metrics(draws, (weight * mixed + (1 - weight) * own).flatten(0, 1))
    return scale_to_unit(metrics).view_as(own)


def _uniform(draws: SeriesDraws, *shape: int) -> Tensor:
    return draws.draw_uniform(0.0, 1.0, *shape)


def _compose_series(draws: SeriesDraws, rows: int) -> Tensor:
    """Return a random blend of components; some rows multiply season and level instead of adding them."""
    season = _make_seasons(draws, rows) + 0.6 * (_uniform(draws, rows, 1) < 0.3) * _make_seasons(draws, rows)
    drift = draws.make_noise(rows, 1.2, 2.6)
    weights = _uniform(draws, rows, 5) ** 2
    weights[:, 0] = torch.where(_uniform(draws, rows) < 0.8, weights[:, 0] + 0.3, 0.0)
    parts = [season, drift, draws.make_noise(rows, 0.0, 1.0), _make_jumps(draws, rows), _make_pulses(draws, rows)]
    chance = [1.0, 0.6, 0.9, 0.25, 0.35]
    clean = _uniform(draws, rows, 1) < 0.3  # As regular as a busy service: hardly anything but the season.
    weights[:, 1:] = torch.where(clean, 0.1 * weights[:, 1:], weights[:, 1:])
    weights[:, :1] = torch.where(clean, 1.0, weights[:, :1])
    total = torch.zeros(rows, draws.length, device=draws.device)
    for i, (part, p) in enumerate(zip(parts, chance, strict=True)):
        total = total + weights[:, i : i + 1] * (_uniform(draws, rows, 1) < p) * part
    trend = (draws.time / draws.length - 0.5) * draws.draw_normal(rows, 1) * (_uniform(draws, rows, 1) < 0.2)
    swelling = total * torch.exp(0.4 * drift)
    return torch.where(_uniform(draws, rows, 1) < 0.2, swelling, total) + trend


def _make_seasons(draws: SeriesDraws, rows: int) -> Tensor:
    """Return periodic series with random harmonics or the plateau of a working day; most have a daily period.

    Days differ, because the amplitude drifts slowly.
    """
    listed = torch.tensor(PERIODS, device=draws.device)
    period = listed[(_uniform(draws, rows) * len(PERIODS)).long()]
    period = torch.where(_uniform(draws, rows) < 0.15, 8.0 + 400.0 * _uniform(draws, rows), period).view(-1, 1)
    phase = draws.time / period + _uniform(draws, rows, 1)
    decay = 0.5 + 2.0 * _uniform(draws, rows, 1)
    wave = torch.zeros(rows, draws.length, device=draws.device)
    for k in range(1, 9):
        shift, size = _uniform(draws, rows, 1), draws.draw_normal(rows, 1) * k**-decay
        wave = wave + size * torch.sin(2 * torch.pi * (k * phase + shift))
    center, width = _uniform(draws, rows, 1), 0.05 + 0.3 * _uniform(draws, rows, 1)
    sharp = 10.0 + 90.0 * _uniform(draws, rows, 1) ** 2
    away = ((phase - center + 0.5) % 1.0 - 0.5).abs()
    plateau = torch.sigmoid(sharp * (width - away))
    kind = _uniform(draws, rows, 1)
    blend = torch.where(kind < 0.4, standardize(wave), torch.where(kind < 0.7, standardize(plateau), 0.0))
    blend = torch.where(kind >= 0.7, standardize(standardize(wave) + 1.5 * standardize(plateau)), blend)
    return blend * (1.0 + 0.3 * _uniform(draws, rows, 1) * draws.make_noise(rows, 1.5, 2.5))


def _make_jumps(draws: SeriesDraws, rows: int) -> Tensor:
    """Return rare level shifts of any size; a later shift may go back."""
    rate = 4.0 * _uniform(draws, rows, 1) / 1536.0
    steps = (_uniform(draws, rows, draws.length) < rate) * draws.draw_normal(rows, draws.length)
    return standardize(steps.cumsum(dim=-1))


def _make_pulses(draws: SeriesDraws, rows: int) -> Tensor:
    """Return pulses of some steps, as of jobs, at a fixed period or at random steps."""
    listed = torch.tensor([12.0, 24.0, 48.0, 72.0, 144.0, 288.0, 288.0, 288.0], device=draws.device)
    period = listed[(_uniform(draws, rows) * len(listed)).long()].view(-1, 1)
    width = 1.0 + torch.floor(8.0 * _uniform(draws, rows, 1) ** 2)
    regular = ((draws.time + torch.floor(period * _uniform(draws, rows, 1))) % period < width).float()
    starts = (_uniform(draws, rows, draws.length) < 3.0 * _uniform(draws, rows, 1) / 288.0).float()
    kernel = torch.exp(-torch.arange(12, device=draws.device) / 3.0).view(1, 1, -1)
    random = torch.nn.functional.conv1d(starts.unsqueeze(1), kernel, padding=11)[:, 0, : draws.length]
    height = 1.0 + 0.3 * draws.draw_normal(rows, draws.length)
    return standardize(torch.where(_uniform(draws, rows, 1) < 0.6, regular, random) * height)


def _turn_into_metrics(draws: SeriesDraws, x: Tensor) -> Tensor:
    """Return signals as metrics: with a floor of zero, counts, ceilings, rounding, heavy tails."""
    rows = x.shape[0]
    kind = _uniform(draws, rows, 1)
    level = standardize(x) + 4.0 * _uniform(draws, rows, 1) - 0.5
    positive = torch.where(kind < 0.35, level.clamp(min=0.0), level + 2.0)
    positive = torch.where(kind > 0.8, torch.exp(0.6 * standardize(x)), positive)
    rate = positive.clamp(min=0.0) * 8.0 * _uniform(draws, rows, 1) ** 2
    counts = torch.poisson(rate.clamp(max=200.0), generator=draws.rng)
    noisy = positive * (1.0 + 0.15 * _uniform(draws, rows, 1) * draws.draw_normal(rows, draws.length))
    noisy = noisy + 0.3 * _uniform(draws, rows, 1) ** 2 * draws.draw_normal(rows, draws.length)
    positive = torch.where(_uniform(draws, rows, 1) < 0.5, noisy, positive)
    positive = torch.where(_uniform(draws, rows, 1) < 0.12, counts, positive)
    top = positive.mean(-1, keepdim=True) + positive.std(-1, keepdim=True) * (0.5 + 2 * _uniform(draws, rows, 1))
    positive = torch.where(_uniform(draws, rows, 1) < 0.08, torch.minimum(positive, top), positive)
    grain = positive.std(-1, keepdim=True).clamp(min=1e-3) * (0.05 + 0.6 * _uniform(draws, rows, 1))
    rounded = torch.round(positive / grain) * grain
    return torch.where(_uniform(draws, rows, 1) < 0.15, rounded, positive)
