"""Tests `streamd/tools/training/hardship.py`: the figures of forecasters of which they are known."""

from functools import partial
from typing import Any

import numpy as np
import pytest

from tests.support.simple_predictors import predict_last_values, predict_window_quantiles

pytest.importorskip("pandas")

from streamd.tools.training.backtest import Backtest
from streamd.tools.training.evaluate import print_hardship
from streamd.tools.training.hardship import CONTEXTS, Hardship, read_newest_values


@pytest.fixture
def hardship(fleet: Any, contract: Any) -> Hardship:
    return Hardship(Backtest(fleet, contract, stride=240))


@pytest.fixture
def window(hardship: Hardship, contract: Any) -> Any:
    """Return the figures of the quantiles of the window."""
    return hardship.judge(partial(predict_window_quantiles, contract=contract))


def test_the_curve_stands_beside_the_baselines_of_the_same_rows(window: Any) -> None:
    curve = window["context"]
    assert tuple(curve) == CONTEXTS
    assert curve[288]["times"] == 1.0
    for rows in CONTEXTS[:-1]:
        assert curve[rows]["baseline"]["name"] in ("window_q", "last_value")
        assert curve[rows]["ratio"] >= 1.0
    assert any(curve[rows]["ratio"] == pytest.approx(1.0, abs=1e-3) for rows in CONTEXTS[:-1])


def test_quantiles_of_the_window_lose_little_by_missing_rows_and_by_one_absurd_value(window: Any) -> None:
    assert all(0.95 < ratio < 1.2 for ratio in window["rows_missing"].values())
    assert window["half_of_features"] == 1.0
    assert all(ratio < 1.1 for ratio in window["absurd"].values())


def test_the_last_value_is_ruined_by_an_absurd_last_value_alone(hardship: Hardship, contract: Any) -> None:
    found = hardship.judge(partial(predict_last_values, contract=contract))
    assert found["absurd"]["1e6_last"] > 1e4
    assert found["absurd"]["negative_last"] > 100
    assert found["absurd"]["1e6_anywhere"] < found["absurd"]["1e6_last"] / 10


def test_a_surge_stands_beside_the_last_value(hardship: Hardship, contract: Any, window: Any) -> None:
    last = hardship.judge(partial(predict_last_values, contract=contract))["surge"]
    assert {each["ratio_last_value"] for each in last.values()} == {1.0}
    slow = window["surge"]
    assert slow["20x_1"]["ratio_last_value"] > slow["20x_12"]["ratio_last_value"] * 0.99 > 2


def test_the_last_value_is_the_newest_known_one(fleet: Any, contract: Any) -> None:
    backtest = Backtest(fleet, contract)
    machine, origin = backtest.windows[0]
    fleet.values[machine, origin - 3 : origin, 0] = np.nan
    backtest = Backtest(fleet, contract)
    assert read_newest_values(backtest)[0, 0] == fleet.values[machine, origin - 4, 0]
    assert read_newest_values(backtest)[0, 1] == fleet.values[machine, origin - 1, 1]


def test_the_figures_are_printed(window: Any, capsys: Any) -> None:
    print_hardship(window)
    printed = capsys.readouterr().out
    assert "12 rows" in printed
    assert "6e10_last" in printed
