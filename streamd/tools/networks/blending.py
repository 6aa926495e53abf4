"""Quantiles that start from simple forecasts: what a network says is how to blend them, and what to change.

Where a window shows no pattern, the best forecast is the window's own quantiles. With these as a start, a network has
to learn nothing to be as good, and everything it learns makes it better.
"""

import torch
from torch import Tensor, nn

from streamd.tools.networks.anchors import LevelAnchors, MemoryAnchors, WindowQuantiles, make_laplace_quantiles
from streamd.tools.networks.contract import NetworkContract
from streamd.tools.networks.operations import softplus
from streamd.tools.networks.quantile_order import QuantileOrder, Widening
from streamd.tools.networks.scaling import ENOUGH_ROWS, ScaledWindow

LITTLE = 3.0
"""Subtracted from the free number of an additional distance, so that an untrained network adds little."""


class AnchoredQuantiles(nn.Module):
    """Makes quantiles of a network's free numbers and a window's anchors.

    `count` is the number of free numbers of each target and step: changes of the median and of the distances between
    neighbouring quantiles, the weights of the levels, and shares of the distances between the anchors' quantiles.
    """

    def __init__(self, contract: NetworkContract) -> None:
        super().__init__()
        quantiles = contract.quantiles
        self.anchors = LevelAnchors(contract)
        self.window_quantiles = WindowQuantiles(quantiles)
        self.weekly = MemoryAnchors(contract) if contract.memory_length else None
        self.horizon, self.gaps, self.middle = contract.horizon, len(quantiles) - 1, quantiles.index(0.5)
        levels = self.anchors.count + 2 + (self.weekly.count if self.weekly else 0)
        self.parts = [1, self.gaps, levels, 2 * self.gaps, *([1] if self.weekly else [])]
        self.count = sum(self.parts)
        self.order = QuantileOrder(quantiles)
        self.widening = Widening(quantiles, contract.horizon)
        self.laplace: Tensor
        self.register_buffer("laplace", make_laplace_quantiles(quantiles).diff(dim=0), persistent=False)

    def find_quantiles(self, window: ScaledWindow) -> Tensor:
        """Return the quantiles of a window and of its last quarter, `(batch, target, 2 x quantile, 1)`."""
        return self.window_quantiles(window)

    def forward(self, free: Tensor, window: ScaledWindow, quantiles: Tensor) -> Tensor:
        """Return ascending quantiles `(batch, target, quantile, horizon)` from `(batch, target, number, horizon)`.

        `quantiles` are those that `find_quantiles` finds in the window.
        """
        change, more, weights, shares, *of_days = free.split(self.parts, dim=2)
        whole, recent = quantiles.split(self.gaps + 1, dim=2)
        levels, flat = self.anchors(window)
        flat = torch.cat([flat, self._find_median(whole), self._find_median(recent)], dim=2)
        blended = [levels, flat.expand(-1, -1, -1, self.horizon)]
        # The sigmoid of zero is a half, so an untrained network starts with the distances of the whole window.
        distances = torch.cat([2.0 * self._find_gaps(whole), self._find_gaps(recent)], dim=2)
        of_window, of_quarter = (torch.sigmoid(shares) * distances).split(self.gaps, dim=2)
        gaps = of_window + of_quarter + softplus(more - LITTLE)
        if self.weekly is not None:
            yesterday, last_hours = levels[:, :, :1], flat[:, :, 1:2]
            weekly, deviation = self.weekly(window, yesterday, last_hours)
            blended.append(weekly)
            gaps = gaps + torch.sigmoid(of_days[0] - 1.0) * deviation * self.laplace
        blend = (torch.softmax(weights, dim=2) * torch.cat(blended, dim=2)).sum(dim=2, keepdim=True)
        return self.widening(self.order(self._bound_median(change + blend, window), gaps, dim=2))

    def _bound_median(self, median: Tensor, window: ScaledWindow) -> Tensor:
        """Return the median, kept among the values of a window that has few: they show no trend."""
        rows = window.observed.sum(dim=2, keepdim=True).unsqueeze(3)
        has_few = torch.logical_and(rows > 0.5, rows < ENOUGH_ROWS - 0.5)
        within = torch.minimum(torch.maximum(median, window.least.unsqueeze(3)), window.most.unsqueeze(3))
        return torch.where(has_few, within, median)

    def _find_median(self, quantiles: Tensor) -> Tensor:
        return quantiles[:, :, self.middle : self.middle + 1]

    def _find_gaps(self, quantiles: Tensor) -> Tensor:
        return quantiles[:, :, 1:] - quantiles[:, :, : self.gaps]
