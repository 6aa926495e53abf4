"""Tests `streamd/tools/training/judgement.py` and `quick_judgement.py`: forecasters whose figures are known."""

import dataclasses
from functools import partial
from typing import Any

import numpy as np
import pytest

from tests.support.simple_predictors import predict_remembered_day, predict_window_quantiles

pytest.importorskip("pandas")

from streamd.tools.training import noise
from streamd.tools.training.judgement import FleetJudge, judge_fleets, judge_noise
from streamd.tools.training.noise import NOISES
from streamd.tools.training.quick_judgement import QuickJudge, judge_quick


@pytest.fixture(autouse=True)
def little_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let two machines of each kind of noise do."""
    monkeypatch.setattr(noise, "MACHINES_PER_KIND", 2)


@pytest.fixture
def window(contract: Any) -> Any:
    return partial(predict_window_quantiles, contract=contract)


@pytest.fixture
def found(fleet: Any, contract: Any, window: Any) -> Any:
    """Return the figures of the quantiles of the window on a fleet of which one metric is noise."""
    fleet = dataclasses.replace(fleet, has_weekdays=True)
    fleet.values[:, :, 1] = 5 + np.random.default_rng(2).standard_normal(fleet.values.shape[:2])
    return FleetJudge(fleet=fleet, contract=contract).judge(window)


def test_each_figure_stands_beside_the_best_baseline(found: Any) -> None:
    assert found["ratio_24h"] == pytest.approx(found["nPL"] / found["baseline_24h"]["nPL"], abs=1e-3)
    assert found["ratio_best"] == max(found["ratio_24h"], found["ratio_7d"])
    assert (found["windows"], found["series"]) == (65, 15)


def test_a_baseline_as_a_model_is_as_good_as_itself(found: Any) -> None:
    memory = found["targets"]["mem"]
    assert memory["target"] == "mem_used"
    assert (memory["baseline_best"]["name"], memory["ratio_best"]) == ("window_q", pytest.approx(1.0, abs=1e-3))
    group = found["groups"]["noise"]
    assert (group["series"], group["ratio_window"]) == (5, pytest.approx(1.0, abs=1e-3))
    assert found["groups"]["week"]["ratio_best"] > 2
    assert len(found["coverage_by_quarter"]) == 4
    assert set(found["weekend"]) >= {"windows", "model", "window_q", "timeofday7d_q"}
    assert found["weekend"]["model"] == found["weekend"]["window_q"]


def test_what_the_memory_brings_is_measured(fleet: Any, contract: Any) -> None:
    contract = dataclasses.replace(contract, memory_length=168)
    judge = FleetJudge(fleet=fleet, contract=contract, machines=[0, 2])
    predict = partial(predict_remembered_day, contract=contract)
    found = judge.judge_conditions(predict)
    days = found["memory_days"]
    assert days[0] > 3 * days[1]
    assert days[1] == days[7]
    assert found["without_memory"]["nPL"] > 3 * judge.judge(predict)["nPL"]
    assert judge.judge(predict)["series"] == 6


def test_a_fleet_without_windows_is_left_out_and_noise_is_judged(fleet: Any, contract: Any, window: Any) -> None:
    empty = dataclasses.replace(fleet, name="empty", splits={**fleet.splits, "test": (2300, 2304)})
    found = judge_fleets(window, [empty, fleet], contract)
    assert set(found) == {"small", "noise", "constants"}
    assert found["constants"] == {"largest_relative_error": 0.0}
    assert set(judge_fleets(window, [empty, fleet], contract, brief=True)) == {"small"}


def test_the_quantiles_of_the_window_are_exact_on_noise(contract: Any, window: Any) -> None:
    found = judge_noise(window, contract)
    assert set(found) == set(NOISES)
    for kind in found.values():
        assert {rows: each["ratio"] for rows, each in kind.items()} == {288: 1.0, 48: 1.0}
        assert kind[288]["cov80"] > 0.77


def test_a_quick_judgement_agrees_with_the_whole_one(fleet: Any, contract: Any, window: Any) -> None:
    whole = FleetJudge(fleet=fleet, contract=contract, split="val").judge(window)
    quick = QuickJudge([fleet], contract, windows_per_fleet=1000)
    found = quick.judge(window)
    assert found["small_nPL"] == whole["nPL"]
    assert (found["small_ratio24"], found["small_ratio7d"]) == (whole["ratio_24h"], whole["ratio_7d"])
    assert found["score"] == pytest.approx(whole["ratio_best"], abs=1e-3)
    assert found["small_ratio48"] >= 1.0
    assert found["worst_noise"] == pytest.approx(1.0, abs=1e-3)
    assert found["absurd_middle"] < 1.1
    assert quick.judge(window) == found, "nothing is left behind by the first judgement"


def test_a_model_may_be_judged_without_its_memory(fleet: Any, contract: Any) -> None:
    contract = dataclasses.replace(contract, memory_length=168)
    predict = partial(predict_remembered_day, contract=contract)
    found, without = (judge_quick(predict, [fleet], contract, memory=memory) for memory in (True, False))
    assert found["small_nPL"] < without["small_nPL"] / 3
    assert found["small_ratio_day"] == found["score_day"] == without["small_ratio"]
