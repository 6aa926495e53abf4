"""The accuracy gate: how far a precision is from float32, what that costs in pinball loss, and whether it may serve.

Arrays in, figures and a verdict out; nothing here knows what ran the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from streamd.core.contract import ModelContract
from streamd.tools.engine.gate.truth import JudgedWindows

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class GateLimits:
    """What a precision must keep to promote it.

    correlation: at least, of every part; relative_error, largest_relative_error: at most, of every part;
    pinball_change: at most, over all targets, as a share of float32's loss.
    """

    correlation: float
    relative_error: float
    largest_relative_error: float
    pinball_change: float


LIMITS = {
    "fp32": GateLimits(0.999, 1e-3, 1e-3, 1e-3),
    "fp16": GateLimits(0.999, 1e-2, 1e-1, 1e-3),
    "bf16": GateLimits(0.999, 5e-2, 5e-1, 1e-3),
    "int8": GateLimits(0.999, 1e-1, 1.0, 1e-2),
}


@dataclass(frozen=True)
class GatePart:
    """One target of a forecast, or one output of any other network.

    Errors are absolute; relative ones are shares of the largest value that float32 gives for that window. The
    relative error is the 99th percentile over all values, the largest one is the largest. Correlation is over all
    windows, each divided by its largest value, so that no large unit drowns the others.
    """

    name: str
    unit: str
    correlation: float
    relative_error: float
    largest_relative_error: float
    largest_error: float
    pinball: float | None = None
    pinball_fp32: float | None = None


@dataclass(frozen=True)
class GateVerdict:
    """What the gate says of one precision; losses are in deviations of each series, averaged over targets."""

    precision: str
    promotable: bool
    reasons: tuple[str, ...]
    parts: tuple[GatePart, ...]
    pinball: float | None = None
    pinball_fp32: float | None = None
    limits: GateLimits = field(default=LIMITS["fp32"])

    @property
    def pinball_change(self) -> float | None:
        """By what share the loss is worse than float32's; below zero where it is better."""
        if self.pinball is None or not self.pinball_fp32:
            return None
        return self.pinball / self.pinball_fp32 - 1.0

    @property
    def worst(self) -> GatePart:
        """The part that is furthest off."""
        return max(self.parts, key=lambda part: part.relative_error)

    def told(self) -> dict[str, Any]:
        """What the record says of it."""
        return {
            "promotable": self.promotable,
            "reasons": list(self.reasons),
            "correlation": min(part.correlation for part in self.parts),
            "relative_error": self.worst.relative_error,
            "largest_relative_error": max(part.largest_relative_error for part in self.parts),
            "pinball": self.pinball,
            "pinball_fp32": self.pinball_fp32,
            "pinball_change": self.pinball_change,
            "parts": {part.name: {key: value for key, value in asdict(part).items() if key != "name"}
                      for part in self.parts},
            "limits": asdict(self.limits),
        }  # fmt: skip


class Judge:
    """Compares outputs with float32's on the same windows.

    `expected`: float32's outputs by name, each `(windows, ...)`, of each row alone; `together`: the same of rows in
    company, where that is to be judged too. With a contract each target of `predictions` is judged by itself, and with
    a truth the pinball loss too.
    """

    def __init__(
        self,
        judged: JudgedWindows,
        expected: Mapping[str, Floats],
        contract: ModelContract | None = None,
        together: Mapping[str, Floats] | None = None,
    ) -> None:
        self.judged, self.expected, self.contract, self.together = judged, expected, contract, together

    def judge(self, precision: str, found: Mapping[str, Floats]) -> GateVerdict:
        """The verdict on outputs that a precision gave, by name."""
        limits = LIMITS[precision]
        pairs = self._pairs(found, self.expected)
        losses = self._losses(found)
        parts = []
        for index, (name, unit, values, wanted) in enumerate(pairs):
            told = losses[index] if losses else (None, None)
            parts.append(compare_outputs(name, unit, values, wanted, *told))
        total, total_fp32 = _means(losses)
        reasons = [*self.dependence_reasons, *(reason for part in parts for reason in _why_not(part, limits))]
        verdict = GateVerdict(precision, not reasons, tuple(reasons), tuple(parts), total, total_fp32, limits)
        change = verdict.pinball_change
        if change is not None and not change <= limits.pinball_change:
            worse = f"pinball loss {change:+.2%}, expected at most {limits.pinball_change:+.1%}"
            return GateVerdict(precision, False, (worse, *reasons), tuple(parts), total, total_fp32, limits)
        return verdict

    @cached_property
    def dependence_reasons(self) -> tuple[str, ...]:
        """Why the network cannot be batched: its rows have no answers of their own; nothing where they have."""
        if self.together is None:
            return ()
        limits, reasons = LIMITS["fp32"], []
        for name, unit, values, wanted in self._pairs(self.together, self.expected):
            part = compare_outputs(name, unit, values, wanted)
            if not part.largest_relative_error <= limits.largest_relative_error:
                reasons.append(
                    f"{name}: rows depend on each other: alone and in a batch, a row's values differ by up to "
                    f"{part.largest_relative_error:.2g} of the largest, expected at most "
                    f"{limits.largest_relative_error:g}"
                )
        return tuple(reasons)

    def _pairs(
        self, found: Mapping[str, Floats], expected: Mapping[str, Floats]
    ) -> list[tuple[str, str, Floats, Floats]]:
        """Name, unit, what was found and what was expected of each target, or of each output."""
        if self.contract is None:
            return [(name, "", found[name], wanted) for name, wanted in expected.items()]
        values, wanted = (self._forecasts(each) for each in (found, expected))
        units = [self.contract.units.get(name, "") for name in self.contract.targets]
        return [
            (name, unit, values[:, :, index], wanted[:, :, index])
            for index, (name, unit) in enumerate(zip(self.contract.targets, units, strict=True))
        ]

    def _losses(self, found: Mapping[str, Floats]) -> list[tuple[float | None, float | None]]:
        """Each target's loss, of what was found and of float32; none where no truth is known."""
        truth, scale = self.judged.truth, self.judged.scale
        if self.contract is None or truth is None or scale is None:
            return []
        levels = np.array(self.contract.quantiles)
        both = [pinball(self._forecasts(each), truth, scale, levels) for each in (found, self.expected)]
        return list(zip(*both, strict=True))

    def _forecasts(self, outputs: Mapping[str, Floats]) -> Floats:
        assert self.contract is not None
        values = outputs["predictions"]
        shape = (self.contract.horizon, len(self.contract.targets), len(self.contract.quantiles))
        return values.reshape(len(values), *shape)


