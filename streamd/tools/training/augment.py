"""Changes drawn windows before the network sees them, on the device and with fixed shapes.

`vary_series` makes other series from the drawn ones (mixing, flipping, bending, noise), `add_incidents` adds incidents,
and `hide_values` removes values as a real collector loses them. Each rate is a setting, so that an ablation can turn it
off. This module draws no windows; `pool` does.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from streamd.tools.training.pool import DrawnWindows


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """The rate of each variation: the share of the series that it changes, unless its docstring states otherwise.

    A field is a key of the table `[augmentation]` of a training configuration.
    """

    mix: float = 0.2
    """Share of windows."""

    flip: float = 0.1
    swell: float = 0.15
    bend: float = 0.1
    round: float = 0.08
    noise: float = 0.15
    shift: float = 0.05
    raise_level: float = 0.2
    calendar_shift: float = 0.4
    status: float = 0.1
    incident: float = 0.12
    incomplete: float = 0.45
    """Share of the windows from which anything is hidden; the rates below are shares of these."""

    rows: float = 0.4
    stretch: float = 0.3
    feature: float = 0.4
    short: float = 0.35

    def vary_series(self, draw: DrawnWindows, context: int) -> Tensor:
        """Return varied series of about the same deviation, `(batch, context + horizon, feature) float32`."""
        x = draw.values
        batch, steps, features = x.shape
        device = x.device

        def chance(rate: float, *shape: int) -> Tensor:
            return torch.rand(shape or (batch, 1, features), device=device) < rate

        def uniform(low: float, high: float) -> Tensor:
            return low + (high - low) * torch.rand(batch, 1, features, device=device)

        # 1. Mix the series of two windows (TSMixup, Ansari et al. 2024).
        share = uniform(0.3, 1.0)
        other = x.roll(1, 0)
        mixed = share * x + (1 - share) * other
        mixed = mixed / (share**2 + (1 - share) ** 2).sqrt()
        x = torch.where(chance(self.mix, batch, 1, 1) & ~mixed.isnan(), mixed, x)
        # 2. Turn a series upside down.
        top = torch.where(x.isnan(), -torch.inf, x)[:, :context].amax(1, keepdim=True)
        x = torch.where(chance(self.flip), top * uniform(1.0, 1.3) - x, x)
        # 3. Let the amplitude grow or fade.
        time = torch.linspace(-0.5, 0.5, steps, device=device).view(1, -1, 1)
        x = torch.where(chance(self.swell), x * torch.exp(uniform(-1.2, 1.2) * time), x)
        # 4. Raise values to a power, then scale back to the same spread.
        known = torch.nan_to_num(x)
        power = torch.exp(uniform(-0.7, 0.7))
        peak = known.abs().amax(1, keepdim=True).clamp(min=1e-6)
        bent = peak * torch.sign(x) * (x.abs() / peak).clamp(min=1e-6) ** power
        ratio = known.std(1, keepdim=True) / torch.nan_to_num(bent).std(1, keepdim=True).clamp(min=1e-6)
        x = torch.where(chance(self.bend), bent * ratio.clamp(0.2, 5.0), x)
        # 5. Round to coarse values. 6. Add noise.
        grain = uniform(0.05, 0.7)
        x = torch.where(chance(self.round), torch.round(x / grain) * grain, x)
        size = uniform(0.0, 0.6) * chance(self.noise)
        x = x + size * torch.randn_like(x)
        # 7. Let the level jump at a random step of the window. 8. Raise the level of the whole window.
        moment = torch.rand(batch, 1, features, device=device) - 0.5
        jump = torch.randn(batch, 1, features, device=device) * chance(self.shift)
        x = x + jump * (time > moment)
        return x + torch.exp(uniform(-2.0, 3.0)) * chance(self.raise_level)

    def add_incidents(self, x: Tensor, context: int) -> Tensor:
        """Return the series with incidents that begin in the context, so that the day before need not repeat itself.

        There is a short incident (minutes to an hour) and a long one (up to 18 hours), each in one series or in all
        series of the server. A series sinks, moves to another level, or freezes. An incident that lasts beyond the
        context continues in the horizon, so that the network learns how long incidents last and that they end.
        """
        x = self._add_incident(x, context, 2.0, 14.0)
        return self._add_incident(x, context, 6.0, 216.0)

    def _add_incident(self, x: Tensor, context: int, least: float, most: float) -> Tensor:
        batch, steps, features = x.shape
        device = x.device
        shared = torch.rand(batch, 1, 1, device=device) < 0.5

        def rand() -> Tensor:
            one = torch.rand(batch, 1, 1, device=device)
            return torch.where(shared, one, torch.rand(batch, 1, features, device=device))

        touched = rand() < self.incident
        time = torch.arange(steps, device=device).view(1, -1, 1)
        start, length = context * rand() - 24.0, least + (most - least) * rand() ** 1.5
        during = touched & (time >= start) & (time < start + length)
        kind, depth = rand(), torch.rand(batch, 1, features, device=device)
        known = torch.nan_to_num(x[:, :context]).mean(1, keepdim=True)
        noise = 0.1 * torch.rand(batch, 1, features, device=device) * torch.randn_like(x)
        frozen = known * 2.0 * depth + noise
        other = torch.where(kind < 0.3, x * depth, torch.where(kind < 0.6, x + 4.0 * depth - 2.0, frozen))
        return torch.where(during & ~x.isnan(), other, x)

    def hide_values(self, past: Tensor) -> Tensor:
        """Return the context, `(batch, context, feature)`, with rows, stretches, features or its beginning as NaN."""
        batch, context, features = past.shape
        device = past.device

        def rand(*shape: int) -> Tensor:
            return torch.rand(shape, device=device)

        touched = rand(batch, 1, 1) < self.incomplete
        time = torch.arange(context, device=device).view(1, -1, 1)
        lost = (rand(batch, context, 1) < 0.6 * rand(batch, 1, 1)) & (rand(batch, 1, 1) < self.rows)
        start = rand(batch, 1, features) * context
        length = 0.5 * context * rand(batch, 1, features) ** 2
        stretch = (time >= start) & (time < start + length) & (rand(batch, 1, features) < self.stretch)
        silent = (rand(batch, 1, features) < 0.9 * rand(batch, 1, 1)) & (rand(batch, 1, 1) < self.feature)
        remaining = 8.0 * (context / 8.0) ** rand(batch, 1, 1)
        short = (time < context - remaining) & (rand(batch, 1, 1) < self.short)
        return torch.where(touched & (lost | stretch | silent | short), torch.nan, past)

    def make_calendar(self, seconds: Tensor, horizon: int, step_seconds: int) -> Tensor:
        """Return the calendar `(batch, horizon, 4)`, with another weekday, and for some windows another time of day.

        The weekdays of the data pack are arbitrary, and other fleets have their peak at another hour.
        """
        batch = len(seconds)
        day = torch.floor(7 * torch.rand(batch, device=seconds.device)) * 86_400
        hours = torch.rand(batch, device=seconds.device) * 86_400
        other = torch.rand(batch, device=seconds.device) < self.calendar_shift
        start = seconds + day + torch.where(other, hours, 0.0)
        return compute_calendar(start, horizon, step_seconds)


def compute_calendar(start_seconds: Tensor, horizon: int, step_seconds: int) -> Tensor:
    """Return the calendar `(batch, horizon, 4)` of the steps from `start_seconds` on, as `streamd.core.calendar` does.

    It has sine and cosine of the time of day, then of the week counted from Monday 00:00, at the start of each step.
    `start_seconds`, `(batch,) float32`, counts from a Monday 00:00 UTC, so that float32 is exact to the second.
    """
    time = start_seconds.view(-1, 1) + step_seconds * torch.arange(horizon, device=start_seconds.device)
    angles = [2 * torch.pi * (time % period) / period for period in (86_400.0, 604_800.0)]
    return torch.stack([f(a) for a in angles for f in (torch.sin, torch.cos)], dim=-1)
