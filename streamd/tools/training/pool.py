"""Holds all series for training on one device and draws windows there; nothing is copied from the host.

The pool contains the training split only, so that no window can reach a later day.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from streamd.tools.training.fleet import TrainingFleet, is_left_out


@dataclass(kw_only=True)
class SeriesSource:
    """The series of one fleet, and how to draw from them."""

    name: str
    values: Tensor
    """`(machine, series, step) float32`, in raw units."""

    natural: Tensor
    """`(feature,) long`: the series of each feature by the feature map, or -1."""

    weight: float
    """The share of the windows that is drawn from this source, relative to the others."""

    begin_seconds: int
    """The time of step 0, counted from a Monday 00:00."""

    identifiers: list[int] | None = None
    """The id of each machine, or `None` if they have none."""


@dataclass
class DrawnWindows:
    """A batch of windows with the features in the order of the contract."""

    values: Tensor
    """`(batch, context + horizon, feature) float32`, each series divided by its deviation, NaN if missing."""

    seconds: Tensor
    """`(batch,) float32`: the time of the first step of each window, counted from a Monday 00:00."""

    server: Tensor
    """`(batch,) long`: the id of the server if the series are placed by the feature map, else 0."""


class SeriesPool:
    """Draws windows of 14 series of one machine, uniformly over the machines and steps of a source.

    All series of all sources are one flat tensor; the other tensors say where each part begins:

        flat:     | machine 0: series 0, series 1, ... | machine 1: series 0, ... | ...
        base:       position in `flat` at which each series begins       (one for each series)
        first:      number of the first series of each machine           (one for each machine)
        natural:    number of the series of each feature, or -1          (machine, feature)
        cumulative: running sum of the machines' weights                 (one for each machine)
    """

    def __init__(self, sources: list[SeriesSource], device: torch.device, window: int, step_seconds: int) -> None:
        self.device, self.window, self.step_seconds = device, window, step_seconds
        flat, scale, base, length, natural, size, begin, weight = [], [], [], [], [], [], [], []
        identifier: list[int] = []
        position = count = 0
        for source in sources:
            values = source.values.to(device)
            machines, series, steps = values.shape
            known = ~values.isnan()
            mean = torch.nan_to_num(values).sum(-1) / known.sum(-1).clamp(min=1)
            square = torch.nan_to_num((values - mean.unsqueeze(-1)) ** 2).sum(-1) / known.sum(-1).clamp(min=1)
            deviation = square.sqrt()
            flat.append((values / torch.where(deviation > 1e-6, deviation, 1.0).unsqueeze(-1)).flatten())
            scale.append((deviation > 1e-4 * mean.abs().clamp(min=1e-2)).flatten())
            base.append(position + steps * torch.arange(machines * series, device=device))
            length += [steps] * machines
            size += [series] * machines
            identifier += source.identifiers or [0] * machines
            begin += [source.begin_seconds] * machines
            weight += [source.weight / machines] * machines
            first = count + series * torch.arange(machines, device=device).view(-1, 1)
            slot = source.natural.to(device).view(1, -1)
            natural.append(torch.where(slot >= 0, first + slot, -1))
            position += values.numel()
            count += machines * series
        self.flat, self.useful, self.base = torch.cat(flat), torch.cat(scale), torch.cat(base)
        self.natural, self.size = torch.cat(natural), torch.tensor(size, device=device)
        self.first = torch.cat([torch.zeros(1, device=device, dtype=torch.long), self.size.cumsum(0)[:-1]])
        self.length, self.begin = torch.tensor(length, device=device), torch.tensor(begin, device=device)
        self.identifier = torch.tensor(identifier, device=device)
        self.cumulative = torch.tensor(weight, device=device).cumsum(0)
        self.series = count

    def draw_windows(self, batch: int, natural_share: float, named_share: float = 0.0) -> DrawnWindows:
        """Return random windows.

        1. `natural_share` of the windows have their series where the feature map puts them; `named_share` of these have
           the id of their server.
        2. The other windows have series of one machine in random order, and no id.
        """
        device, slots = self.device, self.natural.shape[1]
        point = torch.rand(batch, device=device) * self.cumulative[-1]
        machine = torch.searchsorted(self.cumulative, point).clamp(max=len(self.size) - 1)
        any_series = (torch.rand(batch, slots, device=device) * self.size[machine].unsqueeze(1)).long()
        mapped = torch.rand(batch, 1, device=device) < natural_share
        series = torch.where(mapped, self.natural[machine], self.first[machine].unsqueeze(1) + any_series)
        starts = (self.length[machine] - self.window + 1).float()
        start = (torch.rand(batch, device=device) * starts).long()
        index = self.base[series.clamp(min=0)] + start.unsqueeze(1)
        values = self.flat[index.unsqueeze(1) + torch.arange(self.window, device=device).view(1, -1, 1)]
        usable = (series >= 0) & self.useful[series.clamp(min=0)]
        values = torch.where(usable.unsqueeze(1), values, torch.nan)
        named = mapped.squeeze(1) & (torch.rand(batch, device=device) < named_share)
        server = torch.where(named, self.identifier[machine], 0)
        return DrawnWindows(values, (self.begin[machine] + start * self.step_seconds).float(), server)


def make_fleet_source(
    fleet: TrainingFleet, weight: float, leave_out_every: int = 0, mapping: dict[str, int] | None = None
) -> SeriesSource:
    """Return the training days of a fleet as a source.

    `leave_out_every` 5 excludes each fifth machine in the order of names. `mapping` has the id of each server.
    """
    split = "train"
    machines = [i for i in range(len(fleet.machines)) if not is_left_out(i, leave_out_every)]
    values = torch.from_numpy(np.ascontiguousarray(fleet.select_split(split, machines).transpose(0, 2, 1)))
    columns = list(fleet.columns)
    natural = torch.tensor([-1 if c is None else columns.index(c) for c in fleet.natural])
    begin = (fleet.begin + fleet.splits[split][0] * fleet.step_seconds) % 604_800 + 3 * 86_400
    identifiers = [(mapping or {}).get(fleet.machines[i], 0) for i in machines]
    return SeriesSource(
        name=fleet.name,
        values=values,
        natural=natural,
        weight=weight,
        begin_seconds=begin % 604_800,
        identifiers=identifiers,
    )