def compare_outputs(
    name: str, unit: str, found: Floats, wanted: Floats, loss: float | None = None, loss_fp32: float | None = None
) -> GatePart:
    """Compare two arrays `(windows, ...)`; whatever is not finite where it should be is infinitely far off."""
    rows, expected = (values.reshape(len(values), -1).astype(np.float64) for values in (found, wanted))
    if not (np.isfinite(rows) == np.isfinite(expected)).all():
        return GatePart(name, unit, 0.0, np.inf, np.inf, np.inf, loss, loss_fp32)
    known = np.isfinite(expected)
    rows, expected = np.where(known, rows, 0.0), np.where(known, expected, 0.0)
    scale = np.maximum(np.abs(expected).max(axis=1, keepdims=True), 1e-30)
    difference = np.abs(rows - expected)
    relative = difference / scale
    return GatePart(
        name,
        unit,
        correlation=_correlation(rows / scale, expected / scale),
        relative_error=float(np.quantile(relative, 0.99)),
        largest_relative_error=float(relative.max()),
        largest_error=float(difference.max()),
        pinball=loss,
        pinball_fp32=loss_fp32,
    )


def pinball(forecasts: Floats, truth: Floats, scale: Floats, levels: Floats) -> list[float | None]:
    """The mean pinball loss of each target in deviations of its series; None where no truth is known.

    forecasts `(windows, horizon, targets, quantiles)`, truth `(windows, horizon, targets)`, scale `(windows,
    targets)`, levels `(quantiles,)`.
    """
    error = (truth[..., None] - forecasts).astype(np.float64)
    loss = np.maximum(levels * error, (levels - 1.0) * error).mean(axis=-1) / scale[:, None]
    known = np.isfinite(truth) & np.isfinite(scale)[:, None]
    return [
        float(loss[..., target][known[..., target]].mean()) if known[..., target].any() else None
        for target in range(loss.shape[-1])
    ]


def _why_not(part: GatePart, limits: GateLimits) -> list[str]:
    reasons = []
    if not part.correlation >= limits.correlation:
        reasons.append(f"{part.name}: correlation {part.correlation:.5f}, expected at least {limits.correlation}")
    if not part.relative_error <= limits.relative_error:
        said = f"relative error {part.relative_error:.2e}, expected at most {limits.relative_error:g}"
        reasons.append(f"{part.name}: {said}")
    elif not part.largest_relative_error <= limits.largest_relative_error:
        said = f"{part.largest_relative_error:.2e}, expected at most {limits.largest_relative_error:g}"
        reasons.append(f"{part.name}: largest relative error {said}")
    return reasons


def _means(losses: Sequence[tuple[float | None, float | None]]) -> tuple[float | None, float | None]:
    """The mean of both losses over the targets for which they are known."""
    known = [(loss, reference) for loss, reference in losses if loss is not None and reference is not None]
    if not known:
        return None, None
    found, wanted = zip(*known, strict=True)
    return float(np.mean(found)), float(np.mean(wanted))


def _correlation(found: Floats, wanted: Floats) -> float:
    """Pearson's; where float32 gives the same everywhere, whether the other does too."""
    one, other = found.ravel() - found.mean(), wanted.ravel() - wanted.mean()
    if not np.abs(other).max() > 1e-6:
        return 1.0 if np.abs(found - wanted).max() <= 1e-3 else 0.0
    return float((one * other).sum() / max(float(np.sqrt((one**2).sum() * (other**2).sum())), 1e-300))
