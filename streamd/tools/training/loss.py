"""The pinball loss in the units of the score: divided by each series' own deviation, as nPL divides it."""

from __future__ import annotations

import torch
from torch import Tensor


def compute_pinball_loss(forecast: Tensor, actual: Tensor, levels: Tensor) -> Tensor:
    """Elementwise pinball loss: forecast (..., quantile), actual (...), levels (quantile,) to (..., quantile)."""
    error = actual.unsqueeze(-1) - forecast
    return torch.maximum(levels * error, (levels - 1.0) * error)


def compute_masked_loss(forecast: Tensor, actual: Tensor, weight: Tensor, levels: Tensor, cap: float = 20.0) -> Tensor:
    """Mean pinball loss over what was reported.

    forecast (batch, horizon, target, quantile), actual (batch, horizon, target) with NaN where missing,
    weight (batch, target). Errors beyond `cap` deviations count as that: one broken series must not steer.
    """
    known = ~actual.isnan()
    loss = compute_pinball_loss(forecast, torch.nan_to_num(actual), levels).mean(-1).clamp(max=cap)
    share = known * weight.unsqueeze(1)
    return (loss * share).sum() / share.sum().clamp(min=1.0)
