"""Tests `streamd/core/state/layout.py`: the place of each array in one buffer, and the header."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.state.layout import HEADER_BYTES, Column, Layout, make_scalar_view, make_zeros, parse_header

DTYPES = ["<f4", "<i8", "u1", "<u2", "S7"]
SHAPES = st.lists(st.integers(1, 5), max_size=2).map(tuple)
COLUMNS = st.lists(st.tuples(st.sampled_from(DTYPES), SHAPES), min_size=1, max_size=5).map(
    lambda drawn: tuple(Column(f"c{place}", dtype, shape) for place, (dtype, shape) in enumerate(drawn))
)


@given(COLUMNS, st.integers(1, 3_000))
def test_each_array_begins_on_its_own_page(columns: tuple[Column, ...], capacity: int) -> None:
    layout = Layout(columns, capacity, {})
    end = HEADER_BYTES
    for column in columns:
        offset = layout.offsets[column.name]
        assert offset >= end
        assert offset % HEADER_BYTES == 0
        end = offset + column.count_bytes(capacity)
    assert end <= layout.nbytes < end + HEADER_BYTES
    assert layout.nbytes % HEADER_BYTES == 0


@given(COLUMNS, st.integers(1, 40))
def test_the_extents_of_a_slot_are_all_pages_that_it_touches(columns: tuple[Column, ...], capacity: int) -> None:
    layout = Layout(columns, capacity, {})
    buffer = bytearray(layout.nbytes)
    arrays = layout.make_views(buffer)
    slot = capacity // 2
    for column in columns:
        assert arrays[column.name].shape == (capacity, *column.shape)
        arrays[column.name][slot] = b"\xff" * 7 if column.dtype == "S7" else 1
    touched = np.flatnonzero(np.frombuffer(buffer, np.uint8))
    inside = np.zeros(layout.nbytes, bool)
    for offset, size in layout.list_slot_extents(slot):
        assert not inside[offset : offset + size].any(), "extents do not overlap"
        inside[offset : offset + size] = True
    assert inside[touched].all()
    assert touched.min() >= HEADER_BYTES


def test_a_header_is_read_as_it_was_written() -> None:
    layout = Layout((Column("a", "<f4"),), 7, {"kind": "windows", "features": ["cpu", "größe"]})
    page = layout.make_header(identifier="x")
    assert len(page) == HEADER_BYTES
    assert parse_header(page) == {"capacity": 7, "kind": "windows", "features": ["cpu", "größe"], "identifier": "x"}


@pytest.mark.parametrize("page", [b"", b"\0" * HEADER_BYTES, b"streamd\x01{", b"streamd\x01[1]", b"streamd\x02{}"])
def test_a_page_that_is_not_a_header_is_read_as_none(page: bytes) -> None:
    assert parse_header(page.ljust(HEADER_BYTES, b"\0")) is None


def test_a_header_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="identity"):
        Layout((Column("a", "<f4"),), 1, {"features": ["x" * HEADER_BYTES]}).make_header()


def test_a_scalar_view_writes_to_its_array() -> None:
    array = np.zeros((2, 3), np.float32)
    view = make_scalar_view(array)
    view[4] = 5.0
    assert array[1, 1] == 5.0


def test_zeros_have_the_shapes_of_their_columns() -> None:
    arrays = make_zeros((Column("a", "<u4"), Column("b", "<f4", (2, 3))), 5)
    assert {name: (array.shape, array.dtype.str, bool(array.any())) for name, array in arrays.items()} == {
        "a": ((5,), "<u4", False),
        "b": ((5, 2, 3), "<f4", False),
    }
