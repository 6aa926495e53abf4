"""Scales windows and replaces missing values inside the graph: raw units and NaN come in, raw units come out.

This module uses only operators that every TensorRT since 8.6 parses in ONNX opset 17: no sorting, no cumulative sums.
All that meets raw units is inside the modules that networks call `scaler` and `restorer`. The names of these nodes
begin with `/scaler/` and `/restorer/`, and the conversion to half precision keeps exactly them in float32.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from streamd.tools.networks.fences import LIMIT, Fence, count_classes, find_isolated
from streamd.tools.networks.grain import find_grain
from streamd.tools.networks.operations import compress_spikes

ENOUGH_ROWS = 24
"""With fewer values than these, a window shows too little of a series to say how far it can move."""

UNSURE_SHARE = 0.1
"""The distance that a single value counts as the least span of its series, as a share of its magnitude."""


@dataclass(kw_only=True)
class ScaledWindow:
    """A scaled window, with the numbers that turn scaled values back into raw ones.

    A series is contiguous, so that sums over time read memory in order.
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
    """`(batch, feature, 1) float32`, in raw units: the lowest value of the window and its memory."""

    span: Tensor
    """`(batch, feature, 1) float32`, in raw units: the highest value minus the lowest, or more if there are few."""

    least: Tensor
    """`(batch, feature, 1) float32`: the lowest of `values`."""

    most: Tensor
    """`(batch, feature, 1) float32`: the highest of `values`."""

    first: Tensor
    """`(batch, feature, 1) float32`: the lowest value of the window without its memory, as a share of the span."""

    grain: Tensor
    """`(batch, feature, 1) float32`: the distance between the values that occur, as a share of the span; 0 if there is
    no such distance."""

    memory: Tensor | None = None
    """`(batch, feature, length) float32`: the memory, scaled as the values; 0 where missing."""

    remembered: Tensor | None = None
    """`(batch, feature, length) float32`, 1 where the memory has a value, else 0."""

    @property
    def compressed(self) -> Tensor:
        """Return the values with spikes compressed to their logarithm; values near zero hardly change."""
        return compress_spikes(self.values)

    def select_features(self, index: Tensor) -> "ScaledWindow":
        """Return the window of some features, in the order of `index`."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return ScaledWindow(**{name: each.index_select(1, index) for name, each in given.items() if each is not None})


class WindowScaler(nn.Module):
    """Robust affine scaling of each feature by its own window.

    Median and quartiles would need a sort. Instead:

    1. A single value far beyond all others counts as missing (`streamd.tools.networks.fences`).
    2. Each value becomes a share of the span of its window, so that neither a byte counter of 1e12 nor a load of 1e-6
       loses precision.
    3. The mean and the mean absolute deviation of the shares are computed.
    4. Values further than `clip` deviations from the mean are cut to that distance, and both are computed again.

    The span includes the memory, if there is one, and is never zero while a window has few values: a single value does
    not say that the next one will be the same.
    """

    def __init__(
        self,
        targets: list[int],
        context_length: int,
        memory_length: int = 0,
        *,
        clip: float = 4.0,
        least_spread: float = 0.01,
        only_targets: bool = False,
    ) -> None:
        super().__init__()
        self.only_targets = only_targets
        self.clip = clip
        self.least_spread = least_spread
        self.fence = Fence(count_classes(context_length))
        self.memory_fence = Fence(count_classes(memory_length, 7), are_days=True, needed=3) if memory_length else None
        self.targets: Tensor
        self.register_buffer("targets", torch.tensor(targets), persistent=False)

    def forward(self, raw: Tensor, memory: Tensor | None = None) -> tuple[ScaledWindow, ScaledWindow]:
        """Return the scaled windows of all features and of the targets.

        `raw` is `(batch, context, feature) float32` and `memory` `(batch or 1, length, feature) float32`, NaN where
        missing. With `only_targets` no other feature is scaled, and both windows are that of the targets.
        """
        filled, seen = self._select_values(raw)
        limits = self.fence(filled, seen)
        seen = torch.logical_and(seen, torch.logical_not(find_isolated(filled, seen, *limits)))
        past, known = self._select_memory(memory, limits)
        observed = seen.to(raw.dtype)
        rows = observed.sum(dim=2, keepdim=True)
        extent = _find_extent(filled, seen, rows, past, known)
        # An absurd value may be infinite as a share, so its share is replaced and not multiplied by zero.
        share = torch.where(seen, (filled - extent.low) / extent.unit, 0.0)
        center, spread = self._find_center(share, observed, rows, extent)
        window = ScaledWindow(
            values=(share - center) / spread * observed,
            observed=observed,
            center=center,
            spread=spread,
            offset=extent.low / (extent.low.abs() + extent.span).clamp(min=1.0 / LIMIT),
            low=extent.low,
            span=extent.span,
            least=(extent.first - center) / spread,
            most=(extent.first + extent.own / extent.unit - center) / spread,
            first=extent.first,
            grain=find_grain(share - extent.first, observed, rows >= ENOUGH_ROWS),
        )
        if past is not None and known is not None:
            window.memory = torch.where(known, ((past - extent.low) / extent.unit - center) / spread, 0.0)
            window.remembered = known.to(raw.dtype)
        return window, window if self.only_targets else window.select_features(self.targets)

    def _select_memory(
        self, memory: Tensor | None, limits: tuple[Tensor, Tensor]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the values of the memory and which of them count; `limits` are those of the window.

        Where both fences know their values, the wider one counts. Where only one does, it does: the other one believes
        everything.
        """
        if memory is None or self.memory_fence is None:
            return None, None
        past, known = self._select_values(memory)
        (lower, upper), (bottom, top) = limits, self.memory_fence(past, known)
        only_one = torch.logical_or(bottom <= -LIMIT, lower <= -LIMIT)
        bottom = torch.where(only_one, torch.maximum(bottom, lower), torch.minimum(bottom, lower))
        top = torch.where(only_one, torch.minimum(top, upper), torch.maximum(top, upper))
        return past, torch.logical_and(known, torch.logical_and(past >= bottom, past <= top))

    def _find_center(self, share: Tensor, observed: Tensor, rows: Tensor, extent: "_Extent") -> tuple[Tensor, Tensor]:
        """Return the mean and the mean absolute deviation of shares, `(batch, feature, 1)`, both after the cut."""
        count = rows.clamp(min=1.0)
        mean = share.sum(dim=2, keepdim=True) / count
        deviation = ((share - mean).abs() * observed).sum(dim=2, keepdim=True) / count
        cut = torch.maximum(torch.minimum(share, mean + self.clip * deviation), mean - self.clip * deviation)
        center = (cut * observed).sum(dim=2, keepdim=True) / count
        spread = ((cut - center).abs() * observed).sum(dim=2, keepdim=True) / count
        # A calm window is not scaled up without limit, and one of few values is not calm.
        least = (self.least_spread * extent.own + 0.5 * extent.unsure) / extent.unit
        return center, torch.maximum(spread, least.clamp(min=0.1 * self.least_spread))

    def _select_values(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values, `(batch, feature, step)` with 0 where missing, and which are there, a boolean."""
        raw = raw.transpose(1, 2)
        if self.only_targets:
            raw = raw.index_select(1, self.targets)
        seen = torch.logical_and(torch.logical_not(torch.isnan(raw)), raw.abs() < LIMIT)
        return torch.where(seen, raw, 0.0), seen


@dataclass(kw_only=True)
class _Extent:
    """The extent of each series, `(batch, feature, 1)` in raw units."""

    low: Tensor
    """The lowest value of the window and its memory; 0 without values."""

    span: Tensor
    """The distance from `low` to the highest value, or `unsure` if that is more."""

    unit: Tensor
    """The span, or 1 if that is zero."""

    unsure: Tensor
    """The least span that the number of values allows."""

    own: Tensor
    """The span of the window without its memory."""

    first: Tensor
    """The lowest value of the window without its memory, as a share of the span."""


def _find_extent(filled: Tensor, seen: Tensor, rows: Tensor, past: Tensor | None, known: Tensor | None) -> _Extent:
    """Return the extent of a window, `(batch, feature, step)`, and its memory, if it has one, with their masks."""
    own_low, own_high = _find_range(filled, seen)
    low, high = own_low, own_high
    if past is not None and known is not None:
        least, most = _find_range(past, known)
        low, high = torch.minimum(low, least), torch.maximum(high, most)
    has_values = high >= low
    low = torch.where(has_values, low, 0.0)
    unsure = (UNSURE_SHARE / ENOUGH_ROWS) * (ENOUGH_ROWS - rows).clamp(min=0.0) * low.abs()
    span = torch.maximum(torch.where(has_values, high - low, 0.0), unsure)
    unit = torch.where(span > 0.0, span, 1.0)
    first = torch.where(rows > 0.0, (own_low - low) / unit, 0.0)
    own = (own_high - own_low).clamp(min=0.0)
    return _Extent(low=low, span=span, unit=unit, unsure=unsure, own=own, first=first)


def _find_range(filled: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lowest and the highest value; without any, the lowest is the larger one."""
    low = torch.where(seen, filled, LIMIT).amin(dim=2, keepdim=True)
    return low, torch.where(seen, filled, -LIMIT).amax(dim=2, keepdim=True)
