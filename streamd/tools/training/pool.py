"""Holds all series for training on one device and draws windows there; nothing is copied from the host.

The pool contains the training split only, so that no window can reach a later day.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from streamd.core.contract import MEMORY_LENGTH, MEMORY_STEP_SECONDS
from streamd.tools.training.sources import SeriesSource, compute_hours, count_phases


@dataclass(kw_only=True)
class DrawnWindows:
    """A batch of windows with the features in the order of the contract."""

    values: Tensor
    """`(batch, context + horizon, feature) float32`, each series divided by its deviation, NaN if missing."""

    memory: Tensor
    """`(batch, memory, feature) float32`: hourly means before the origin in the same units, as the daemon's memory."""

    phase: Tensor
    """`(batch,) long`: the number of steps from the last full hour to the origin."""

    seconds: Tensor
    """`(batch,) float32`: the time of the origin, counted from a Monday 00:00."""

    has_weekday: Tensor
    """`(batch,) bool`: whether the weekday of `seconds` is true."""


@dataclass(kw_only=True)
class PooledSeries:
    """All series of all sources as one flat tensor, and where each part of it begins.

        flat: | machine 0: series 0, series 1, ... | machine 1: series 0, ... | ...

    Tensors of one axis have an element for each machine, unless their docstring states otherwise.
    """

    flat: Tensor
    """The values of all series, divided by their deviation."""

    hourly: Tensor
    """The hourly means of all series, in the order of `flat`."""

    useful: Tensor
    """For each series, whether it is not flat."""

    base: Tensor
    """For each series, the position in `flat` at which it begins."""

    hour_base: Tensor
    """For each series, the position in `hourly` at which it begins."""

    natural: Tensor
    """`(machine, feature)`: the number of the series of each feature, or -1."""

    first: Tensor
    """The number of the machine's first series."""

    size: Tensor
    """The number of the machine's series."""

    hours: Tensor
    """The number of the machine's hourly means."""

    phase: Tensor
    """How many steps into its hour the machine's step 0 is."""

    begin: Tensor
    """The time of the machine's step 0, in seconds from a Monday 00:00."""

    start: Tensor
    """The first step at which a window may begin."""

    starts: Tensor
    """The number of steps at which a window may begin."""

    has_weekday: Tensor
    has_memory: Tensor
    weight: Tensor
    """The share of the windows that is drawn from the machine, relative to the others."""


