"""Draws random numbers and elementary series on one device, all from one seeded generator.

What the series mean belongs to the other modules of this package. A series is `(rows, length) float32`; a step is five
minutes.
"""

import torch
from torch import Tensor

STEPS_A_DAY = 288
STEPS_A_WEEK = 7 * STEPS_A_DAY


def standardize(x: Tensor) -> Tensor:
    """Return series with the mean zero and the deviation one along time; a constant series becomes zero."""
    return (x - x.mean(dim=-1, keepdim=True)) / x.std(dim=-1, keepdim=True).clamp(min=1e-4)


class SeriesDraws:
    """Random draws for series of one length; the same seed gives the same series on the same kind of device."""

    def __init__(self, rng: torch.Generator, device: torch.device, length: int) -> None:
        self.rng, self.device, self.length = rng, device, length
        self.time = torch.arange(length, device=device, dtype=torch.float32)
        """The steps `(length,)`, from 0 on."""

    def draw_uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Return uniform numbers between `low` and `high`."""
        return low + (high - low) * torch.rand(shape, generator=self.rng, device=self.device)

    def draw_log_uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Return numbers whose logarithm is uniform, so that each power of ten is as likely as another."""
        return low * (high / low) ** self.draw_uniform(0.0, 1.0, *shape)

    def draw_normal(self, *shape: int) -> Tensor:
        """Return numbers of the standard normal distribution."""
        return torch.randn(shape, generator=self.rng, device=self.device)

    def draw_chance(self, probability: float, *shape: int) -> Tensor:
        """Return booleans that are true with a probability."""
        return torch.rand(shape, generator=self.rng, device=self.device) < probability

    def draw_choice(self, options: tuple[float, ...], *shape: int) -> Tensor:
        """Return options, each as likely as another; an option that is listed twice is twice as likely."""
        listed = torch.tensor(options, device=self.device)
        return listed[(self.draw_uniform(0.0, 1.0, *shape) * len(options)).long().clamp(max=len(options) - 1)]

    def draw_counts(self, rate: Tensor) -> Tensor:
        """Return Poisson counts of a rate a step."""
        return torch.poisson(rate.clamp(0.0, 1e6), generator=self.rng)

    def draw_switches(self, probability: float, rows: int, on: Tensor | float, off: Tensor | float) -> Tensor:
        """Return for each row `(rows, 1)`, or each step of it, `on` with a probability and otherwise `off`."""
        return torch.where(self.draw_chance(probability, rows, 1), on, off)

    def make_noise(self, rows: int, least: float, most: float) -> Tensor:
        """Return noise with a power-law spectrum: white (slope 0), a random walk (2), or smooth (above 2).

        Each row has a slope between `least` and `most`, the mean zero and the deviation one.
        """
        double = 2 * self.length
        frequency = torch.fft.rfftfreq(double, device=self.device).clamp(min=1.0 / double)
        slope = self.draw_uniform(least, most, rows, 1)
        shape = frequency.view(1, -1) ** (-slope / 2)
        wave = torch.fft.rfft(self.draw_normal(rows, double))
        return standardize(torch.fft.irfft(wave * shape, n=double)[:, : self.length])

    def make_reverting_noise(self, memory: Tensor) -> Tensor:
        """Return noise that goes back to zero within `memory (rows, 1)` steps, with the deviation of about one.

        It is a stationary autoregression of the first order, AR(1); a memory far below one step is white noise.
        """
        keep = torch.exp(-1.0 / memory)
        noise = self._filter(self.draw_normal(len(memory), 2 * self.length), keep)[:, self.length :]
        return noise * (1 - keep**2).sqrt() / (1 - keep)

    def smooth_causally(self, x: Tensor, memory: Tensor) -> Tensor:
        """Return exponential means of the past of each series, over about `memory (rows, 1)` steps."""
        return self._filter(torch.cat([x.flip(-1), x], dim=-1), torch.exp(-1.0 / memory))[:, self.length :]

    def convolve(self, x: Tensor, kernel: Tensor) -> Tensor:
        """Return the answers of events `x` with the answer `kernel` to an event of one, both `(rows, length)`."""
        double = 2 * self.length
        both = torch.fft.rfft(x, n=double) * torch.fft.rfft(kernel, n=double)
        return torch.fft.irfft(both, n=double)[:, : self.length]

    def _filter(self, x: Tensor, keep: Tensor) -> Tensor:
        angle = 2 * torch.pi * torch.fft.rfftfreq(x.shape[-1], device=self.device).view(1, -1)
        answer = (1 - keep) / (1 - torch.polar(keep.expand(-1, angle.shape[1]), -angle.expand(len(keep), -1)))
        return torch.fft.irfft(torch.fft.rfft(x) * answer, n=x.shape[-1])
