"""Judges a precision: its distance from float32, the change of the pinball loss, and whether it may serve.

Takes arrays and returns numbers and a verdict; nothing here knows which backend ran the network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from streamd.core.contract import ModelContract
from streamd.tools.engine.gate.scales import compute_least_scales
from streamd.tools.engine.gate.truth import JudgedWindows

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class GateLimits:
    """The limits that a precision must meet to be promoted."""

    correlation: float
    """At least this, for every part."""

    relative_error: float
    """At most this, for every part."""

    largest_relative_error: float
    """At most this, for every part."""

    pinball_change: float
    """At most this, over all targets, as a share of float32's loss."""


LIMITS = {
    "fp32": GateLimits(0.999, 1e-3, 1e-3, 1e-3),
    "fp16": GateLimits(0.999, 1e-2, 1e-1, 1e-3),
    "bf16": GateLimits(0.999, 5e-2, 5e-1, 1e-3),
    "int8": GateLimits(0.999, 1e-1, 1.0, 1e-2),
}


@dataclass(frozen=True, kw_only=True)
class GatePart:
    """One target of a forecast, or one output of any other network.

    Relative errors are shares of the largest absolute value that float32 gives for the window; of a forecast, of
    `WINDOW_SHARE` of the window's largest value if that is more.
    """

    name: str
    unit: str
    correlation: float
    """Over all windows, each divided by its largest value, so that a large unit does not hide the others."""

    relative_error: float
    """The 99th percentile of the relative error over all values."""

    largest_relative_error: float
    largest_error: float
    """The largest absolute error, in the target's unit."""

    pinball: float | None = None
    pinball_fp32: float | None = None


@dataclass(frozen=True, kw_only=True)
class GateVerdict:
    """The gate's verdict on one precision; losses are in standard deviations of each series, averaged over targets."""

    precision: str
    promotable: bool
    reasons: tuple[str, ...]
    parts: tuple[GatePart, ...]
    pinball: float | None = None
    pinball_fp32: float | None = None
    limits: GateLimits

    @property
    def pinball_change(self) -> float | None:
        """Return the share by which the loss is worse than float32's, negative if it is better; None if not known."""
        if self.pinball is None or not self.pinball_fp32:
            return None
        return self.pinball / self.pinball_fp32 - 1.0

    @property
    def worst(self) -> GatePart:
        """Return the part with the largest relative error."""
        return max(self.parts, key=lambda part: part.relative_error)

    def describe(self) -> dict[str, Any]:
        """Return the verdict's entry in the record."""
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

    `expected` has float32's outputs by name, each `(windows, ...)`, of each row alone; `batched` has the same of rows
    in batches, or is None if that is not to be judged. With a contract, each target of `predictions` is judged by
    itself; with a truth, so is the pinball loss.
    """

    def __init__(
        self,
        judged: JudgedWindows,
        expected: Mapping[str, Floats],
        contract: ModelContract | None = None,
        batched: Mapping[str, Floats] | None = None,
    ) -> None:
        self.judged, self.expected, self.contract, self.batched = judged, expected, contract, batched

    def judge_outputs(self, precision: str, found: Mapping[str, Floats]) -> GateVerdict:
        """Return the verdict on the outputs of a precision, given by name."""
        limits = LIMITS[precision]
        pairs = self._pair_outputs(found, self.expected)
        losses = self._compute_losses(found) or [(None, None)] * len(pairs)
        parts = [
            compare_outputs(
                pair.name, pair.unit, pair.found, pair.expected, least=pair.least, loss=loss, loss_fp32=loss_fp32
            )
            for pair, (loss, loss_fp32) in zip(pairs, losses, strict=True)
        ]
        total, total_fp32 = _average_losses(losses)
        reasons = [*self.dependence_reasons, *(reason for part in parts for reason in _list_reasons(part, limits))]
        verdict = GateVerdict(
            precision=precision,
            promotable=not reasons,
            reasons=tuple(reasons),
            parts=tuple(parts),
            pinball=total,
            pinball_fp32=total_fp32,
            limits=limits,
        )
        change = verdict.pinball_change
        # Negated, so that NaN is refused: no comparison with it is true.
        if change is not None and not change <= limits.pinball_change:
            worse = f"pinball loss {change:+.2%}, expected at most {limits.pinball_change:+.1%}"
            return replace(verdict, promotable=False, reasons=(worse, *reasons))
        return verdict

    @cached_property
    def dependence_reasons(self) -> tuple[str, ...]:
        """Return the reasons why the network cannot be batched: answers that depend on the rest of the batch."""
        if self.batched is None:
            return ()
        limits, reasons = LIMITS["fp32"], []
        for pair in self._pair_outputs(self.batched, self.expected):
            part = compare_outputs(pair.name, pair.unit, pair.found, pair.expected, least=pair.least)
            if not part.largest_relative_error <= limits.largest_relative_error:
                reasons.append(
                    f"{pair.name}: rows depend on each other: alone and in a batch, a row's values differ by up to "
                    f"{part.largest_relative_error:.2g} of the largest, expected at most "
                    f"{limits.largest_relative_error:g}"
                )
        return tuple(reasons)

    def _pair_outputs(self, found: Mapping[str, Floats], expected: Mapping[str, Floats]) -> list["_Pair"]:
        """Return found and expected values of each target, or of each output without a contract."""
        if self.contract is None:
            return [_Pair(name, "", found[name], values) for name, values in expected.items()]
        forecasts, exact = (self._reshape_predictions(each) for each in (found, expected))
        units = [self.contract.units.get(name, "") for name in self.contract.targets]
        least = self._least_scales[: len(exact)]
        return [
            _Pair(name, unit, forecasts[:, :, index], exact[:, :, index], least[:, index])
            for index, (name, unit) in enumerate(zip(self.contract.targets, units, strict=True))
        ]

    @cached_property
    def _least_scales(self) -> Floats:
        assert self.contract is not None
        return compute_least_scales(self.judged.windows, self.contract)

    def _compute_losses(self, found: Mapping[str, Floats]) -> list[tuple[float | None, float | None]]:
        """Return each target's loss, of the found outputs and of float32's; empty if no truth is known."""
        truth, scale = self.judged.truth, self.judged.scale
        if self.contract is None or truth is None or scale is None:
            return []
        levels = np.array(self.contract.quantiles)
        both = [
            compute_pinball_losses(self._reshape_predictions(each), truth, scale, levels)
            for each in (found, self.expected)
        ]
        return list(zip(*both, strict=True))

    def _reshape_predictions(self, outputs: Mapping[str, Floats]) -> Floats:
        """Return `predictions` as `(windows, horizon, targets, quantiles)`, also if there is one target."""
        assert self.contract is not None
        values = outputs["predictions"]
        shape = (self.contract.horizon, len(self.contract.targets), len(self.contract.quantiles))
        return values.reshape(len(values), *shape)


@dataclass(frozen=True)
class _Pair:
    """A comparison of one target of forecasts, or of one output; values are `(windows, ...)`."""

    name: str
    unit: str
    found: Floats
    expected: Floats
    least: Floats | None = None
    """`(windows,)`: what an error is relative to if no expected value is larger."""


def compare_outputs(
    name: str,
    unit: str,
    found: Floats,
    expected: Floats,
    *,
    least: Floats | None = None,
    loss: float | None = None,
    loss_fp32: float | None = None,
) -> GatePart:
    """Compare two arrays `(windows, ...)`; the error is infinite unless the same values of both are finite.

    `least (windows,)` is what an error is relative to if no expected value is larger.
    """
    rows, exact = (values.reshape(len(values), -1).astype(np.float64) for values in (found, expected))
    if not (np.isfinite(rows) == np.isfinite(exact)).all():
        return GatePart(
            name=name,
            unit=unit,
            correlation=0.0,
            relative_error=np.inf,
            largest_relative_error=np.inf,
            largest_error=np.inf,
            pinball=loss,
            pinball_fp32=loss_fp32,
        )
    known = np.isfinite(exact)
    rows, exact = np.where(known, rows, 0.0), np.where(known, exact, 0.0)
    floor = np.full(len(exact), 1e-30) if least is None else np.maximum(least, 1e-30)
    scale = np.maximum(np.abs(exact).max(axis=1, keepdims=True), floor[:, None])
    difference = np.abs(rows - exact)
    relative = difference / scale
    return GatePart(
        name=name,
        unit=unit,
        correlation=_compute_correlation(rows / scale, exact / scale),
        relative_error=float(np.quantile(relative, 0.99)),
        largest_relative_error=float(relative.max()),
        largest_error=float(difference.max()),
        pinball=loss,
        pinball_fp32=loss_fp32,
    )


def compute_pinball_losses(forecasts: Floats, truth: Floats, scale: Floats, levels: Floats) -> list[float | None]:
    """Return the mean pinball loss of each target in standard deviations of its series; None if no truth is known.

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


