"""The series that training draws from: fleets' training days and generated servers, in one form.

This module prepares tensors; `pool` draws windows from them.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from streamd.core.contract import MEMORY_STEP_SECONDS
from streamd.tools.training.fleet import TrainingFleet, is_left_out

HOUR_STEPS = 12
"""The steps of an hour in a source of interpolated hours."""

EPOCH_WEEKDAY = 3 * 86_400
"""Seconds from Monday 00:00 to the beginning of the epoch, a Thursday."""


@dataclass(kw_only=True)
class SeriesSource:
    """The series of one fleet, and how to draw from them."""

    name: str
    values: Tensor
    """`(machine, series, step) float32`, in raw units, NaN where missing."""

    natural: Tensor
    """`(feature,) long`: the series of each feature by the feature map, or -1."""

    weight: float
    """The share of the windows that is drawn from this source, relative to the others."""

    begins: Tensor
    """`(machine,) long`: the time of step 0, in seconds from a Monday 00:00."""

    extents: Tensor
    """`(machine, 2) long`: the first step with a value, and the step after the last one."""

    has_weekdays: bool = False
    """Whether the weekdays of `begins` are true."""

    has_memory: bool = True
    """Whether steps are as long as the contract says, so that twelve are an hour."""


def make_fleet_source(
    fleet: TrainingFleet, weight: float, leave_out_every: int = 0, step_seconds: int = 300
) -> SeriesSource:
    """Return the training days of a fleet as a source.

    `leave_out_every` 5 excludes each fifth machine in the order of names, and machines without training days are
    excluded too. If its steps are not of `step_seconds`, its windows have no memory.
    """
    first, last = fleet.splits["train"]
    extents = np.clip(fleet.find_extents(), first, last) - first
    chosen = [i for i in range(len(extents)) if extents[i, 1] > extents[i, 0] and not is_left_out(i, leave_out_every)]
    values = fleet.select_split("train", chosen).transpose(0, 2, 1)
    columns = list(fleet.columns)
    begins = (fleet.begins[chosen] + first * fleet.step_seconds + EPOCH_WEEKDAY) % 604_800
    return SeriesSource(
        name=fleet.name,
        values=torch.from_numpy(np.ascontiguousarray(values)),
        natural=torch.tensor([-1 if c is None else columns.index(c) for c in fleet.natural]),
        weight=weight,
        begins=torch.from_numpy(begins),
        extents=torch.from_numpy(extents[chosen]),
        has_weekdays=fleet.has_weekdays,
        has_memory=fleet.step_seconds == step_seconds,
    )


def roughen_hours(source: SeriesSource, seed: int) -> SeriesSource:
    """Return a source of interpolated hours with noise within the hour, of another strength in each series.

    The noise is a share, between 0 and 1, of the mean change from one hour to the next; half of it lasts for some
    steps.
    """
    rng = torch.Generator().manual_seed(seed)
    values = source.values
    machines, series, steps = values.shape
    hourly = values[..., ::HOUR_STEPS].diff(dim=-1).abs().nanmean(dim=-1, keepdim=True)
    white = torch.randn(machines, series, steps + 8, generator=rng)
    slow = white.unfold(-1, 9, 1).mean(dim=-1) * 3.0
    share = torch.rand(machines, series, 2, 1, generator=rng) ** 2
    rough = values + hourly * (share[:, :, 0] * white[..., :steps] + share[:, :, 1] * slow)
    least = torch.where(values.isnan(), torch.inf, values).amin(dim=-1, keepdim=True)
    return replace(source, values=torch.where(least >= 0.0, rough.clamp(min=0.0), rough))


def compute_hours(values: Tensor, phases: Tensor, period: int) -> Tensor:
    """Return the means of whole periods, `(machine, series, period) float32`, NaN where no step has a value.

    `values` is `(machine, series, step)`; `phases (machine,)` says how many steps into a period step 0 is. The first
    and the last period of a machine may be cut off.
    """
    machines, series, steps = values.shape
    count = (steps + 2 * period - 2) // period
    found = values.new_full((machines, series, count), torch.nan)
    for phase in phases.unique().tolist():
        chosen = phases == phase
        behind = count * period - steps - phase
        padded = nn.functional.pad(values[chosen], (phase, behind), value=torch.nan)
        found[chosen] = padded.reshape(-1, series, count, period).nanmean(dim=-1)
    return found


def count_phases(source: SeriesSource, step_seconds: int) -> Tensor:
    """Return how many steps into its hour step 0 of each machine is, `(machine,) long`."""
    return (source.begins % MEMORY_STEP_SECONDS) // step_seconds
