"""All series that training draws from, on one device: windows are gathered there, never copied from the host.

The pool holds the training split only, so no draw can reach a later day.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from streamd.tools.training.fleet import TrainingFleet


@dataclass
class SeriesSource:
    """One fleet's share of the pool: (machine, series, step) float32 in raw units, and how to draw from it.

    natural: (14,) long, the series that stands for each feature, -1 where none does
    weight: how often a draw comes from here; begin_seconds: time of step 0, counted from a Monday 00:00;
    identifiers: the machines' server ids, None where they have none
    """

    name: str
    values: Tensor
    natural: Tensor
    weight: float
    begin_seconds: int
    identifiers: list[int] | None = None


@dataclass
class Draw:
    """A batch of windows, features in contract order.

    values: (batch, context + horizon, feature) float32, each series divided by its deviation, NaN if missing
    seconds: (batch,) float32, the time of the window's first step, counted from some Monday 00:00
    server: (batch,) long, the server's id where the series stand as the feature map says, else 0
    """

    values: Tensor
    seconds: Tensor
    server: Tensor


class SeriesPool:
    """Draws windows of 14 series of one machine, uniformly over machines and moments of a source."""

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

    def draw(self, batch: int, natural_share: float, named_share: float = 0.0) -> Draw:
        """`natural_share` of the windows in the feature map's order, the others of a machine's series at random.

        `named_share` of the former tell the server's id, the others are of an unknown server.
        """
        device, slots = self.device, self.natural.shape[1]
        point = torch.rand(batch, device=device) * self.cumulative[-1]
        machine = torch.searchsorted(self.cumulative, point).clamp(max=len(self.size) - 1)
        any_series = (torch.rand(batch, slots, device=device) * self.size[machine].unsqueeze(1)).long()
        mapped = torch.rand(batch, 1, device=device) < natural_share
        series = torch.where(mapped, self.natural[machine], self.first[machine].unsqueeze(1) + any_series)
        room = (self.length[machine] - self.window + 1).float()
        start = (torch.rand(batch, device=device) * room).long()
        index = self.base[series.clamp(min=0)] + start.unsqueeze(1)
        values = self.flat[index.unsqueeze(1) + torch.arange(self.window, device=device).view(1, -1, 1)]
        usable = (series >= 0) & self.useful[series.clamp(min=0)]
        values = torch.where(usable.unsqueeze(1), values, torch.nan)
        named = mapped.squeeze(1) & (torch.rand(batch, device=device) < named_share)
        server = torch.where(named, self.identifier[machine], 0)
        return Draw(values, (self.begin[machine] + start * self.step_seconds).float(), server)


def make_fleet_source(
    fleet: TrainingFleet, weight: float, leave_out_every: int = 0, mapping: dict[str, int] | None = None
) -> SeriesSource:
    """A fleet's training days as a source; `leave_out_every` 5 leaves out each fifth machine in order of name."""
    split = "train"
    machines = [i for i in range(len(fleet.machines)) if not is_left_out(i, leave_out_every)]
    values = torch.from_numpy(np.ascontiguousarray(fleet.part(split, machines).transpose(0, 2, 1)))
    columns = list(fleet.columns)
    natural = torch.tensor([-1 if c is None else columns.index(c) for c in fleet.natural])
    begin = (fleet.begin + fleet.splits[split][0] * fleet.step_seconds) % 604_800 + 3 * 86_400
    identifiers = [(mapping or {}).get(fleet.machines[i], 0) for i in machines]
    return SeriesSource(fleet.name, values, natural, weight, begin % 604_800, identifiers)


def is_left_out(position: int, every: int) -> bool:
    """Whether the machine at this place in the sorted list is kept from training."""
    return every > 0 and position % every == every - 1