def _list_reasons(part: GatePart, limits: GateLimits) -> list[str]:
    """Return the limits that a part fails. Conditions are negated, so that NaN fails them."""
    reasons = []
    if not part.correlation >= limits.correlation:
        reasons.append(f"{part.name}: correlation {part.correlation:.5f}, expected at least {limits.correlation}")
    if not part.relative_error <= limits.relative_error:
        error = f"{part.relative_error:.2e}, expected at most {limits.relative_error:g}"
        reasons.append(f"{part.name}: relative error {error}")
    elif not part.largest_relative_error <= limits.largest_relative_error:
        error = f"{part.largest_relative_error:.2e}, expected at most {limits.largest_relative_error:g}"
        reasons.append(f"{part.name}: largest relative error {error}")
    return reasons


def _average_losses(losses: Sequence[tuple[float | None, float | None]]) -> tuple[float | None, float | None]:
    """Return the mean of both losses over the targets for which they are known."""
    known = [(loss, reference) for loss, reference in losses if loss is not None and reference is not None]
    if not known:
        return None, None
    found, exact = zip(*known, strict=True)
    return float(np.mean(found)), float(np.mean(exact))


def _compute_correlation(found: Floats, expected: Floats) -> float:
    """Return Pearson's correlation; if all expected values are equal, 1 if the found ones equal them, else 0."""
    one, other = found.ravel() - found.mean(), expected.ravel() - expected.mean()
    if not np.abs(other).max() > 1e-6:
        return 1.0 if np.abs(found - expected).max() <= 1e-3 else 0.0
    return float((one * other).sum() / max(float(np.sqrt((one**2).sum() * (other**2).sum())), 1e-300))
