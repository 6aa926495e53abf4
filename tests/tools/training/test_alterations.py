"""Tests `streamd/tools/training/alterations.py`: what each hardship changes, and that it changes nothing else."""

import numpy as np
import pytest

pytest.importorskip("pandas")

from streamd.tools.training.alterations import (
    LARGEST,
    drop_rows,
    insert_absurd_value,
    keep_newest_rows,
    raise_newest_rows,
    silence_features,
)
from streamd.tools.training.backtest import Alter

HISTORY = np.random.default_rng(0).uniform(1, 2, (6, 40, 3)).astype(np.float32)
CONTEXT = 30


def apply(alter: Alter, history: np.ndarray = HISTORY) -> np.ndarray:
    before = history.copy()
    found = alter(history, [(0, 0)] * len(history))
    np.testing.assert_array_equal(history, before, "the given history is left as it is")
    return found


def test_dropped_rows_are_missing_in_all_features() -> None:
    missing = np.isnan(apply(drop_rows(0.25, 1)))
    assert (missing.all(axis=2) == missing.any(axis=2)).all()
    assert 0.1 < missing.mean() < 0.4


def test_only_the_newest_rows_are_kept() -> None:
    found = apply(keep_newest_rows(12))
    assert np.isnan(found[:, :-12]).all()
    np.testing.assert_array_equal(found[:, -12:], HISTORY[:, -12:])


def test_silent_features_were_never_sent() -> None:
    found = apply(silence_features([1]))
    assert np.isnan(found[..., 1]).all()
    np.testing.assert_array_equal(found[..., [0, 2]], HISTORY[..., [0, 2]])


@pytest.mark.parametrize("last", [False, True])
def test_one_absurd_value_is_in_the_context_of_each_feature(last: bool) -> None:
    changed = apply(insert_absurd_value(-1e3, CONTEXT, last=last, seed=2)) != HISTORY
    assert (changed.sum(axis=1) == 1).all()
    assert not changed[:, : 40 - CONTEXT].any()
    assert changed[:, -1].all() == last
    rows = changed.argmax(axis=1)
    assert len(np.unique(rows)) == 1 if last else len(np.unique(rows)) > 5


def test_an_absurd_value_is_a_multiple_of_the_largest_and_finite() -> None:
    found = apply(insert_absurd_value(1e6, CONTEXT, last=True, seed=2))
    np.testing.assert_allclose(found[:, -1], 1e6 * HISTORY[:, -CONTEXT:].max(axis=1), rtol=1e-6)
    assert (apply(insert_absurd_value(3e38, CONTEXT, last=True, seed=2))[:, -1] == np.float32(LARGEST)).all()
    zeros = apply(insert_absurd_value(1e3, CONTEXT, last=True, seed=2), np.zeros_like(HISTORY))
    assert (zeros[:, -1] == 1e3).all()


def test_a_feature_that_was_never_sent_gets_no_absurd_value() -> None:
    history = HISTORY.copy()
    history[..., 2] = np.nan
    assert np.isnan(apply(insert_absurd_value(1e3, CONTEXT, last=True, seed=2), history)[..., 2]).all()


def test_a_surge_multiplies_the_newest_rows() -> None:
    found = apply(raise_newest_rows(5, 3))
    np.testing.assert_array_equal(found[:, :-3], HISTORY[:, :-3])
    np.testing.assert_allclose(found[:, -3:], 5 * HISTORY[:, -3:])
