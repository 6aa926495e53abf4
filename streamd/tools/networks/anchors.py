"""Anchors: simple forecasts of a window in scaled units, of which a network blends its own.

Some say a level for each step ahead; the others say how far quantiles lie from it. A network that blends them falls
back on the best simple forecast where a window shows nothing more.

The quantiles of a window are found by bins, because a sort is not among the operators of all engines' parsers.
"""

import math

import torch
from torch import Tensor, nn

from streamd.tools.networks.contract import NetworkContract
from streamd.tools.networks.scaling import ScaledWindow

BINS = 20
"""The number of the edges of the bins. With these, the pinball loss of the window's quantiles on recorded fleets is
within 0.5 % of that of exact quantiles."""

SHARPNESS = 50.0
"""Values within the inverse of this from an edge count in part."""

FINEST_EDGE, LAST_EDGE = 0.7, 10.0
"""Edges are at a sinh(x) in scaled units: even below `FINEST_EDGE`, then ever further apart, up to `LAST_EDGE`."""


class LevelAnchors(nn.Module):
    """Levels for each step ahead, `(batch, target, anchor, horizon)`, each the mean of some values of the window:

    1. The same time yesterday: plain, averaged over 35 minutes, and averaged over 125 minutes.
    2. The mean of the last quarter of an hour, and of the last two hours.
    3. The mean of the first two hours: with the others, yesterday's shape at today's level.
    4. The mean of the window, which is zero because of the scaling.

    Averages are over the reported values; without any, they are zero.
    """

    def __init__(self, contract: NetworkContract) -> None:
        super().__init__()
        context, horizon = contract.context_length, contract.horizon
        self.start, self.horizon = context - contract.steps_per_day, horizon
        step = torch.arange(context).view(-1, 1)
        ahead = self.start + torch.arange(horizon).view(1, -1)
        means = [((step - ahead).abs() <= reach).float() for reach in (3, 12)]
        flat = [(step >= context - last).float() for last in (3, 24)]
        flat += [(step < 24).float(), torch.zeros(context, 1)]
        self.means, self.flat = len(means), len(flat)
        self.count = 1 + self.means + self.flat
        self.maps: Tensor
        self.register_buffer("maps", torch.cat([*means, *flat], dim=1).contiguous(), persistent=False)

    def forward(self, window: ScaledWindow) -> tuple[Tensor, Tensor]:
        """Return yesterday's levels, `(batch, target, 3, horizon)`, and the others, `(batch, target, 4, 1)`.

        All averages are one product with constant maps, whose size is most of the cost of a single window.
        """
        both = torch.cat([window.values, window.observed], dim=1)
        targets, context = int(window.values.shape[1]), int(window.values.shape[2])
        sums = torch.matmul(both.reshape(-1, context), self.maps).reshape(-1, 2 * targets, int(self.maps.shape[1]))
        total, count = sums.split(targets, dim=1)
        means, flat = (total / count.clamp(min=1.0)).split([self.means * self.horizon, self.flat], dim=2)
        plain = window.values[:, :, self.start : self.start + self.horizon]
        steps = torch.cat([plain, means], dim=2).reshape(-1, targets, 1 + self.means, self.horizon)
        return steps, flat.unsqueeze(3)


class MemoryAnchors(nn.Module):
    """Levels and deviations for each step ahead from hourly means of some days.

    Levels, `(batch, target, anchor, horizon)`:

    1. The same hour's mean of all days, and of the same weekday a week ago.
    2. The first with the detail of yesterday's steps, and at the level of the last two hours.

    Deviations, `(batch, target, 1, horizon)`: the mean absolute deviation of the days from their mean. Between the
    middles of two hours, values are interpolated.
    """

    def __init__(self, contract: NetworkContract) -> None:
        super().__init__()
        self.day = 86_400 // contract.memory_step_seconds
        self.days = contract.memory_length // self.day
        period = contract.memory_step_seconds // contract.step_seconds
        self.count = 4
        middle = (torch.arange(contract.horizon) + 0.5) / period - 0.5
        before = middle.floor()
        hour = torch.arange(self.day).view(-1, 1)
        share = middle - before
        near = (hour == before % self.day) * (1.0 - share) + (hour == (before + 1) % self.day) * share
        self.between: Tensor
        self.register_buffer("between", near.float(), persistent=False)

    def forward(self, window: ScaledWindow, yesterday: Tensor, recent: Tensor) -> tuple[Tensor, Tensor]:
        """Return the levels and the deviations of a window with a memory.

        `yesterday`, `(batch, target, 1, horizon)`, has the steps of the day before, and `recent`,
        `(batch, target, 1, 1)`, the mean of the last two hours.
        """
        assert window.memory is not None, "the contract has a memory"
        assert window.remembered is not None, "it comes with its mask"
        shape = (-1, int(window.memory.shape[1]), self.days, self.day)
        values, known = window.memory.reshape(shape), window.remembered.reshape(shape)
        count = known.sum(dim=2, keepdim=True).clamp(min=1.0)
        mean = values.sum(dim=2, keepdim=True) / count
        deviation = ((values - mean).abs() * known).sum(dim=2, keepdim=True) / count
        first, _, last = values.split([1, self.days - 2, 1], dim=2)
        found = torch.matmul(torch.cat([mean, first, last, deviation], dim=2), self.between)
        usual, week_ago, day_ago, spread = found.split(1, dim=2)
        usual_recent = mean[..., self.day - 2 :]
        detailed = usual + (yesterday - day_ago)
        shifted = usual + (recent - usual_recent.mean(dim=3, keepdim=True))
        return torch.cat([usual, week_ago, detailed, shifted], dim=2), spread


