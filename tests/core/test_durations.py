"""Tests `streamd/core/durations.py`: which texts are durations, and how many seconds each has."""

import pytest

from streamd.core.durations import parse_duration


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1_800), ("4h", 14_400), ("1.5d", 129_600)])
def test_a_duration_has_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "4", "h", "4H", "-4h", "4 h", "4h ", "0m", "1e3s", "٤h", "1.h", f"{'9' * 400}d"])
def test_all_else_is_none(text: str) -> None:
    assert parse_duration(text) is None
