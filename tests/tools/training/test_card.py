"""Tests `streamd/tools/training/card.py` and `card_tables.py`: the card says what the figures say."""

import json
from typing import Any

import pytest

pytest.importorskip("pandas")

from functools import partial

from streamd.tools.networks.contract import NetworkContract
from streamd.tools.training import noise
from streamd.tools.training.card import format_model_card
from streamd.tools.training.card_tables import format_table
from streamd.tools.training.judgement import judge_fleets
from tests.support.simple_predictors import predict_window_quantiles


@pytest.fixture
def info(fleet: Any, contract: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what a release writes, read again from JSON."""
    monkeypatch.setattr(noise, "MACHINES_PER_KIND", 1)
    fleet.name, fleet.has_weekdays = "smd", True
    config = {"sources": {"smd": 0.5, "azure": 0.2, "asd": 0.0}, "generated_share": 0.3, "batch": 8, "seed": 1}
    figures = judge_fleets(partial(predict_window_quantiles, contract=contract), [fleet], contract)
    plain = {"smd": {"nPL": 0.5}, "asd": {"nPL": 0.25, "ratio_24h": 0.8, "ratio_best": 0.9}}
    found = {
        "architecture": "patch_forecaster",
        "parameters": 1234,
        "steps": 7,
        "device": "CPU",
        "torch": "2.9",
        "config": config,
        "calibration": {"below": [1.0, 1.1, 1.2, 1.25], "above": [0.9, 0.9, 0.9, 0.9]},
        "figures": figures,
        "seeds": {"2": {"smd": {"nPL": 2 * figures["smd"]["nPL"]}}},
        "ablations": {"without ASD": {"figures": plain, "unseen": ["asd"]}},
    }
    return json.loads(json.dumps(found))


def test_the_card_has_the_figures_and_the_sources(info: Any, contract: Any) -> None:
    card = format_model_card("small_1", info, contract)
    figures = info["figures"]["smd"]
    assert card.startswith("# small_1\n")
    assert f"| smd | 15 | 65 | {figures['nPL']:.4f} |" in card
    assert f"{figures['baseline_7d']['nPL']:.4f} `timeofday7d_q`" in card
    assert "1.00, 1.10, 1.20, 1.25 below the median" in card
    assert "| azure | Azure Public Dataset V2" in card
    assert "CC BY 4.0" in card
    assert "| asd | Application" not in card, "a set with a share of 0 is not among the sources"


def test_the_card_has_the_spread_of_seeds_and_marks_what_a_run_did_not_see(info: Any, contract: Any) -> None:
    card = format_model_card("small_1", info, contract)
    assert "| 100.0 % |" in card
    assert "| without ASD | 0.5000 | 0.2500* (0.80, 0.90) |" in card


def test_the_limits_are_those_of_the_contract(info: Any, contract: Any) -> None:
    without = format_model_card("small_1", info, contract)
    assert "It sees 24 hours: a weekly rhythm" in without
    assert "Days of memory" not in without
    info["figures"]["smd"]["memory_days"] = {"0": 0.3, "7": 0.2}
    info["figures"]["smd"]["without_memory"] = {"nPL": 0.35, "ratio_best": 0.77, "weekend": 0.41, "other": 0.32}
    remembering = format_model_card("small_1", info, NetworkContract(memory_length=168))
    assert "seven days in hourly means" in remembering
    assert "| smd | 0.3000 | 0.2000 |" in remembering
    assert "| 0.4100 |" in remembering
    assert "| 0.7700 |" in remembering


def test_a_number_has_four_digits_and_what_is_missing_is_empty() -> None:
    assert format_table(("a", "b"), [(0.123456, None)]) == "| a | b |\n|---|---|\n| 0.1235 |  |"
