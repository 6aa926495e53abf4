"""Generates servers with series that no recorded fleet has, so that networks learn to forecast and not to recall.

After KernelSynth (Ansari et al., 2024, arXiv 2403.07815): random compositions of periodic, smooth, rough, trend and
jump components. Here they are direct spectral and pulse constructions, which need no covariance matrix. Then the
properties of metrics are added: counts, saturation, spikes, zeros when idle, coarse rounding. It reads no data.
"""

import torch
from torch import Tensor

PERIODS = (288.0, 288.0, 288.0, 288.0, 144.0, 96.0, 72.0, 48.0, 36.0, 24.0, 12.0, 6.0)
"""Periods in steps; the daily one (288 steps of 5 minutes) is listed four times, so that it is the likeliest."""


def generate_servers(servers: int, series: int, length: int, device: torch.device, seed: int) -> Tensor:
    """Return `(server, series, length) float32`, mostly non-negative, each with a deviation of about one.

    The series of one server depend on three hidden causes in random shares, as the metrics of a real server do.
    """
    rng = torch.Generator(device=device).manual_seed(seed)
    maker = _SeriesMaker(rng, device, length)
    causes = maker.compose_series(servers * 3).view(servers, 3, length)
    shares = maker.draw_uniform(servers, series, 3) ** 2
    shares = shares * (maker.draw_uniform(servers, series, 1) < 0.7)
    own = maker.compose_series(servers * series).view(servers, series, length)
    mixed = _scale_to_unit(torch.einsum("sck,skl->scl", shares, causes)) * (shares.sum(-1, keepdim=True) > 0)
    weight = maker.draw_uniform(servers, series, 1)
    return _scale_to_unit(maker.turn_into_metrics((weight * mixed + (1 - weight) * own).flatten(0, 1))).view_as(own)


def _scale_to_unit(x: Tensor) -> Tensor:
    """Return series with the deviation one along time and the level in proportion."""
    return x / x.std(dim=-1, keepdim=True).clamp(min=1e-3)


def _standardize(x: Tensor) -> Tensor:
    return (x - x.mean(dim=-1, keepdim=True)) / x.std(dim=-1, keepdim=True).clamp(min=1e-4)


