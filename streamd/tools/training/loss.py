"""The pinball loss in the units of the score: series are divided by their own deviation, as for nPL.

This module only computes losses of tensors; `backtest` scores whole fleets.
"""

import torch
from torch import Tensor


def compute_pinball_loss(forecast: Tensor, actual: Tensor, levels: Tensor) -> Tensor:
    """Return the loss `(..., quantile)` of `forecast (..., quantile)`, `actual (...)` and `levels (quantile,)`."""
    error = actual.unsqueeze(-1) - forecast
    return torch.maximum(levels * error, (levels - 1.0) * error)


def compute_masked_loss(forecast: Tensor, actual: Tensor, weight: Tensor, levels: Tensor, cap: float = 20.0) -> Tensor:
    """Return the mean pinball loss over the reported values.

    `forecast` is `(batch, horizon, target, quantile)`, `actual` is `(batch, horizon, target)` with NaN where missing,
    and `weight` is `(batch, target)`. A loss above `cap` deviations counts as `cap`, so that one broken series cannot
    dominate.
    """
    known = ~actual.isnan()
    loss = compute_pinball_loss(forecast, torch.nan_to_num(actual), levels).mean(-1).clamp(max=cap)
    share = known * weight.unsqueeze(1)
    return (loss * share).sum() / share.sum().clamp(min=1.0)
