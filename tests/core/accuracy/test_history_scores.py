"""Tests `streamd/core/accuracy/history_scores.py`: scores equal those computed value by value."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from streamd.core.accuracy.history_scores import COUNT, ERROR, INSIDE, LOSS, HistoryForm
from streamd.core.arrays import Float32
from tests.support.contracts import make_contract

NAN = math.nan
SMALL = st.floats(-100, 100, width=16)


def test_the_quantiles_nearest_to_the_kept_levels_are_kept() -> None:
    form = HistoryForm(make_contract(quantiles=(0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)))
    assert form.quantiles == (0.1, 0.5, 0.9)
    assert HistoryForm(make_contract(quantiles=(0.05, 0.45, 0.55))).quantiles == (0.05, 0.45, 0.55)
    assert HistoryForm(make_contract(quantiles=(0.5,))).quantiles == (0.5,)


@pytest.mark.parametrize(
    ("horizon", "names"),
    [(96, ["1-24", "25-48", "49-72", "73-96"]), (4, ["1-1", "2-2", "3-3", "4-4"]), (6, ["1-1", "2-3", "4-4", "5-6"])],
)
def test_the_horizon_is_scored_in_quarters(horizon: int, names: list[str]) -> None:
    assert HistoryForm(make_contract(horizon=horizon)).range_names == names


@given(horizon=st.integers(1, 20))
def test_ranges_cover_the_horizon_once(horizon: int) -> None:
    names = HistoryForm(make_contract(horizon=horizon)).range_names
    bounds = [tuple(map(int, name.split("-"))) for name in names]
    assert [step for first, last in bounds for step in range(first, last + 1)] == list(range(1, horizon + 1))


@given(
    values=npst.arrays(np.float32, (2, 6, 3), elements=SMALL),
    truth=npst.arrays(np.float32, (2, 6), elements=st.one_of(st.just(NAN), SMALL)),
    unknown=st.lists(st.booleans(), min_size=2, max_size=2),
)
def test_sums_are_those_of_each_value(values: Float32, truth: Float32, unknown: list[bool]) -> None:
    values = np.sort(values, axis=2)
    values[unknown] = NAN
    form = HistoryForm(make_contract(horizon=6))
    sums = form.compute_sums(values, truth)
    expected = np.zeros(form.sums_shape)
    for index, name in enumerate(form.range_names):
        first, last = map(int, name.split("-"))
        for target in range(2):
            for step in range(first - 1, last):
                actual, quantiles = float(truth[target, step]), values[target, step].tolist()
                if math.isnan(actual) or unknown[target]:
                    continue
                losses = [
                    max(level * (actual - each), (level - 1) * (actual - each))
                    for level, each in zip(form.quantiles, quantiles, strict=True)
                ]
                expected[target, index, LOSS] += sum(losses) / 3
                expected[target, index, INSIDE] += quantiles[0] <= actual <= quantiles[2]
                expected[target, index, ERROR] += abs(actual - quantiles[1])
                expected[target, index, COUNT] += 1
    np.testing.assert_allclose(sums, expected, rtol=1e-5, atol=1e-4)


def test_a_score_is_a_mean_and_unknown_without_values() -> None:
    form = HistoryForm(make_contract())
    score = form.make_score(np.array([6.0, 1.0, 8.0, 4.0]))
    assert (score.loss, score.coverage, score.error, score.count) == (1.5, 0.25, 2.0, 4)
    nothing = form.make_score(np.zeros(4))
    assert nothing.count == 0
    assert math.isnan(nothing.loss)


def test_one_quantile_has_no_coverage() -> None:
    form = HistoryForm(make_contract(quantiles=(0.5,)))
    score = form.make_score(form.compute_sums(np.ones((2, 4, 1), np.float32), np.ones((2, 4), np.float32))[0, 0])
    assert (score.loss, score.error, score.count) == (0.0, 0.0, 1)
    assert math.isnan(score.coverage)


@given(newest=st.integers(95, 125), rows=st.integers(1, 12))
def test_the_truth_is_that_of_the_steps_after_the_origin(newest: int, rows: int) -> None:
    form = HistoryForm(make_contract(horizon=6))
    steps = range(newest - rows + 1, newest + 1)
    window = np.array([[step, -step] for step in steps], np.float32)
    truth = form.select_truth(newest, 100, window)
    expected = [float(step) if step in steps else NAN for step in range(101, 107)]
    np.testing.assert_array_equal(truth, [expected, [-each for each in expected]])


def test_a_cut_is_a_copy_of_the_kept_quantiles() -> None:
    form = HistoryForm(make_contract(quantiles=(0.02, 0.1, 0.5, 0.9, 0.98)))
    forecasts = np.arange(2 * 2 * 4 * 5, dtype=np.float32).reshape(2, 2, 4, 5)
    kept = form.cut(forecasts)
    np.testing.assert_array_equal(kept, forecasts[..., 1:4])
    assert not np.may_share_memory(kept, forecasts)
