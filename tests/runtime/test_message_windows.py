"""Tests `streamd/runtime/message_windows.py`: windows reach their rows, whatever order their inputs have in a body."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.contract import ModelContract
from streamd.inference.lane import Inputs
from streamd.runtime.message_windows import InputPlace, MessageWindows
from tests.support.naive_inputs import CONTRACTS, make_full_inputs


@given(st.integers(1, 4), st.sampled_from(CONTRACTS), st.sampled_from(CONTRACTS), st.integers(0, 5), st.data())
def test_windows_are_copied_into_their_rows_and_nothing_else(
    windows: int, sent: ModelContract, wanted: ModelContract, padding: int, data: st.DataObject
) -> None:
    names = list(sent.input_shapes)
    order = data.draw(st.permutations(names))
    arrays = make_full_inputs(windows, sent)
    body, places = bytearray(), {}
    for name in order:
        body += b"x" * padding
        places[name] = InputPlace(len(body), arrays[name].nbytes // windows)
        body += arrays[name].tobytes()
    found = MessageWindows(
        message=memoryview(b"head" + bytes(body)),
        body_begin=4,
        places=tuple(places[name] for name in names),
        windows=windows,
        batched=True,
    )
    assert not found.is_checked
    first = data.draw(st.integers(0, windows - 1))
    count = data.draw(st.integers(0, windows - first))
    row = data.draw(st.integers(0, 2))
    inputs = Inputs.allocate(wanted, windows + 2)
    found.fill(first, count, inputs, row)
    for name, buffer in inputs.view_first(windows + 2).items():
        # A caller may send no memory, and a version may ask for none.
        expected = arrays[name][first : first + count] if name in arrays else np.full((count, 3, 3), np.nan)
        np.testing.assert_array_equal(buffer[row : row + count], expected)
        assert not buffer[:row].any()
        assert not buffer[row + count :].any()
