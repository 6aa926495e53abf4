"""Scales windows and replaces missing values inside the graph: raw units and NaN come in, raw units come out.

This module uses only operators that every TensorRT since 8.6 parses in ONNX opset 17: no sorting, no cumulative sums.
All that meets raw units is inside the modules that networks call `scaler` and `restorer`. The names of these nodes
begin with `/scaler/` and `/restorer/`, and the conversion to half precision keeps exactly them in float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

LIMIT = 1e30
"""Larger magnitudes, including infinity, count as missing, so that a span cannot overflow float32."""

UNBOUNDED = 10.0 * LIMIT
"""A finite ceiling above any forecast."""


@dataclass(kw_only=True)
class ScaledWindow:
    """A scaled window, with the numbers that turn scaled values back into raw ones.

    A series is contiguous, so that sums over time read memory in order. Raw numbers keep the layout of the input.
    """

    values: Tensor
    """`(batch, feature, context) float32`, with a mean near 0 and a deviation near 1; 0 where missing."""

    observed: Tensor
    """`(batch, feature, context) float32`, 1 where a value was reported, else 0."""

    center: Tensor
    """`(batch, feature, 1) float32`, as a share of the span."""

    spread: Tensor
    """`(batch, feature, 1) float32`, as a share of the span."""

    offset: Tensor
    """`(batch, feature, 1) float32`, -1 to 1: the distance of the lowest value from zero, relative to the span."""

    low: Tensor
    """`(batch, 1, feature) float32`, in raw units: the lowest value of the window."""

    span: Tensor
    """`(batch, 1, feature) float32`, in raw units: the highest value minus the lowest."""

    @property
    def compressed(self) -> Tensor:
        """Return the values with spikes compressed to their logarithm; values near zero hardly change."""
        return torch.sign(self.values) * torch.log(1.0 + self.values.abs())

    def select_features(self, index: Tensor) -> "ScaledWindow":
        """Return the window of some features, in the order of `index`."""
        axes = {"low": 2, "span": 2}
        names = [field.name for field in fields(self)]
        return ScaledWindow(**{name: getattr(self, name).index_select(axes.get(name, 1), index) for name in names})


class WindowScaler(nn.Module):
    """Robust affine scaling of each feature by its own window.

    Median and quartiles would need a sort. Instead:

    1. Each value becomes a share of the span of its window, so that neither a byte counter of 1e12 nor a load of 1e-6
       loses precision.
    2. The mean and the mean absolute deviation of the shares are computed.
    3. Values further than `clip` deviations from the mean are cut to that distance, and both are computed again.
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
        """Return the scaled windows of all features and of the targets.

        `raw` is `(batch, context, feature) float32`, NaN where missing. With `only_targets` no other feature is scaled,
        and both windows are that of the targets.
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
        window = ScaledWindow(
            values=values, observed=observed, center=center, spread=spread, offset=offset, low=low, span=span
        )
        return window, window if self.only_targets else window.select_features(self.targets)


class WindowRestorer(nn.Module):
    """Turns forecasts in the scaled units of a window into raw units, within bounds.

    1. A forecast stays within `reach` spans of the values of the window.
    2. If no value of the window is negative, neither is a forecast.
    3. If a target is a percentage (`percent` has one boolean for each target) and no value of the window is above 100,
       no forecast is above 100: a memory cannot be 103 % full.
    4. A window with a single value has no span, so its forecast is exactly that value.

    Every operation is monotone, so that ordered quantiles stay ordered.
    """

    def __init__(self, percent: Sequence[bool], reach: float = 1.5) -> None:
        super().__init__()
        self.reach = reach
        # The ceilings are numbers, because not every parser takes a constant of booleans.
        ceiling = torch.tensor([100.0 if each else UNBOUNDED for each in percent])
        self.ceiling: Tensor
        self.register_buffer("ceiling", ceiling.view(1, 1, -1, 1), persistent=False)

    def forward(self, scaled: Tensor, window: ScaledWindow) -> Tensor:
        """Return raw forecasts `(batch, horizon, target, quantile)` from scaled ones and the window of the targets."""
        center, spread = window.center.unsqueeze(1), window.spread.unsqueeze(1)
        low, span = window.low.unsqueeze(-1), window.span.unsqueeze(-1)
        share = (center + spread * scaled).clamp(-self.reach, 1.0 + self.reach)
        raw = low + span * share
        floor = torch.where(low >= 0.0, 0.0, low - (1.0 + self.reach) * span)
        ceiling = torch.where(low + span <= 100.0, self.ceiling, UNBOUNDED)
        raw = torch.minimum(torch.maximum(raw, floor), ceiling)
        # This states the fixed shape (all axes but the batch) once more; the manifest of an engine relies on it.
        return raw.reshape(-1, *(int(n) for n in scaled.shape[1:]))


class QuantileOrder(nn.Module):
    """Turns free numbers into as many ordered quantiles: the median, and non-negative steps away from it.

    The steps are added one after the other and not by a product with a triangular matrix. The sum with a non-negative
    number cannot be rounded to less, so no quantile crosses another in any precision. After training, `widening`
    stretches the steps if the validation days show that the bands are too narrow.
    """

    def __init__(self, quantiles: tuple[float, ...]) -> None:
        super().__init__()
        self.middle = quantiles.index(0.5)
        self.count = len(quantiles)
        self.widening = 1.0

    def forward(self, free: Tensor, dim: int = -1) -> Tensor:
        """Return ascending numbers along `dim`; the free number at the median's position becomes the median."""
        parts = list(free.split(1, dim=dim))
        steps = list((self.widening * softplus(free)).split(1, dim=dim))
        ordered = [parts[self.middle]]
        for i in range(self.middle + 1, self.count):
            ordered.append(ordered[-1] + steps[i])
        for i in range(self.middle - 1, -1, -1):
            ordered.insert(0, ordered[0] - steps[i])
        return torch.cat(ordered, dim=dim)


def softplus(x: Tensor) -> Tensor:
    """Return log(1 + exp(x)) without overflow.

    It is written in elementary operations, because the operator `Softplus` would split an engine's fused kernel.
    """
    return x.clamp(min=0.0) + torch.log(1.0 + torch.exp(-x.abs()))


class Bounded(nn.Module):
    """Limits integers to 0 to `count` - 1, by `Max` and `Min`, because TensorRT's `Clip` takes no integers."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.first: Tensor
        self.last: Tensor
        self.register_buffer("first", torch.tensor(0, dtype=torch.int32), persistent=False)
        self.register_buffer("last", torch.tensor(count - 1, dtype=torch.int32), persistent=False)

    def forward(self, numbers: Tensor) -> Tensor:
        """Return the limited int32 numbers, in the same shape."""
        return torch.minimum(torch.maximum(numbers, self.first), self.last)


def compute_past_calendar(decoder_cont: Tensor, context: int, step_seconds: int) -> Tensor:
    """Return the calendar of the context, `(batch, context, 4)`.

    The contract has the calendar of the horizon only. The first future step, turned back by known angles, is the past.
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
