"""A survey of captured bodies: the number of their points, their times, and whether some come twice. Maps nothing."""

import math
from collections.abc import Hashable

from streamd.core.errors import StreamdError
from streamd.core.mapping.series import SourceSeries


class _SurveyedSeries:
    """The newest time of a series."""

    __slots__ = ("newest",)

    def __init__(self) -> None:
        self.newest = -math.inf


class PointSurvey:
    """A `PointSink` that counts. Of each series it keeps only the newest time."""

    def __init__(self) -> None:
        self.points = 0
        self.first_time = math.inf
        self.last_time = -math.inf
        self.repeated = 0
        """Points at the newest time of their series."""
        self._entries: dict[Hashable, _SurveyedSeries] = {}

    def wants(self, name: str) -> bool:
        """Whether series of this metric are counted: all are."""
        return True

    def ignore(self, count: int = 1) -> None:
        """Do nothing: every metric is wanted."""

    def find(self, key: Hashable) -> _SurveyedSeries | None:
        """Return the entry of a series, or `None`."""
        return self._entries.get(key)

    def bind(self, key: Hashable, series: SourceSeries) -> _SurveyedSeries:
        """Add a series."""
        entry = self._entries[key] = _SurveyedSeries()
        return entry

    def add(self, entry: _SurveyedSeries, time: float, value: float) -> None:
        """Count a point."""
        self.points += 1
        self.first_time = min(self.first_time, time)
        self.last_time = max(self.last_time, time)
        if time > entry.newest:
            entry.newest = time
        elif time == entry.newest:
            self.repeated += 1

    def add_point(self, series: SourceSeries, time: float, value: float) -> None:
        """Count a point of a series whose key is its name and labels."""
        key = (series.name, *sorted(series.labels.items()))
        self.add(self.find(key) or self.bind(key, series), time, value)

    def reject(self, error: StreamdError, count: int = 1, entry: _SurveyedSeries | None = None) -> None:
        """Do nothing: the daemon says what it rejects."""

    def skip(self, reason: str, count: int = 1) -> None:
        """Do nothing: the daemon counts it."""
