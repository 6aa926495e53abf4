"""Scaling and missing-value handling inside the graph: raw units in, raw units out, NaN never past here.

Only operators that an ONNX opset 17 parser of any TensorRT since 8.6 takes: no sorting, no cumulative sums.
Whatever meets raw units happens inside the modules that networks call `scaler` and `restorer`, so their nodes
begin with `/scaler/` and `/restorer/`: a conversion to half precision keeps exactly those in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

LIMIT = 1e30
"""Larger magnitudes (and infinities) count as missing, so that a span can't overflow float32."""

UNBOUNDED = 10.0 * LIMIT
"""Beyond any forecast, and finite."""


@dataclass
class ScaledWindow:
    """A window in its own units, with what is needed to come back to raw ones.

    values: (batch, feature, context) float32, about zero mean and unit deviation, 0 where missing
    observed: (batch, feature, context) float32, 1 where a value was reported
    center, spread: (batch, feature, 1) float32, as shares of the span
    offset: (batch, feature, 1) float32, -1 to 1: where the lowest value stands from zero, against the span
    low, span: (batch, 1, feature) float32, raw: smallest value seen, largest minus smallest

    A series lies in one piece, so that sums over time read memory in order; what is raw never changes its layout.
    """

    values: Tensor
    observed: Tensor
    center: Tensor
    spread: Tensor
    offset: Tensor
    low: Tensor
    span: Tensor

    @property
    def compressed(self) -> Tensor:
        """The values with spikes bent down to their logarithm; near zero it is the identity."""
        return torch.sign(self.values) * torch.log(1.0 + self.values.abs())

    def select(self, index: Tensor) -> ScaledWindow:
        """The same for some of the features, in the order of `index`."""
        axes = {"low": 2, "span": 2}
        return ScaledWindow(*(getattr(self, n).index_select(axes.get(n, 1), index) for n in self.__annotations__))


class WindowScaler(nn.Module):
    """Robust affine scaling of every feature by its own window.

    Two passes stand in for median and quartiles, which would need a sort: mean and mean absolute deviation
    of the values as shares of the span, then both again after values further than `clip` deviations are cut.
    The span itself is taken first, so neither a byte counter of 1e12 nor a load of 1e-6 loses precision.
    """

    def __init__(
        self, targets: list[int], clip: float = 4.0, least_spread: float = 0.01, *, only_targets: bool = False
    ) -> None:
        super().__init__()
        self.only_targets = only_targets
        self.clip = clip
        self.least_spread = least_spread
        self.targets: Tensor
        self.register_buffer("targets", torch.tensor(targets), persistent=False)

    def forward(self, raw: Tensor) -> tuple[ScaledWindow, ScaledWindow]:
        """Scale `raw`, (batch, context, feature) float32 with NaN where missing: all features, and the targets.

        With `only_targets` no other feature is looked at, and both are the targets'.
        """
        if self.only_targets:
            raw = raw.index_select(2, self.targets)
        absent = torch.isnan(raw)
        filled = torch.where(absent, 0.0, raw)
        seen = torch.logical_and(torch.logical_not(absent), filled.abs() < LIMIT)
        low = torch.where(seen, filled, LIMIT).amin(dim=1, keepdim=True)
        high = torch.where(seen, filled, -LIMIT).amax(dim=1, keepdim=True)
        known = high >= low
        low = torch.where(known, low, 0.0)
        span = torch.where(known, high - low, 0.0)
        unit = torch.where(span > 0.0, span, 1.0)
        share = torch.where(seen, (filled - low) / unit, 0.0).transpose(1, 2)
        offset = (low / (low.abs() + span).clamp(min=1.0 / LIMIT)).transpose(1, 2)

        observed = seen.to(raw.dtype).transpose(1, 2)
        count = observed.sum(dim=2, keepdim=True).clamp(min=1.0)
        mean = share.sum(dim=2, keepdim=True) / count
        deviation = ((share - mean).abs() * observed).sum(dim=2, keepdim=True) / count
        cut = torch.maximum(torch.minimum(share, mean + self.clip * deviation), mean - self.clip * deviation)
        center = (cut * observed).sum(dim=2, keepdim=True) / count
        spread = ((cut - center).abs() * observed).sum(dim=2, keepdim=True) / count
        spread = spread.clamp(min=self.least_spread)
        values = (share - center) / spread * observed
        window = ScaledWindow(values, observed, center, spread, offset, low, span)
        return window, window if self.only_targets else window.select(self.targets)


