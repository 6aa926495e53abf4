"""Tests `streamd/runtime/message_windows.py`: windows reach their rows, whatever order their inputs have in a body."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamd.inference.lane import Inputs
from streamd.runtime.message_windows import InputPlace, MessageWindows
from tests.support.naive_inputs import CONTRACT, make_full_inputs

NAMES = list(CONTRACT.input_shapes)


@given(st.integers(1, 4), st.permutations(NAMES), st.integers(0, 5), st.data())
def test_windows_are_copied_into_their_rows_and_nothing_else(
    windows: int, order: list[str], padding: int, data: st.DataObject
) -> None:
    arrays = make_full_inputs(windows)
    body, places = bytearray(), {}
    for name in order:
        body += b"x" * padding
        places[name] = InputPlace(len(body), arrays[name].nbytes // windows)
        body += arrays[name].tobytes()
    found = MessageWindows(
        message=memoryview(b"head" + bytes(body)),
        body_begin=4,
        places=tuple(places[name] for name in NAMES),
        windows=windows,
        batched=True,
    )
    assert not found.is_checked
    first = data.draw(st.integers(0, windows - 1))
    count = data.draw(st.integers(0, windows - first))
    row = data.draw(st.integers(0, 2))
    inputs = Inputs.allocate(CONTRACT, windows + 2)
    found.fill(first, count, inputs, row)
    for name, buffer in inputs.view_first(windows + 2).items():
        np.testing.assert_array_equal(buffer[row : row + count], arrays[name][first : first + count])
        assert not buffer[:row].any()
        assert not buffer[row + count :].any()
