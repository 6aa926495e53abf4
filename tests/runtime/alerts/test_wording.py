"""Tests `streamd/runtime/alerts/wording.py`: what people read about an alert."""

from typing import Any

import pytest

from streamd.runtime.alerts.alert import CrossingTimes
from streamd.runtime.alerts.wording import describe_duration, write_description, write_summary
from tests.support.made_alerts import NOW, make_alert, make_resolved_alert


def test_the_summary_has_the_likely_time_and_its_range() -> None:
    assert write_summary(make_alert(), NOW) == (
        "disk_usage of db-07 reaches 90 % in about 3 h 10 min (2 h 40 min to 5 h)"
    )


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (
            CrossingTimes(NOW + 60, NOW + 120, None),
            "reaches 90 % in about 2 min (1 min at the earliest, perhaps not at",
        ),
        (CrossingTimes(NOW - 5, NOW - 1, NOW + 9), "is forecast to be at or above 90 % now"),
        (CrossingTimes(NOW + 60, None, None), "may reach 90 % in 1 min at the earliest"),
        (CrossingTimes(NOW - 60, None, None), "may reach 90 % in 0 s at the earliest"),
        (CrossingTimes(None, None, None), "may reach 90 %"),
        (CrossingTimes(None, NOW + 60, NOW + 120), "reaches 90 % in about 1 min (1 min to 2 min)"),
    ],
)
def test_a_curve_that_does_not_cross_is_not_given_a_time(times: CrossingTimes, expected: str) -> None:
    assert write_summary(make_alert(crosses_at=times), NOW).startswith(f"disk_usage of db-07 {expected}")


def test_a_fall_below_a_threshold_is_called_a_fall() -> None:
    falls = make_alert(is_above=False, target="cpu_idle", threshold=2.5)
    assert write_summary(falls, NOW).startswith("cpu_idle of db-07 falls to 2.5 % in about")
    now = make_alert(is_above=False, crosses_at=CrossingTimes(NOW, NOW, NOW))
    assert "at or below" in write_summary(now, NOW)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"reason": "cleared"}, "no longer forecast to reach 90 % within 4 h"),
        ({"reason": "unknown"}, "not sent for a whole window, so it is not known whether it will reach 90 %"),
        ({"reason": "silent"}, "its forecasts have ended; the last one reached 90 %"),
        ({"reason": "forgotten"}, "the server was forgotten"),
        ({"reason": "rule_changed"}, "the rule disk_fills was changed or removed"),
    ],
)
def test_the_end_of_an_alert_says_why(changes: dict[str, Any], expected: str) -> None:
    assert write_summary(make_resolved_alert(**changes), NOW) == f"disk_usage of db-07: {expected}"


def test_the_description_has_times_that_do_not_grow_old() -> None:
    text = write_description(make_alert(), NOW)
    assert "Crossing: earliest 2023-11-15 00:53 UTC, likely 2023-11-15 01:23 UTC, latest 2023-11-15 03:13 UTC." in text
    assert "Rule disk_fills: the 0.5 quantile at or above 90 % within 4 h." in text
    assert text.endswith("Forecast of patch_1 from 2023-11-14 22:08 UTC.")
    assert "Crossing" not in write_description(make_resolved_alert(), NOW)


@pytest.mark.parametrize(("unit", "shown"), [("1", "90"), ("count", "90"), ("", "90"), ("bytes/s", "90 bytes/s")])
def test_a_unit_is_written_as_people_do(unit: str, shown: str) -> None:
    assert f"reaches {shown} in" in write_summary(make_alert(unit=unit), NOW)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        *((0, "0 s"), (59.4, "59 s"), (60, "1 min"), (3_569, "59 min"), (3_571, "1 h"), (11_400, "3 h 10 min")),
        *((86_340, "23 h 59 min"), (86_399, "1 d"), (187_200, "2 d 4 h")),
    ],
)
def test_a_duration_has_its_two_largest_units(seconds: float, shown: str) -> None:
    assert describe_duration(seconds) == shown
