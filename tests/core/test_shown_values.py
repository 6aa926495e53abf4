"""Tests `streamd/core/shown_values.py`: people read a value with a unit that they write themselves."""

import pytest

from streamd.core.shown_values import format_value


@pytest.mark.parametrize(
    ("unit", "shown"), [("percent", "90 %"), ("count", "90"), ("1", "90"), ("", "90"), ("bytes/s", "90 bytes/s")]
)
def test_a_value_is_shown_with_its_unit_as_people_write_it(unit: str, shown: str) -> None:
    assert format_value(90.0, unit) == shown
