"""Tests `streamd/tools/captures/survey.py`: points are counted, and those that come twice are noticed."""

import math

from streamd.core.errors import InvalidSampleError
from streamd.core.mapping.series import SourceSeries
from streamd.tools.captures.capture import read_capture
from streamd.tools.captures.formats import FormatReader, guess_format
from streamd.tools.captures.survey import PointSurvey
from tests.support.agent_fixtures import AGENTS

A, B = SourceSeries("a", {"x": "1"}), SourceSeries("a", {"x": "2"})


def test_points_times_and_repetitions_are_counted() -> None:
    survey = PointSurvey()
    for series, time in ((A, 10.0), (B, 10.0), (A, 10.0), (A, 12.0), (A, 11.0)):
        survey.add_point(series, time, 1.0)
    assert (survey.points, survey.repeated) == (5, 1)
    assert (survey.first_time, survey.last_time) == (10.0, 12.0)


def test_nothing_is_counted_of_what_is_rejected_or_skipped() -> None:
    survey = PointSurvey()
    survey.reject(InvalidSampleError("x"))
    survey.skip("metadata", 3)
    survey.ignore(2)
    assert survey.wants("a")
    assert (survey.points, survey.first_time, survey.last_time) == (0, math.inf, -math.inf)


def test_captures_of_an_agent_are_counted_together() -> None:
    survey = PointSurvey()
    reader = FormatReader(survey, 0.0)
    for number in (1, 2, 3):
        capture = read_capture(AGENTS / "collectd" / f"rates-{number}.body")
        reader.read(capture, guess_format(capture))
    assert survey.points == 64
    assert survey.repeated == 0
