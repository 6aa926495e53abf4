"""Tests `streamd/tools/engine/gate/judge.py`: its numbers against naive ones, and its verdicts."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.contract import ModelContract
from streamd.tools.engine.gate.judge import LIMITS, Judge, compare_outputs, compute_pinball_losses
from streamd.tools.engine.gate.truth import JudgedWindows

QUANTILES = (0.1, 0.5, 0.9)
CONTRACT = ModelContract(("a", "b"), ("a", "b"), QUANTILES, 4, 5, 300, units={"a": "percent", "b": "bytes/s"})
COUNT = 40


def forecasts(seed: int = 1) -> Any:
    """Make forecasts of two targets, the second with values a million times as large."""
    random = np.random.default_rng(seed)
    middle = random.standard_normal((COUNT, 5, 2, 1)) * [[1.0], [1e6]] + [[10.0], [1e7]]
    return (middle + np.array([-1.0, 0.0, 1.0]) * [[1.0], [1e6]]).astype(np.float32)


def judge(wanted: Any, *, truth: bool = True) -> Judge:
    random = np.random.default_rng(5)
    actual = (wanted[..., 1] + random.standard_normal(wanted.shape[:3]) * [1.0, 1e6]).astype(np.float32)
    actual[3, 2] = np.nan
    scale = np.tile(np.array([1.0, 1e6], np.float32), (COUNT, 1))
    judged = JudgedWindows({"x": wanted}, "made up", actual if truth else None, scale if truth else None)
    return Judge(judged, {"predictions": wanted}, CONTRACT)


def test_equal_outputs_pass_in_every_precision() -> None:
    wanted = forecasts()
    for precision in LIMITS:
        verdict = judge(wanted).judge_outputs(precision, {"predictions": wanted})
        assert (verdict.promotable, verdict.reasons, verdict.pinball_change) == (True, (), 0.0)
        assert {part.name: part.correlation for part in verdict.parts} == pytest.approx({"a": 1.0, "b": 1.0})


def test_only_the_target_that_is_off_is_named() -> None:
    wanted = forecasts()
    noise = np.random.default_rng(2).standard_normal((COUNT, 5, 3))
    slight, found = wanted.copy(), wanted.copy()
    slight[:, :, 1] *= 1 + 0.004 * noise
    found[:, :, 1] *= 1 + 0.01 * noise
    assert judge(wanted).judge_outputs("int8", {"predictions": slight}).promotable
    refused = judge(wanted, truth=False).judge_outputs("fp16", {"predictions": found})
    assert not refused.promotable
    assert all(reason.startswith("b: ") for reason in refused.reasons)
    assert refused.worst.name == "b"
    output = refused.describe()
    assert output["parts"]["b"]["unit"] == "bytes/s"
    assert output["parts"]["a"]["largest_error"] == 0.0
    assert output["pinball_change"] is None


@pytest.mark.parametrize(("precision", "shift", "passes"), [("int8", 0.02, True), ("int8", 0.2, False),
                                                            ("fp16", 0.001, True), ("fp16", 0.02, False)])  # fmt: skip
def test_a_worse_loss_is_refused_although_the_outputs_correlate(precision: str, shift: float, passes: bool) -> None:
    wanted = forecasts()
    found = wanted + np.float32(shift) * np.array([[1.0], [1e6]], np.float32)
    verdict = judge(wanted).judge_outputs(precision, {"predictions": found})
    assert verdict.promotable is passes
    assert passes or verdict.reasons[0].startswith("pinball loss +")
    assert min(part.correlation for part in verdict.parts) > 0.999


def test_a_large_unit_does_not_hide_errors_of_the_others() -> None:
    random = np.random.default_rng(3)
    wanted = random.standard_normal((20, 30)) * np.where(np.arange(20) % 2, 1.0, 1e9)[:, None]
    found = wanted.copy()
    found[1::2] = random.standard_normal((10, 30))
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.999
    assert compare_outputs("x", "", found, wanted).correlation < 0.8


def test_a_value_that_is_not_finite_is_an_infinite_error() -> None:
    wanted = np.ones((4, 3)) * [[1.0, 2.0, 3.0]]
    for broken in (np.nan, np.inf):
        found = wanted.copy()
        found[2, 1] = broken
        part = compare_outputs("x", "", found, wanted)
        assert (part.correlation, part.relative_error, part.largest_error) == (0.0, np.inf, np.inf)
    nan = np.array([[np.nan, 1.0], [2.0, 3.0]])
    assert compare_outputs("x", "", nan, nan).largest_error == 0.0, "where float32 itself gives none, none is expected"


def test_a_constant_output_is_judged_by_its_value() -> None:
    flat = np.full((4, 3), 5.0)
    assert compare_outputs("x", "", flat, flat).correlation == 1.0
    assert compare_outputs("x", "", flat * 1.1, flat).correlation == 0.0


def test_errors_of_a_forecast_of_zero_are_relative_to_a_share_of_its_window() -> None:
    wanted = np.abs(forecasts())
    wanted[7, :, 0] = 0.0
    found = wanted.copy()
    found[7, :, 0] = 1e-9
    past = np.full((COUNT, 4, 2), 20.0, np.float32)
    past[:, 0], past[7, 1, 0], past[7, 2, 0] = np.nan, -40.0, 1e30
    for windows, passes in (({"encoder_cont": past}, True), ({"x": wanted}, False)):
        verdict = Judge(JudgedWindows(windows, ""), {"predictions": wanted}, CONTRACT)
        part = verdict.judge_outputs("fp32", {"predictions": found}).parts[0]
        assert (part.largest_relative_error < 1e-3) is passes
    found[7, 0, 0, 0] = 0.3
    verdict = Judge(JudgedWindows({"encoder_cont": past}, ""), {"predictions": wanted}, CONTRACT)
    assert verdict.judge_outputs("fp16", {"predictions": found}).parts[0].largest_relative_error == pytest.approx(0.75)


def test_a_network_without_a_contract_is_judged_by_output() -> None:
    wanted = {"logits": np.random.default_rng(1).standard_normal((6, 9)), "mask": np.ones((6, 2, 2))}
    found = {**wanted, "logits": wanted["logits"] + 0.5}
    verdict = Judge(JudgedWindows({"x": np.zeros((6, 1))}, "random"), wanted).judge_outputs("fp16", found)
    assert not verdict.promotable
    assert {part.name: part.largest_error for part in verdict.parts} == pytest.approx({"logits": 0.5, "mask": 0.0})


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 3))
def test_the_pinball_loss_equals_a_naive_one(seed: int, windows: int, targets: int) -> None:
    random = np.random.default_rng(seed)
    given_forecasts = random.standard_normal((windows, 3, targets, 3))
    truth = random.standard_normal((windows, 3, targets)).astype(np.float32)
    truth[random.random(truth.shape) < 0.3] = np.nan
    scale = random.random((windows, targets)).astype(np.float32) + 0.1
    scale[random.random(scale.shape) < 0.2] = np.nan
    found = compute_pinball_losses(given_forecasts, truth, scale, np.array(QUANTILES))
    for target in range(targets):
        losses = [
            float(np.mean([max(q * (y - f), (q - 1) * (y - f)) for q, f in zip(QUANTILES, row, strict=True)])) / s
            for w, s in enumerate(scale[:, target].astype(float))
            for y, row in zip(truth[w, :, target].astype(float), given_forecasts[w, :, target], strict=True)
            if np.isfinite(y) and np.isfinite(s)
        ]
        expected = float(np.mean(losses)) if losses else None
        assert found[target] == (pytest.approx(expected, rel=1e-6) if expected is not None else None)
