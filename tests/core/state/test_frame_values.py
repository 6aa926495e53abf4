"""Tests `streamd/core/state/frame_values.py`: the rows of a frame are those of its samples."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.errors import InvalidValueError
from streamd.core.state.column_frames import NameList
from streamd.core.state.frame_values import MatrixReader
from streamd.core.state.rows import PackedRow, RowReader

FEATURES = ("cpu", "mem", "net")
NAMES = st.lists(st.sampled_from([*FEATURES, "fan", "gpu"]), max_size=5, unique=True)
NUMBERS = st.one_of(
    st.integers(-5, 5).map(float),
    st.sampled_from([np.nan, np.inf, -np.inf, 1e39, -1e300, 3e38, -1e30, 1e-46]),
    st.sampled_from([9.99999977268534e29, 9.99999977268535e29]),  # beside the least that float32 rounds to 1e30
    st.floats(width=32),
    st.floats(),
)
DTYPES = ["<f2", "<f4", "<f8", "<i4", "<i8", "|u1"]


@st.composite
def matrices(draw: st.DrawFn) -> tuple[list[str], Any]:
    names, dtype, rows = draw(NAMES), draw(st.sampled_from(DTYPES)), draw(st.integers(0, 4))
    bounds = {"<i4": 2**31 - 1, "<i8": 2**63 - 1, "|u1": 255}
    numbers = st.integers(0, bounds[dtype]) if dtype in bounds else NUMBERS
    cells = draw(st.lists(numbers, min_size=rows * len(names), max_size=rows * len(names)))
    with np.errstate(over="ignore"):
        return names, np.array(cells, np.float64 if dtype not in bounds else dtype).astype(dtype).reshape(
            rows, len(names)
        )


def read_one_by_one(reader: RowReader, names: list[str], row: Any) -> PackedRow | None:
    try:
        return reader.read_row(dict(zip(names, row.astype(np.float64).tolist(), strict=True)))
    except InvalidValueError:
        return None


@given(matrices())
def test_the_rows_of_a_frame_are_those_of_its_samples(given_frame: tuple[list[str], Any]) -> None:
    names, values = given_frame
    one_by_one = RowReader(FEATURES)
    found = MatrixReader(FEATURES).read_rows(NameList(names), values)
    assert found.rows.flags.c_contiguous
    for place, row in enumerate(values):
        before = one_by_one.ignored
        expected = read_one_by_one(one_by_one, names, row)
        if expected is None or not expected.mask:
            assert found.is_odd is not None
            assert found.is_odd[place]
            continue
        assert found.is_odd is None or not found.is_odd[place]
        assert found.rows[place].tobytes() == expected.data
        assert (found.masks if isinstance(found.masks, int) else int(found.masks[place])) == expected.mask
        assert found.ignored == one_by_one.ignored - before


@pytest.mark.parametrize("dtype", ["<f4", "<f8"])
def test_an_order_is_found_once_for_a_list(dtype: str) -> None:
    names, reader = NameList(["net", "fan", "cpu"]), MatrixReader(FEATURES)
    rows = [reader.read_rows(names, np.array([[1.0, 2.0, 3.0]], dtype)).rows.tolist()[0] for _ in range(2)]
    assert [row[0::2] for row in rows] == [[3.0, 1.0]] * 2
    assert names.known is not None