class SeriesPool:
    """Draws windows of the series of one machine, uniformly over the machines and steps of a source.

    Raises `ValueError` if a source has no machine with the steps of one window.
    """

    def __init__(
        self, sources: list[SeriesSource], device: torch.device, context: int, horizon: int, step_seconds: int
    ) -> None:
        self.device, self.context, self.window, self.step_seconds = device, context, context + horizon, step_seconds
        self.period = MEMORY_STEP_SECONDS // step_seconds
        counts = [0, 0, 0]
        placed = [self._place_source(source, counts) for source in sources]
        names = [field.name for field in fields(PooledSeries)]
        self.pooled = PooledSeries(**{n: torch.cat([getattr(each, n) for each in placed]) for n in names})
        self.cumulative = self.pooled.weight.cumsum(0)

    def _place_source(self, source: SeriesSource, counts: list[int]) -> PooledSeries:
        """Return the series of a source; `counts` are those of values, hours and series before it, and grow by its."""
        device = self.device
        values = source.values.to(device)
        machines, series, steps = values.shape
        values, useful = _scale_series(values)
        phases = count_phases(source, self.step_seconds).to(device)
        hourly = compute_hours(values, phases, self.period)
        hours = hourly.shape[2]
        extents = source.extents.to(device)
        starts = (extents[:, 1] - extents[:, 0] - self.window + 1).clamp(min=0)
        if not starts.any():
            raise ValueError(f"source {source.name!r}: expected a machine with {self.window} steps of training days")
        first = counts[2] + series * torch.arange(machines, device=device)
        slot = source.natural.to(device).view(1, -1)
        order = torch.arange(machines * series, device=device)
        whole = torch.ones(machines, device=device, dtype=torch.long)
        placed = PooledSeries(
            flat=values.flatten(),
            hourly=hourly.flatten(),
            useful=useful.flatten(),
            base=counts[0] + steps * order,
            hour_base=counts[1] + hours * order,
            natural=torch.where(slot >= 0, first.view(-1, 1) + slot, -1),
            first=first,
            size=series * whole,
            hours=hours * whole,
            phase=phases,
            begin=source.begins.to(device),
            start=extents[:, 0],
            starts=starts,
            has_weekday=whole * source.has_weekdays > 0,
            has_memory=whole * source.has_memory > 0,
            weight=source.weight * starts / starts.sum(),
        )
        counts[:] = [counts[0] + values.numel(), counts[1] + hourly.numel(), counts[2] + machines * series]
        return placed

    def draw_windows(self, batch: int, natural_share: float, features: Tensor | None = None) -> DrawnWindows:
        """Return random windows of all features, or of those at the positions `features`.

        `natural_share` of the windows have their series where the feature map puts them; the others have series of one
        machine in random order.
        """
        pooled, device = self.pooled, self.device
        natural = pooled.natural if features is None else pooled.natural.index_select(1, features)
        point = torch.rand(batch, device=device) * self.cumulative[-1]
        # To the right of the point, so that a machine of weight 0, which is too short for a window, is never drawn.
        machine = torch.searchsorted(self.cumulative, point, right=True).clamp(max=len(pooled.size) - 1)
        any_series = (torch.rand(batch, natural.shape[1], device=device) * pooled.size[machine].unsqueeze(1)).long()
        mapped = torch.rand(batch, 1, device=device) < natural_share
        series = torch.where(mapped, natural[machine], pooled.first[machine].unsqueeze(1) + any_series)
        # The product may be rounded up to the number of starts itself.
        offset = (torch.rand(batch, device=device) * pooled.starts[machine]).long()
        start = pooled.start[machine] + offset.minimum((pooled.starts[machine] - 1).clamp(min=0))
        index = pooled.base[series.clamp(min=0)] + start.unsqueeze(1)
        values = pooled.flat[index.unsqueeze(1) + torch.arange(self.window, device=device).view(1, -1, 1)]
        usable = ((series >= 0) & pooled.useful[series.clamp(min=0)]).unsqueeze(1)
        origin = pooled.phase[machine] + start + self.context
        memory = self._read_memory(machine, series.clamp(min=0), origin)
        return DrawnWindows(
            values=torch.where(usable, values, torch.nan),
            memory=torch.where(usable, memory, torch.nan),
            phase=origin % self.period,
            seconds=(pooled.begin[machine] + (start + self.context) * self.step_seconds).float(),
            has_weekday=pooled.has_weekday[machine],
        )

    def _read_memory(self, machine: Tensor, series: Tensor, origin: Tensor) -> Tensor:
        """Return the memory `(batch, memory, feature)` of windows that end at `origin` steps from their first hour."""
        pooled = self.pooled
        hour = (origin // self.period).view(-1, 1, 1)
        place = hour - MEMORY_LENGTH + torch.arange(MEMORY_LENGTH + 1, device=self.device).view(1, -1, 1)
        there = (place >= 0) & (place < hour) & pooled.has_memory[machine].view(-1, 1, 1)
        last = pooled.hours[machine].view(-1, 1, 1) - 1
        means = pooled.hourly[pooled.hour_base[series].unsqueeze(1) + place.clamp(min=0).minimum(last)]
        return blend_hours(torch.where(there, means, torch.nan), origin % self.period, self.period)


def blend_hours(means: Tensor, phase: Tensor, period: int) -> Tensor:
    """Return the memory `(batch, hour - 1, feature)` from the means of full hours, as the daemon blends them.

    Each element is the mean of two neighbouring hours, the later one with the weight `phase (batch,)`, over those that
    are known.
    """
    late = phase.view(-1, 1, 1).to(means.dtype)
    first, second = means[:, :-1], means[:, 1:]
    weights = [(period - late) * ~first.isnan(), late * ~second.isnan()]
    total = weights[0] * torch.nan_to_num(first) + weights[1] * torch.nan_to_num(second)
    return torch.where(weights[0] + weights[1] > 0, total / (weights[0] + weights[1]).clamp(min=1.0), torch.nan)


def _scale_series(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return series divided by their deviation, `(machine, series, step)`, and which of them are not flat."""
    known = ~values.isnan()
    mean = torch.nan_to_num(values).sum(-1) / known.sum(-1).clamp(min=1)
    square = torch.nan_to_num((values - mean.unsqueeze(-1)) ** 2).sum(-1) / known.sum(-1).clamp(min=1)
    deviation = square.sqrt()
    scaled = values / torch.where(deviation > 1e-6, deviation, 1.0).unsqueeze(-1)
    return scaled, deviation > 1e-4 * mean.abs().clamp(min=1e-2)
