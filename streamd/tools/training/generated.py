"""Generated servers: series no fleet has shown, so that the networks learn to forecast rather than to recall.

In the manner of KernelSynth (Ansari et al., 2024, arXiv 2403.07815): random compositions of periodic, smooth,
rough, trend and jump components, here as direct spectral and pulse constructions, which cost no covariance
matrix; then what metrics do: counts, saturation, spikes, idle zeros, coarse rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

PERIODS = (288.0, 288.0, 288.0, 288.0, 144.0, 96.0, 72.0, 48.0, 36.0, 24.0, 12.0, 6.0)


def generate_servers(servers: int, series: int, length: int, device: torch.device, seed: int) -> Tensor:
    """(server, series, length) float32, mostly non-negative, each with a deviation of about one.

    The series of one server share three hidden causes in random shares, as its metrics do.
    """
    rng = torch.Generator(device=device).manual_seed(seed)
    maker = _Maker(rng, device, length)
    causes = maker.compose(servers * 3).view(servers, 3, length)
    shares = maker.uniform(servers, series, 3) ** 2
    shares = shares * (maker.uniform(servers, series, 1) < 0.7)
    own = maker.compose(servers * series).view(servers, series, length)
    mixed = _unit(torch.einsum("sck,skl->scl", shares, causes)) * (shares.sum(-1, keepdim=True) > 0)
    weight = maker.uniform(servers, series, 1)
    return _unit(maker.observe((weight * mixed + (1 - weight) * own).flatten(0, 1))).view_as(own)


def _unit(x: Tensor) -> Tensor:
    """Deviation one along time, level kept in proportion."""
    return x / x.std(dim=-1, keepdim=True).clamp(min=1e-3)


def _standard(x: Tensor) -> Tensor:
    return (x - x.mean(dim=-1, keepdim=True)) / x.std(dim=-1, keepdim=True).clamp(min=1e-4)


class _Maker:
    """Components, each (rows, length) float32 of about zero mean and unit deviation."""

    def __init__(self, rng: torch.Generator, device: torch.device, length: int) -> None:
        self.rng, self.device, self.length = rng, device, length
        self.time = torch.arange(length, device=device, dtype=torch.float32)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.rng, device=self.device)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.rng, device=self.device)

    def compose(self, rows: int) -> Tensor:
        """A random blend of components; some rows multiply season and level instead of adding them."""
        season = self.season(rows) + 0.6 * (self.uniform(rows, 1) < 0.3) * self.season(rows)
        drift = self.rough(rows, 1.2, 2.6)
        weights = self.uniform(rows, 5) ** 2
        weights[:, 0] = torch.where(self.uniform(rows) < 0.8, weights[:, 0] + 0.3, 0.0)
        parts = [season, drift, self.rough(rows, 0.0, 1.0), self.jumps(rows), self.pulses(rows)]
        chance = [1.0, 0.6, 0.9, 0.25, 0.35]
        clean = self.uniform(rows, 1) < 0.3  # as regular as a busy service: little beside the season
        weights[:, 1:] = torch.where(clean, 0.1 * weights[:, 1:], weights[:, 1:])
        weights[:, :1] = torch.where(clean, 1.0, weights[:, :1])
        total = torch.zeros(rows, self.length, device=self.device)
        for i, (part, p) in enumerate(zip(parts, chance, strict=True)):
            total = total + weights[:, i : i + 1] * (self.uniform(rows, 1) < p) * part
        trend = (self.time / self.length - 0.5) * self.normal(rows, 1) * (self.uniform(rows, 1) < 0.2)
        swelling = total * torch.exp(0.4 * drift)
        return torch.where(self.uniform(rows, 1) < 0.2, swelling, total) + trend

    def season(self, rows: int) -> Tensor:
        """Periodic with random harmonics or a working day's plateau; the daily period is likeliest.

        Day differs from day: the amplitude wanders slowly.
        """
        listed = torch.tensor(PERIODS, device=self.device)
        period = listed[(self.uniform(rows) * len(PERIODS)).long()]
        period = torch.where(self.uniform(rows) < 0.15, 8.0 + 400.0 * self.uniform(rows), period).view(-1, 1)
        phase = self.time / period + self.uniform(rows, 1)
        decay = 0.5 + 2.0 * self.uniform(rows, 1)
        wave = torch.zeros(rows, self.length, device=self.device)
        for k in range(1, 9):
            shift, size = self.uniform(rows, 1), self.normal(rows, 1) * k**-decay
            wave = wave + size * torch.sin(2 * torch.pi * (k * phase + shift))
        center, width = self.uniform(rows, 1), 0.05 + 0.3 * self.uniform(rows, 1)
        sharp = 10.0 + 90.0 * self.uniform(rows, 1) ** 2
        away = ((phase - center + 0.5) % 1.0 - 0.5).abs()
        plateau = torch.sigmoid(sharp * (width - away))
        kind = self.uniform(rows, 1)
        blend = torch.where(kind < 0.4, _standard(wave), torch.where(kind < 0.7, _standard(plateau), 0.0))
        blend = torch.where(kind >= 0.7, _standard(_standard(wave) + 1.5 * _standard(plateau)), blend)
        return blend * (1.0 + 0.3 * self.uniform(rows, 1) * self.rough(rows, 1.5, 2.5))

    def rough(self, rows: int, least: float, most: float) -> Tensor:
        """Noise with a power-law spectrum, from white (0) through a random walk (2) to smooth (above)."""
        double = 2 * self.length
        frequency = torch.fft.rfftfreq(double, device=self.device).clamp(min=1.0 / double)
        slope = least + (most - least) * self.uniform(rows, 1)
        shape = frequency.view(1, -1) ** (-slope / 2)
        wave = torch.fft.rfft(self.normal(rows, double))
        return _standard(torch.fft.irfft(wave * shape, n=double)[:, : self.length])

    def jumps(self, rows: int) -> Tensor:
        """Level shifts: rare, of any size; some return."""
        rate = 4.0 * self.uniform(rows, 1) / self.length
        steps = (self.uniform(rows, self.length) < rate) * self.normal(rows, self.length)
        return _standard(steps.cumsum(dim=-1))

    def pulses(self, rows: int) -> Tensor:
        """Jobs: pulses of some steps at a fixed period, or at random moments."""
        listed = torch.tensor([12.0, 24.0, 48.0, 72.0, 144.0, 288.0, 288.0, 288.0], device=self.device)
        period = listed[(self.uniform(rows) * len(listed)).long()].view(-1, 1)
        width = 1.0 + torch.floor(8.0 * self.uniform(rows, 1) ** 2)
        regular = ((self.time + torch.floor(period * self.uniform(rows, 1))) % period < width).float()
        starts = (self.uniform(rows, self.length) < 3.0 * self.uniform(rows, 1) / 288.0).float()
        kernel = torch.exp(-torch.arange(12, device=self.device) / 3.0).view(1, 1, -1)
        random = torch.nn.functional.conv1d(starts.unsqueeze(1), kernel, padding=11)[:, 0, : self.length]
        height = 1.0 + 0.3 * self.normal(rows, self.length)
        return _standard(torch.where(self.uniform(rows, 1) < 0.6, regular, random) * height)

    def observe(self, x: Tensor) -> Tensor:
        """What turns a signal into a metric: a floor of zero, counts, ceilings, rounding, heavy tails."""
        rows = x.shape[0]
        kind = self.uniform(rows, 1)
        level = _standard(x) + 4.0 * self.uniform(rows, 1) - 0.5
        positive = torch.where(kind < 0.35, level.clamp(min=0.0), level + 2.0)
        positive = torch.where(kind > 0.8, torch.exp(0.6 * _standard(x)), positive)
        rate = positive.clamp(min=0.0) * 8.0 * self.uniform(rows, 1) ** 2
        counts = torch.poisson(rate.clamp(max=200.0), generator=self.rng)
        noisy = positive * (1.0 + 0.15 * self.uniform(rows, 1) * self.normal(rows, self.length))
        noisy = noisy + 0.3 * self.uniform(rows, 1) ** 2 * self.normal(rows, self.length)
        positive = torch.where(self.uniform(rows, 1) < 0.5, noisy, positive)
        positive = torch.where(self.uniform(rows, 1) < 0.12, counts, positive)
        top = positive.mean(-1, keepdim=True) + positive.std(-1, keepdim=True) * (0.5 + 2 * self.uniform(rows, 1))
        positive = torch.where(self.uniform(rows, 1) < 0.08, torch.minimum(positive, top), positive)
        grain = positive.std(-1, keepdim=True).clamp(min=1e-3) * (0.05 + 0.6 * self.uniform(rows, 1))
        rounded = torch.round(positive / grain) * grain
        return torch.where(self.uniform(rows, 1) < 0.15, rounded, positive)
