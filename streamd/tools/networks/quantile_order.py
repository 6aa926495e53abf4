"""Makes ascending quantiles of a median and distances, and widens them by what the validation days showed.

The names of submodules are part of the format of the weights; do not rename them.
"""

import torch
from torch import Tensor, nn


class QuantileOrder(nn.Module):
    """Adds distances to a median, so that quantiles are in order.

    The distances are added one after the other and not by a product with a triangular matrix. The sum with a
    non-negative number cannot be rounded to less, so no quantile crosses another in any precision.
    """

    def __init__(self, quantiles: tuple[float, ...]) -> None:
        super().__init__()
        self.middle = quantiles.index(0.5)
        self.count = len(quantiles)

    def forward(self, median: Tensor, gaps: Tensor, dim: int = -1) -> Tensor:
        """Return ascending quantiles along `dim`.

        `median` has one number there; `gaps`, of which there is one less than quantiles, are not negative.
        """
        parts = gaps.split(1, dim=dim)
        ordered = [median]
        for i in range(self.middle, self.count - 1):
            ordered.append(ordered[-1] + parts[i])
        for i in range(self.middle - 1, -1, -1):
            ordered.insert(0, ordered[0] - parts[i])
        return torch.cat(ordered, dim=dim)


class Widening(nn.Module):
    """Stretches the distance of each quantile from the median by a constant, found on the validation days.

    `factors`, `(quantile, horizon)`, are weights that training leaves at one. They may not bring quantiles out of
    order: at each step of the horizon they do not fall with the distance from the median.
    """

    def __init__(self, quantiles: tuple[float, ...], horizon: int) -> None:
        super().__init__()
        self.middle = quantiles.index(0.5)
        self.factors: Tensor
        self.register_buffer("factors", torch.ones(len(quantiles), horizon))

    def forward(self, ordered: Tensor) -> Tensor:
        """Return stretched quantiles `(batch, target, quantile, horizon)`."""
        median = ordered[:, :, self.middle : self.middle + 1]
        return median + self.factors * (ordered - median)
