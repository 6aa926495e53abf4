"""Tests `streamd/runtime/sample_writer.py`: the times of samples. How samples are written is in `test_ingest.py`."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from streamd.core.errors import InvalidTimeError
from streamd.runtime.sample_writer import to_epoch_seconds


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (0, 0.0),
        (1_763_708_400.5, 1_763_708_400.5),
        (datetime(2025, 11, 21, 7, 0, tzinfo=UTC), 1_763_708_400.0),
        (datetime(2025, 11, 21, 8, 0, tzinfo=timezone(timedelta(hours=1))), 1_763_708_400.0),
    ],
)
def test_times_are_converted_to_epoch_seconds(given: float | datetime, seconds: float) -> None:
    assert to_epoch_seconds(given) == seconds


@pytest.mark.parametrize("given", [-1.0, float("nan"), float("inf"), datetime(1969, 12, 31, tzinfo=UTC)])
def test_times_before_1970_and_without_a_value_are_refused(given: float | datetime) -> None:
    with pytest.raises(InvalidTimeError, match="expected finite epoch seconds from 1970 on"):
        to_epoch_seconds(given)