class _SeriesMaker:
    """Makes components, each `(rows, length) float32` with about the mean zero and the deviation one."""

    def __init__(self, rng: torch.Generator, device: torch.device, length: int) -> None:
        self.rng, self.device, self.length = rng, device, length
        self.time = torch.arange(length, device=device, dtype=torch.float32)

    def draw_uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.rng, device=self.device)

    def draw_normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.rng, device=self.device)

    def compose_series(self, rows: int) -> Tensor:
        """Return a random blend of components; some rows multiply season and level instead of adding them."""
        season = self.make_seasons(rows) + 0.6 * (self.draw_uniform(rows, 1) < 0.3) * self.make_seasons(rows)
        drift = self.make_noise(rows, 1.2, 2.6)
        weights = self.draw_uniform(rows, 5) ** 2
        weights[:, 0] = torch.where(self.draw_uniform(rows) < 0.8, weights[:, 0] + 0.3, 0.0)
        parts = [season, drift, self.make_noise(rows, 0.0, 1.0), self.make_jumps(rows), self.make_pulses(rows)]
        chance = [1.0, 0.6, 0.9, 0.25, 0.35]
        clean = self.draw_uniform(rows, 1) < 0.3  # As regular as a busy service: hardly anything but the season.
        weights[:, 1:] = torch.where(clean, 0.1 * weights[:, 1:], weights[:, 1:])
        weights[:, :1] = torch.where(clean, 1.0, weights[:, :1])
        total = torch.zeros(rows, self.length, device=self.device)
        for i, (part, p) in enumerate(zip(parts, chance, strict=True)):
            total = total + weights[:, i : i + 1] * (self.draw_uniform(rows, 1) < p) * part
        trend = (self.time / self.length - 0.5) * self.draw_normal(rows, 1) * (self.draw_uniform(rows, 1) < 0.2)
        swelling = total * torch.exp(0.4 * drift)
        return torch.where(self.draw_uniform(rows, 1) < 0.2, swelling, total) + trend

    def make_seasons(self, rows: int) -> Tensor:
        """Return periodic series with random harmonics or the plateau of a working day; most have a daily period.

        Days differ, because the amplitude drifts slowly.
        """
        listed = torch.tensor(PERIODS, device=self.device)
        period = listed[(self.draw_uniform(rows) * len(PERIODS)).long()]
        period = torch.where(self.draw_uniform(rows) < 0.15, 8.0 + 400.0 * self.draw_uniform(rows), period).view(-1, 1)
        phase = self.time / period + self.draw_uniform(rows, 1)
        decay = 0.5 + 2.0 * self.draw_uniform(rows, 1)
        wave = torch.zeros(rows, self.length, device=self.device)
        for k in range(1, 9):
            shift, size = self.draw_uniform(rows, 1), self.draw_normal(rows, 1) * k**-decay
            wave = wave + size * torch.sin(2 * torch.pi * (k * phase + shift))
        center, width = self.draw_uniform(rows, 1), 0.05 + 0.3 * self.draw_uniform(rows, 1)
        sharp = 10.0 + 90.0 * self.draw_uniform(rows, 1) ** 2
        away = ((phase - center + 0.5) % 1.0 - 0.5).abs()
        plateau = torch.sigmoid(sharp * (width - away))
        kind = self.draw_uniform(rows, 1)
        blend = torch.where(kind < 0.4, _standardize(wave), torch.where(kind < 0.7, _standardize(plateau), 0.0))
        blend = torch.where(kind >= 0.7, _standardize(_standardize(wave) + 1.5 * _standardize(plateau)), blend)
        return blend * (1.0 + 0.3 * self.draw_uniform(rows, 1) * self.make_noise(rows, 1.5, 2.5))

    def make_noise(self, rows: int, least: float, most: float) -> Tensor:
        """Return noise with a power-law spectrum: white (slope 0), a random walk (2), or smooth (above 2)."""
        double = 2 * self.length
        frequency = torch.fft.rfftfreq(double, device=self.device).clamp(min=1.0 / double)
        slope = least + (most - least) * self.draw_uniform(rows, 1)
        shape = frequency.view(1, -1) ** (-slope / 2)
        wave = torch.fft.rfft(self.draw_normal(rows, double))
        return _standardize(torch.fft.irfft(wave * shape, n=double)[:, : self.length])

    def make_jumps(self, rows: int) -> Tensor:
        """Return rare level shifts of any size; a later shift may go back."""
        rate = 4.0 * self.draw_uniform(rows, 1) / self.length
        steps = (self.draw_uniform(rows, self.length) < rate) * self.draw_normal(rows, self.length)
        return _standardize(steps.cumsum(dim=-1))

    def make_pulses(self, rows: int) -> Tensor:
        """Return pulses of some steps, as of jobs, at a fixed period or at random steps."""
        listed = torch.tensor([12.0, 24.0, 48.0, 72.0, 144.0, 288.0, 288.0, 288.0], device=self.device)
        period = listed[(self.draw_uniform(rows) * len(listed)).long()].view(-1, 1)
        width = 1.0 + torch.floor(8.0 * self.draw_uniform(rows, 1) ** 2)
        regular = ((self.time + torch.floor(period * self.draw_uniform(rows, 1))) % period < width).float()
        starts = (self.draw_uniform(rows, self.length) < 3.0 * self.draw_uniform(rows, 1) / 288.0).float()
        kernel = torch.exp(-torch.arange(12, device=self.device) / 3.0).view(1, 1, -1)
        random = torch.nn.functional.conv1d(starts.unsqueeze(1), kernel, padding=11)[:, 0, : self.length]
        height = 1.0 + 0.3 * self.draw_normal(rows, self.length)
        return _standardize(torch.where(self.draw_uniform(rows, 1) < 0.6, regular, random) * height)

    def turn_into_metrics(self, x: Tensor) -> Tensor:
        """Return signals as metrics: with a floor of zero, counts, ceilings, rounding, heavy tails."""
        rows = x.shape[0]
        kind = self.draw_uniform(rows, 1)
        level = _standardize(x) + 4.0 * self.draw_uniform(rows, 1) - 0.5
        positive = torch.where(kind < 0.35, level.clamp(min=0.0), level + 2.0)
        positive = torch.where(kind > 0.8, torch.exp(0.6 * _standardize(x)), positive)
        rate = positive.clamp(min=0.0) * 8.0 * self.draw_uniform(rows, 1) ** 2
        counts = torch.poisson(rate.clamp(max=200.0), generator=self.rng)
        noisy = positive * (1.0 + 0.15 * self.draw_uniform(rows, 1) * self.draw_normal(rows, self.length))
        noisy = noisy + 0.3 * self.draw_uniform(rows, 1) ** 2 * self.draw_normal(rows, self.length)
        positive = torch.where(self.draw_uniform(rows, 1) < 0.5, noisy, positive)
        positive = torch.where(self.draw_uniform(rows, 1) < 0.12, counts, positive)
        top = positive.mean(-1, keepdim=True) + positive.std(-1, keepdim=True) * (0.5 + 2 * self.draw_uniform(rows, 1))
        positive = torch.where(self.draw_uniform(rows, 1) < 0.08, torch.minimum(positive, top), positive)
        grain = positive.std(-1, keepdim=True).clamp(min=1e-3) * (0.05 + 0.6 * self.draw_uniform(rows, 1))
        rounded = torch.round(positive / grain) * grain
        return torch.where(self.draw_uniform(rows, 1) < 0.15, rounded, positive)
