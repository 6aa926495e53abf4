"""Tests `streamd/core/recent_values.py`: how old the newest value of a target may be."""

import pytest

from streamd.core.recent_values import count_recent_rows


@pytest.mark.parametrize(("context_length", "rows"), [(288, 24), (24, 2), (12, 1), (11, 1), (1, 1)])
def test_recent_rows_are_a_twelfth_of_the_context_and_at_least_one(context_length: int, rows: int) -> None:
    assert count_recent_rows(context_length) == rows
