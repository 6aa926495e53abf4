"""The grain of a series: the distance between the values that occur, such as 1 for counts.

Forecasts are rounded to it: where a series takes few values, the best quantiles are among them.
"""

import torch
from torch import Tensor

MOST_LEVELS = 64
"""With more levels than these between the lowest and the highest value, a series is as good as continuous."""

LEAST_CHANGE = 1e-5
"""Lesser changes, as shares of the span, are rounding errors."""

FAR = 8.0
"""A distance that no two shares of a window have."""


def find_grain(share: Tensor, observed: Tensor, is_enough: Tensor) -> Tensor:
    """Return the distance between the values that occur, `(batch, feature, 1)`: 1 for counts from 0 to 1, say.

    `share`, `(batch, feature, step)`, begins at 0. The distance is 0 if the values are no multiples of the least change
    from one step to the next, if there are more than `MOST_LEVELS` levels, or where `is_enough` is false: a few
    values are too few to tell.
    """
    # A missing value is moved far away, so that no change to it or from it is the least one.
    placed = share + FAR * (1.0 - observed)
    change = (placed[..., 1:] - placed[..., :-1]).abs()
    least = torch.where(change > LEAST_CHANGE, change, FAR).amin(dim=2, keepdim=True)
    levels = share / least
    off = ((levels - torch.round(levels)).abs() * observed).amax(dim=2, keepdim=True)
    is_coarse = torch.logical_and(least >= 1.0 / MOST_LEVELS, least <= 1.0)
    is_grid = torch.logical_and(torch.logical_and(is_coarse, off < 0.002), is_enough)
    return torch.where(is_grid, least, 0.0)
