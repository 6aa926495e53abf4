"""Changes drawn windows before the network sees them, on the device and with fixed shapes.

`vary_series` makes other series from the drawn ones (mixing, flipping, bending, noise), `add_incidents` adds incidents
and surges, `hide_values` and `hide_memory` remove values as a real collector loses them, and `add_absurd_values` adds
values as a broken sensor reports them. Each rate is a setting, so that an ablation can turn it off. This module draws
no windows; `pool` does.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from streamd.core.contract import MEMORY_LENGTH
from streamd.tools.training.pool import DrawnWindows, blend_hours

DAY_HOURS = 24


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
    surge: float = 0.03
    absurd: float = 0.06
    incomplete: float = 0.45
    """Share of the windows from which anything is hidden; the rates below are shares of these."""

    rows: float = 0.4
    stretch: float = 0.3
    feature: float = 0.4
    short: float = 0.35
    no_memory: float = 0.3
    """Share of the windows without any memory; it is higher where the window itself is short."""

    some_memory: float = 0.3
    """Share of the windows that remember less than seven days."""

    def vary_series(self, draw: DrawnWindows, context: int) -> DrawnWindows:
        """Return windows with varied series of about the same deviation; their memory varies with them."""
        fine = draw.values.shape[1]
        x = torch.cat([draw.memory, draw.values], dim=1)
        batch, steps, features = x.shape
        device = x.device
        hours = steps - fine

        def chance(rate: float, *shape: int) -> Tensor:
            return torch.rand(shape or (batch, 1, features), device=device) < rate

        def uniform(low: float, high: float) -> Tensor:
            return low + (high - low) * torch.rand(batch, 1, features, device=device)

        # The memory is a week of hours before the steps of the window, on one axis of time: -0.5 to 0.5 is the window.
        past = context - 12.0 * torch.arange(hours, 0, -1, device=device) + 6.0
        clock = torch.cat([past, torch.arange(fine, device=device)]).view(1, -1, 1)
        time = (clock / (fine - 1) - 0.5).clamp(min=-1.2)
        is_fine = (torch.arange(steps, device=device) >= hours).view(1, -1, 1)

        # 1. Mix the series of two windows (TSMixup, Ansari et al. 2024).
        share = uniform(0.3, 1.0)
        other = x.roll(1, 0)
        mixed = share * x + (1 - share) * other
        mixed = mixed / (share**2 + (1 - share) ** 2).sqrt()
        both = chance(self.mix, batch, 1, 1) & ~mixed[:, hours:].isnan().all(1, keepdim=True)
        x = torch.where(both, mixed, x)
        # 2. Turn a series upside down, unless its context is empty and has no top.
        top = torch.where(x.isnan(), -torch.inf, x)[:, hours : hours + context].amax(1, keepdim=True)
        x = torch.where(chance(self.flip) & top.isfinite(), top * uniform(1.0, 1.3) - x, x)
        # 3. Let the amplitude grow or fade.
        x = torch.where(chance(self.swell), x * torch.exp(uniform(-1.2, 1.2) * time), x)
        # 4. Raise values to a power, then scale back to the same spread.
        known = torch.nan_to_num(x)
        power = torch.exp(uniform(-0.7, 0.7))
        peak = known[:, hours:].abs().amax(1, keepdim=True).clamp(min=1e-6)
        bent = peak * torch.sign(x) * (x.abs() / peak).clamp(min=1e-6) ** power
        deviation = torch.nan_to_num(bent[:, hours:]).std(1, keepdim=True).clamp(min=1e-6)
        ratio = (known[:, hours:].std(1, keepdim=True) / deviation).clamp(0.2, 5.0)
        x = torch.where(chance(self.bend), bent * ratio, x)
        # 5. Round to coarse values. 6. Add noise, of which the mean of an hour has little.
        grain = uniform(0.05, 0.7)
        x = torch.where(chance(self.round) & is_fine, torch.round(x / grain) * grain, x)
        size = uniform(0.0, 0.6) * chance(self.noise) * torch.where(is_fine, 1.0, 12**-0.5)
        x = x + size * torch.randn_like(x)
        # 7. Let the level jump at a random step of the window. 8. Raise the level of the whole window.
        moment = torch.rand(batch, 1, features, device=device) - 0.5
        jump = torch.randn(batch, 1, features, device=device) * chance(self.shift)
        x = x + jump * (time > moment)
        x = x + torch.exp(uniform(-2.0, 3.0)) * chance(self.raise_level)
        return replace(draw, memory=x[:, :hours], values=x[:, hours:])

    def add_incidents(self, x: Tensor, context: int) -> Tensor:
        """Return the series with incidents that begin in the context, so that the day before need not repeat itself.

        There is a short incident (minutes to an hour) and a long one (up to 18 hours), each in one series or in all
        series of the server. A series sinks, moves to another level, or freezes. An incident that lasts beyond the
        context continues in the horizon, so that the network learns how long incidents last and that they end. Surges
        begin shortly before the origin.
        """
        x = self._add_incident(x, context, 2.0, 14.0)
        return self._add_surge(self._add_incident(x, context, 6.0, 216.0), context)

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

    def _add_surge(self, x: Tensor, context: int) -> Tensor:
        """Return the series with some raised by 2 to 30 deviations from at most four hours before the origin on."""
        batch, steps, features = x.shape
        device = x.device

        def rand() -> Tensor:
            return torch.rand(batch, 1, features, device=device)

        time = torch.arange(steps, device=device).view(1, -1, 1)
        start = context - 1.0 - torch.floor(47.0 * rand() ** 2)
        length = 3.0 * (130.0 ** rand())
        during = (rand() < self.surge) & (time >= start) & (time < start + length)
        return x + during * (2.0 * 15.0 ** rand()) * (1.0 + 0.1 * torch.randn_like(x))

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
        # A sender that stopped: the newest values are old.
        stopped = (time >= start) & (rand(batch, 1, features) < 0.1 * self.stretch)
        silent = (rand(batch, 1, features) < 0.9 * rand(batch, 1, 1)) & (rand(batch, 1, 1) < self.feature)
        remaining = 4.0 * (context / 4.0) ** rand(batch, 1, 1)
        short = (time < context - remaining) & (rand(batch, 1, 1) < self.short)
        return torch.where(touched & (lost | stretch | stopped | silent | short), torch.nan, past)

    def add_absurd_values(self, past: Tensor) -> Tensor:
        """Return the context with single values of some series 10 to 1e11 times as large as its others."""
        batch, context, features = past.shape
        device = past.device

        def rand() -> Tensor:
            return torch.rand(batch, 1, features, device=device)

        place = torch.where(rand() < 0.2, float(context - 1), torch.floor(rand() * context))
        here = (torch.arange(context, device=device).view(1, -1, 1) == place) & (rand() < self.absurd)
        size = torch.nan_to_num(past).abs().amax(1, keepdim=True) * 10.0 ** (1.0 + 10.0 * rand())
        return torch.where(here & ~past.isnan(), size * torch.where(rand() < 0.15, -1.0, 1.0), past)

    def hide_memory(self, memory: Tensor, past: Tensor, phase: Tensor) -> Tensor:
        """Return the memory `(batch, memory, feature)` of a window whose context is `past`, in part or not at all.

        Its last day is that of the context, with all that was changed there. A few elements are absurd.
        """
        batch, hours, features = memory.shape
        device, period = memory.device, past.shape[1] // DAY_HOURS
        memory = torch.cat([memory[:, : hours - DAY_HOURS], summarize_last_day(past, phase, period)], dim=1)
        place = torch.floor(torch.rand(batch, 1, features, device=device) * (hours - DAY_HOURS))
        element = torch.arange(hours, device=device).view(1, -1, 1)
        bad = (element - place).clamp(min=0).floor_divide(2) == 0
        bad = bad & (element >= place) & (torch.rand(batch, 1, features, device=device) < 0.5 * self.absurd)
        size = 10.0 ** (1.0 + 9.0 * torch.rand(batch, 1, features, device=device))
        memory = torch.where(bad, memory * size + size, memory)
        is_short = past[:, : past.shape[1] // 2].isnan().all(1, keepdim=True).all(2, keepdim=True)
        rate = torch.where(is_short, 0.5 + 0.5 * self.no_memory, self.no_memory)
        kind = torch.rand(batch, 1, 1, device=device)
        days = torch.rand(batch, 1, 1, device=device) * MEMORY_LENGTH
        reach = torch.where(kind < rate, 0.0, torch.where(kind < rate + self.some_memory, days, float(hours)))
        return torch.where(element >= hours - reach, memory, torch.nan)

    def make_calendar(self, draw: DrawnWindows, horizon: int, step_seconds: int) -> Tensor:
        """Return the calendar `(batch, horizon, 4)`, for some windows with another time of day.

        Other fleets have their peak at another hour. Where the weekday is not true, it is a random one.
        """
        seconds = draw.seconds
        batch = len(seconds)
        day = torch.floor(7 * torch.rand(batch, device=seconds.device)) * 86_400
        hours = torch.rand(batch, device=seconds.device) * 86_400
        other = torch.rand(batch, device=seconds.device) < self.calendar_shift
        start = seconds + torch.where(draw.has_weekday, 0.0, day) + torch.where(other, hours, 0.0)
        return compute_calendar(start, horizon, step_seconds)


def summarize_last_day(past: Tensor, phase: Tensor, period: int) -> Tensor:
    """Return the last 24 elements of the memory, `(batch, 24, feature)`, from the context they cover."""
    batch, context, features = past.shape
    start = context - phase.view(-1, 1) - period * DAY_HOURS
    step = start + torch.arange(period * DAY_HOURS, device=past.device).view(1, -1)
    steps = past.gather(1, step.clamp(min=0).unsqueeze(2).expand(-1, -1, features))
    steps = torch.where((step >= 0).unsqueeze(2), steps, torch.nan)
    means = steps.reshape(batch, DAY_HOURS, period, features).nanmean(dim=2)
    missing = torch.full_like(means[:, :1], torch.nan)
    return blend_hours(torch.cat([means, missing], dim=1), phase, period)


def compute_calendar(start_seconds: Tensor, horizon: int, step_seconds: int) -> Tensor:
    """Return the calendar `(batch, horizon, 4)` of the steps from `start_seconds` on, as `streamd.core.calendar` does.

    It has sine and cosine of the time of day, then of the week counted from Monday 00:00, at the start of each step.
    `start_seconds`, `(batch,) float32`, counts from a Monday 00:00 UTC, so that float32 is exact to the second.
    """
    time = start_seconds.view(-1, 1) + step_seconds * torch.arange(horizon, device=start_seconds.device)
    angles = [2 * torch.pi * (time % period) / period for period in (86_400.0, 604_800.0)]
    return torch.stack([f(a) for a in angles for f in (torch.sin, torch.cos)], dim=-1)
