"""Turns forecasts in the scaled units of a window back into raw units, within bounds.

This is the counterpart of `scaling`, and keeps to the same operators.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from streamd.tools.networks.fences import LIMIT
from streamd.tools.networks.operations import round_softly
from streamd.tools.networks.scaling import ScaledWindow

UNBOUNDED = 10.0 * LIMIT
"""A finite ceiling above any forecast."""


class WindowRestorer(nn.Module):
    """Turns forecasts in the scaled units of a window into raw units, within bounds.

    1. A forecast stays within `reach` spans of the values of the window.
    2. If no value of the window is negative, neither is a forecast.
    3. If a target is a percentage (`percent` has one boolean for each target) and no value of the window is above 100,
       no forecast is above 100: a memory cannot be 103 % full.
    4. A window with a single value has no span, so its forecast is exactly that value.
    5. If all values of a window are multiples of a grain, as counts are, most forecasts are too. While the network is
       trained they are not, since rounding has no gradient.

    Every operation is monotone, so that ordered quantiles stay ordered.
    """

    def __init__(self, percent: Sequence[bool], reach: float = 1.5) -> None:
        super().__init__()
        self.reach = reach
        # The ceilings are numbers, because not every parser takes a constant of booleans.
        ceiling = torch.tensor([100.0 if each else UNBOUNDED for each in percent])
        self.ceiling: Tensor
        self.register_buffer("ceiling", ceiling.view(1, -1, 1, 1), persistent=False)

    def forward(self, scaled: Tensor, window: ScaledWindow) -> Tensor:
        """Return raw forecasts `(batch, horizon, target, quantile)` from scaled ones and the window of the targets."""
        shape = [int(n) for n in scaled.shape[1:]]
        # The horizon becomes the last axis: on a CPU, a number of the window is then spread over long stretches.
        scaled = scaled.permute(0, 2, 3, 1)
        center, spread = window.center.unsqueeze(3), window.spread.unsqueeze(3)
        low, span = window.low.unsqueeze(3), window.span.unsqueeze(3)
        share = (center + spread * scaled).clamp(-self.reach, 1.0 + self.reach)
        if not self.training:
            grain, first = window.grain.unsqueeze(3), window.first.unsqueeze(3)
            step = torch.where(grain > 0.0, grain, 1.0)
            share = torch.where(grain > 0.0, first + step * round_softly((share - first) / step), share)
        raw = low + span * share
        floor = torch.where(low >= 0.0, 0.0, low - (1.0 + self.reach) * span)
        ceiling = torch.where(low + span <= 100.0, self.ceiling, UNBOUNDED)
        raw = torch.minimum(torch.maximum(raw, floor), ceiling)
        # This states the fixed shape (all axes but the batch) once more; the manifest of an engine relies on it.
        return raw.permute(0, 3, 1, 2).reshape(-1, *shape)