class WindowQuantiles(nn.Module):
    """The quantiles of a window and of its last quarter by bins, in scaled units.

    Between two edges the values count as evenly spread. Missing values do not count; where the last quarter has few,
    its quantiles are near those of the whole window.
    """

    QUARTERS = 4
    PRIOR = 0.02
    """The weight of the whole window among the values of a quarter, as a share of its steps."""

    def __init__(self, quantiles: tuple[float, ...]) -> None:
        super().__init__()
        place = torch.linspace(-1.0, 1.0, BINS, dtype=torch.float64)
        edges = FINEST_EDGE * torch.sinh(place * math.asinh(LAST_EDGE / FINEST_EDGE))
        self.first, self.count = float(edges[0]), len(quantiles)
        self.edges: Tensor
        self.widths: Tensor
        self.levels: Tensor
        sharp = SHARPNESS * edges.float() + 0.5
        self.register_buffer("edges", sharp.view(1, 1, -1, 1, 1), persistent=False)
        self.register_buffer("widths", edges.diff().float().view(1, 1, 1, -1), persistent=False)
        self.register_buffer("levels", torch.tensor(quantiles).view(1, 1, -1, 1), persistent=False)

    def forward(self, window: ScaledWindow) -> Tensor:
        """Return `(batch, target, 2 x quantile, 1)`: the quantiles of the whole window, then those of its last quarter.

        None is beyond the lowest or the highest value of the window.
        """
        targets, steps = int(window.values.shape[1]), int(window.values.shape[2])
        # A missing value is moved behind the last edge, and the share is of those that are there.
        placed = window.values + (1.0 - window.observed) * (10.0 * LAST_EDGE)
        quarters = (-1, targets, 1, self.QUARTERS, steps // self.QUARTERS)
        # A value at an edge counts in part, so that a rounding error cannot move it from one bin to the next.
        below = (self.edges - SHARPNESS * placed.reshape(quarters)).clamp(0.0, 1.0).mean(dim=4)
        _, seen = window.observed.reshape(quarters).mean(dim=4).split([self.QUARTERS - 1, 1], dim=3)
        whole = below.mean(dim=3, keepdim=True) / window.observed.mean(dim=2).reshape(-1, targets, 1, 1).clamp(min=1e-3)
        _, last = below.split([self.QUARTERS - 1, 1], dim=3)
        recent = (last + self.PRIOR * whole) / (seen + self.PRIOR)
        share = torch.cat([whole, recent], dim=3).transpose(2, 3)
        low, _ = share.split([BINS - 1, 1], dim=3)
        _, high = share.split([1, BINS - 1], dim=3)
        shape = (-1, 2 * targets, 1, BINS - 1)
        low, high = low.reshape(shape), high.reshape(shape)
        part = ((self.levels - low) / (high - low).clamp(min=1e-4)).clamp(0.0, 1.0)
        found = (self.first + (part * self.widths).sum(dim=3)).reshape(-1, targets, 2 * self.count, 1)
        return torch.minimum(torch.maximum(found, window.least.unsqueeze(3)), window.most.unsqueeze(3))


def make_laplace_quantiles(quantiles: tuple[float, ...]) -> Tensor:
    """Return the quantiles of a Laplace distribution with the mean absolute deviation one, `(quantile, 1)`."""
    found = [math.log(2 * q) if q < 0.5 else -math.log(2 * (1 - q)) for q in quantiles]
    return torch.tensor(found).view(-1, 1)
