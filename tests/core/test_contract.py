"""Tests `streamd/core/contract.py`: contradictory contracts are refused, and the shapes."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.contract import ModelContract
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
    ],
)
def test_a_contradictory_contract_is_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
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