class WindowRestorer(nn.Module):
    """The way back: forecasts in a window's scaled units into raw ones.

    Kept within `reach` spans of what the window saw, at or above zero where the window never was below it,
    and of `percent` (one truth a target) at or below 100 where the window never was above it: a memory can't be
    103 % full. A window that saw one value only has no span, so its forecast is that value, exactly.
    Every step is monotone, so ordered quantiles stay ordered.
    """

    def __init__(self, percent: Sequence[bool], reach: float = 1.5) -> None:
        super().__init__()
        self.reach = reach
        # Numbers and not truths: a constant of truths is not taken by every parser.
        ceiling = torch.tensor([100.0 if each else UNBOUNDED for each in percent])
        self.ceiling: Tensor
        self.register_buffer("ceiling", ceiling.view(1, 1, -1, 1), persistent=False)

    def forward(self, scaled: Tensor, window: ScaledWindow) -> Tensor:
        """(batch, horizon, target, quantile) and the targets' window to the same shape, raw."""
        center, spread = window.center.unsqueeze(1), window.spread.unsqueeze(1)
        low, span = window.low.unsqueeze(-1), window.span.unsqueeze(-1)
        share = (center + spread * scaled).clamp(-self.reach, 1.0 + self.reach)
        raw = low + span * share
        floor = torch.where(low >= 0.0, 0.0, low - (1.0 + self.reach) * span)
        ceiling = torch.where(low + span <= 100.0, self.ceiling, UNBOUNDED)
        raw = torch.minimum(torch.maximum(raw, floor), ceiling)
        # fixed shapes but for the batch, said once more at the end: an engine's manifest relies on them
        return raw.reshape(-1, *(int(n) for n in scaled.shape[1:]))


class QuantileOrder(nn.Module):
    """Seven free numbers into seven ordered quantiles: the median, and non-negative steps away from it.

    The steps are added one after the other rather than by a product with a triangular matrix: an addition of
    a non-negative number can't round to less, so no quantile crosses another in any precision.
    `widening` stretches the steps after training, where validation days show too narrow a band.
    """

    def __init__(self, quantiles: tuple[float, ...]) -> None:
        super().__init__()
        self.middle = quantiles.index(0.5)
        self.count = len(quantiles)
        self.widening = 1.0

    def forward(self, free: Tensor, dim: int = -1) -> Tensor:
        """Free numbers along `dim`, the median in its place, to as many ascending ones."""
        parts = list(free.split(1, dim=dim))
        steps = list((self.widening * softplus(free)).split(1, dim=dim))
        ordered = [parts[self.middle]]
        for i in range(self.middle + 1, self.count):
            ordered.append(ordered[-1] + steps[i])
        for i in range(self.middle - 1, -1, -1):
            ordered.insert(0, ordered[0] - steps[i])
        return torch.cat(ordered, dim=dim)


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)) without overflow, in elementary operations: as one operator it ends an engine's fused kernel."""
    return x.clamp(min=0.0) + torch.log(1.0 + torch.exp(-x.abs()))


class Bounded(nn.Module):
    """Whole numbers kept within 0 to `count` - 1: as Max and Min, since TensorRT's Clip takes no integers."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.first: Tensor
        self.last: Tensor
        self.register_buffer("first", torch.tensor(0, dtype=torch.int32), persistent=False)
        self.register_buffer("last", torch.tensor(count - 1, dtype=torch.int32), persistent=False)

    def forward(self, numbers: Tensor) -> Tensor:
        """Any shape of int32 to the same."""
        return torch.minimum(torch.maximum(numbers, self.first), self.last)


def compute_past_calendar(decoder_cont: Tensor, context: int, step_seconds: int) -> Tensor:
    """The calendar of the context, (batch, context, 4), turned back from the first known future step.

    The contract gives the calendar of the horizon only; a turn by a known angle gives the rest.
    """
    steps = torch.arange(-context, 0, device=decoder_cont.device, dtype=torch.float32)
    turn = 2 * torch.pi * step_seconds * steps
    first = decoder_cont[:, :1]
    parts = []
    for pair, period in ((0, 86_400.0), (2, 604_800.0)):
        sine, cosine = first[..., pair : pair + 1], first[..., pair + 1 : pair + 2]
        angle = (turn / period).view(1, -1, 1)
        parts += [sine * angle.cos() + cosine * angle.sin(), cosine * angle.cos() - sine * angle.sin()]
    return torch.cat(parts, dim=-1)
