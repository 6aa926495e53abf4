"""Tests `streamd/runtime/window_checks.py`: windows are judged together as each would be alone."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.errors import InvalidInputError
from streamd.inference.lane import Inputs
from streamd.runtime.window_checks import find_faults
from tests.support.naive_inputs import CONTRACTS, MEMORY_CONTRACT, make_full_inputs, read_inputs

ROWS = 6
CONTINUOUS = [np.nan, np.inf, -np.inf, 3e38, -3e38, 0.5]
WHOLE = [-1, 15, 16, 2**31 - 1, -(2**31)]


@st.composite
def damaged_lanes(draw: st.DrawFn) -> Inputs:
    """A lane's inputs with some numbers replaced; some windows have no value at all, or no memory."""
    inputs = Inputs(**make_full_inputs(ROWS, draw(st.sampled_from(CONTRACTS))))
    for name, array in inputs.view_first(ROWS).items():
        numbers = WHOLE if name.endswith("_cat") else CONTINUOUS
        for cell in draw(st.lists(st.integers(0, array.size - 1), max_size=2)):
            array.reshape(-1)[cell] = draw(st.sampled_from(numbers))
    for row in draw(st.lists(st.integers(0, ROWS - 1), max_size=1)):
        inputs.encoder_cont[row] = np.nan
    for row in draw(st.lists(st.integers(0, ROWS - 1), max_size=2)):
        inputs.forget_memory(row, row + 1)
    return inputs


def find_fault(inputs: Inputs, row: int) -> str | None:
    """Return the error of a window alone, by the naive checks."""
    try:
        read_inputs(MEMORY_CONTRACT, inputs.view_rows(row, row + 1))
    except InvalidInputError as error:
        return str(error)
    return None


@given(damaged_lanes(), st.integers(0, ROWS - 1), st.integers(0, ROWS))
def test_the_faults_of_many_windows_are_those_of_each_alone(inputs: Inputs, begin: int, count: int) -> None:
    end = min(begin + count, ROWS)
    faults = {row: find_fault(inputs, row) for row in range(begin, end)}
    expected = {row: fault for row, fault in faults.items() if fault is not None}
    found = {row: str(error) for row, error in find_faults(inputs, begin, end)} if end > begin else {}
    assert found == expected
