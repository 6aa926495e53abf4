"""Tests `streamd/core/state/rows.py` against reading the values one by one."""

import math
import re

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.errors import InvalidValueError
from streamd.core.state.rows import MAX_CACHED_ORDERS, RowReader, iterate_columns

FEATURES = ("cpu", "mem", "net")
NAMES = [*FEATURES, "unknown", "other"]
LARGE = [1e39, -1e39, 3e38, 1e30, -9.99999977268534e29, 9.99999977268535e29, 1e308]
VALUES = st.none() | st.floats(width=32) | st.floats() | st.sampled_from(LARGE)
SAMPLES = st.lists(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=5), max_size=8)

Values = dict[str, float | None]


def naive(values: Values, features: tuple[str, ...]) -> list[float] | None:
    """Return the row with NaN for a missing value, or None if a value is refused."""
    row = []
    for feature in features:
        value = values.get(feature)
        if value is None or math.isnan(value):
            row.append(math.nan)
            continue
        with np.errstate(over="ignore"):
            held = float(np.float32(value))
        if abs(held) >= np.float32(1e30):
            return None
        row.append(held)
    return row


@given(SAMPLES, st.integers(1, 3))
def test_rows_equal_those_of_a_naive_reader(samples: list[Values], count: int) -> None:
    features = FEATURES[:count]
    reader, ignored = RowReader(features), 0
    for values in samples:
        expected = naive(values, features)
        if expected is None:
            with pytest.raises(InvalidValueError, match="values"):
                reader.read_row(values)
            continue
        row = reader.read_row(values)
        ignored += sum(name not in features for name in values)
        found = np.frombuffer(row.data, np.float32)
        np.testing.assert_array_equal(found, np.array(expected, np.float32))
        assert list(iterate_columns(row.mask)) == np.flatnonzero(~np.isnan(found)).tolist()
        assert reader.ignored == ignored


@pytest.mark.parametrize("value", [math.inf, -math.inf, 1e39, 3.4e38, -1e30, 10**30])
def test_the_refused_value_is_named_with_the_bound(value: float) -> None:
    reader = RowReader(FEATURES)
    message = f"values.mem is {value!r}, expected a number of magnitude below 1e30, or null"
    with pytest.raises(InvalidValueError, match=re.escape(message)):
        reader.read_row({"cpu": 1.0, "mem": value})
    assert reader.read_row({"cpu": 1.0, "mem": 2.0}).mask == 0b011


def test_the_values_of_unknown_features_are_ignored() -> None:
    reader = RowReader(FEATURES)
    assert reader.read_row({"cpu": 1.0, "unknown": math.inf, "other": None}).mask == 0b001
    assert reader.ignored == 2


def test_the_cache_of_orders_is_bounded() -> None:
    reader = RowReader(FEATURES)
    for number in range(3 * MAX_CACHED_ORDERS):
        reader.read_row({f"feature-{number}": 1.0, "mem": 2.0})
        assert len(reader._orders) <= MAX_CACHED_ORDERS
    assert reader.ignored == 3 * MAX_CACHED_ORDERS


@given(st.lists(st.dictionaries(st.sampled_from(FEATURES), VALUES), max_size=8), st.integers(1, 3))
def test_cells_are_read_as_the_same_values_are(samples: list[Values], count: int) -> None:
    features = FEATURES[:count]
    reader = RowReader(features)
    for values in samples:
        known = {name: value for name, value in values.items() if name in features}
        cells = reader.cells_type(*(known.get(name) for name in features))
        try:
            expected = reader.read_row(known)
        except InvalidValueError:  # of several such values, it names the first of the features
            first = next(name for name in features if naive({name: known.get(name)}, (name,)) is None)
            with pytest.raises(InvalidValueError, match=re.escape(f"values.{first} is {known[first]!r}, expected")):
                reader.read_cells(cells)
        else:
            assert reader.read_cells(cells) == expected


@pytest.mark.parametrize("name", ["", "a b", "__class__", "feature_1", "ä", "def"])
def test_cells_have_features_of_any_name(name: str) -> None:
    reader = RowReader(["cpu", name])
    cells = msgspec.json.decode(msgspec.json.encode({name: 2, "cpu": 1.5}), type=reader.cells_type)
    assert reader.read_cells(cells) == reader.read_row({"cpu": 1.5, name: 2.0})


def test_cells_of_other_names_are_not_decoded() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"cpu": 1, "unknown": 2}', type=RowReader(FEATURES).cells_type)
