"""Tests `streamd/core/contract.py`: contradictory contracts are refused, and the shapes."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.contract import MEMORY_INPUT, MEMORY_LENGTH, MEMORY_STEP_SECONDS, ModelContract, can_keep_memory
from tests.support.contracts import make_contract


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"context_length": 0}, "context_length"),
        ({"horizon": 0}, "horizon"),
        ({"step_seconds": -1}, "step_seconds"),
        ({"features": ()}, "features"),
        ({"features": ("cpu", "mem", "cpu")}, "features"),
        ({"targets": ()}, "targets"),
        ({"targets": ("mem", "mem")}, "targets"),
        ({"targets": ("mem", "disk")}, "disk"),
        ({"quantiles": ()}, "quantiles"),
        ({"quantiles": (0.5, 0.5)}, "quantiles"),
        ({"quantiles": (0.9, 0.1)}, "quantiles"),
        ({"quantiles": (0.0, 0.5)}, "quantiles"),
        ({"quantiles": (0.5, 1.0)}, "quantiles"),
        ({"quantiles": (0.5, float("nan"))}, "quantiles"),
        ({"quantiles": (float("nan"),)}, "quantiles"),
        ({"memory_length": -1}, "memory_length is -1, expected 0 or more"),
        ({"memory_length": 1, "memory_step_seconds": 0}, "memory_step_seconds is 0"),
        ({"memory_length": 1, "memory_step_seconds": 450}, "a multiple of step_seconds (300)"),
        ({"memory_length": 1, "memory_step_seconds": 2_700}, "at most context_length (8) steps"),
    ],
)
def test_a_contradictory_contract_is_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=re.escape(named)):
        make_contract(**changes)


def test_shapes_of_several_targets() -> None:
    contract = make_contract()
    assert contract.feature_index == {"cpu": 0, "mem": 1, "net": 2}
    assert contract.input_shapes == {
        "encoder_cont": (8, 3),
        "encoder_cat": (8, 2),
        "decoder_cont": (4, 4),
        "decoder_cat": (4, 2),
    }
    assert contract.forecast_shape == (2, 4, 3)
    assert contract.output_shape == (4, 2, 3)


def test_a_model_that_remembers_has_one_more_input() -> None:
    contract = make_contract(memory_length=5, memory_step_seconds=2_400)
    assert list(contract.input_shapes) == [*make_contract().input_shapes, MEMORY_INPUT]
    assert contract.input_shapes[MEMORY_INPUT] == (5, 3)


def test_without_a_memory_the_length_of_its_periods_is_not_checked() -> None:
    assert MEMORY_INPUT not in make_contract(step_seconds=7).input_shapes


@pytest.mark.parametrize(
    ("step_seconds", "context_length", "is_kept"),
    [(300, 12, True), (300, 11, False), (3_600, 1, True), (3_601, 9, False), (7, 9_000, False), (1, 3_600, True)],
)
def test_the_daemon_keeps_a_memory_if_hours_are_whole_and_fit_into_a_window(
    step_seconds: int, context_length: int, is_kept: bool
) -> None:
    assert can_keep_memory(step_seconds, context_length) == is_kept
    kept = make_contract(step_seconds=step_seconds, context_length=context_length).with_daemon_memory()
    assert kept.memory_length == (MEMORY_LENGTH if is_kept else 0)
    assert kept.has_daemon_memory


@pytest.mark.parametrize(
    ("length", "step_seconds", "is_given"),
    [
        (0, 3_600, True),
        (0, 600, True),
        (MEMORY_LENGTH, MEMORY_STEP_SECONDS, True),
        (24, 3_600, False),
        (168, 600, False),
    ],
)
def test_only_the_memory_that_the_daemon_keeps_is_given_to_models(
    length: int, step_seconds: int, is_given: bool
) -> None:
    contract = make_contract(context_length=12, memory_length=length, memory_step_seconds=step_seconds)
    assert contract.has_daemon_memory == is_given


def test_one_target_has_no_axis_of_its_own() -> None:
    contract = make_contract(targets=("net",))
    assert contract.forecast_shape == (1, 4, 3)
    assert contract.output_shape == (4, 3)


@given(st.integers(0, 2**33), st.sampled_from([1, 60, 300]), st.floats(0, 0.999))
def test_a_step_begins_with_its_first_second(time: int, step_seconds: int, more: float) -> None:
    contract: ModelContract = make_contract(step_seconds=step_seconds)
    step = contract.to_step(time + more)
    assert step * step_seconds <= time < (step + 1) * step_seconds
    assert contract.to_origin(step) == (step + 1) * step_seconds
    assert contract.to_step(contract.to_origin(step)) == step + 1
