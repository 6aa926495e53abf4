"""A sink that keeps the points that a decoder writes."""

from collections import Counter
from collections.abc import Collection, Hashable

from streamd.core.errors import StreamdError
from streamd.core.mapping.series import SourceSeries


class RecordingSink:
    """Keeps what it is given, in order."""

    def __init__(self, unwanted: Collection[str] = ()) -> None:
        self.unwanted = unwanted
        """Metrics that no rule wants."""
        self.ignored = 0
        self.points: list[tuple[SourceSeries, float, float]] = []
        self.rejected: list[StreamdError] = []
        self.skipped: Counter[str] = Counter()
        self._bound: dict[Hashable, SourceSeries] = {}

    def wants(self, name: str) -> bool:
        return name not in self.unwanted

    def ignore(self, count: int = 1) -> None:
        assert self.unwanted, "every metric is wanted"
        self.ignored += count

    def find(self, key: Hashable) -> SourceSeries | None:
        return self._bound.get(key)

    def bind(self, key: Hashable, series: SourceSeries) -> SourceSeries:
        assert key not in self._bound, "find comes first"
        self._bound[key] = series
        return series

    def add(self, entry: SourceSeries, time: float, value: float) -> None:
        self.points.append((entry, time, value))

    def add_point(self, series: SourceSeries, time: float, value: float) -> None:
        self.points.append((series, time, value))

    def reject(self, error: StreamdError, count: int = 1, entry: SourceSeries | None = None) -> None:
        self.rejected += [error] * count

    def skip(self, reason: str, count: int = 1) -> None:
        self.skipped[reason] += count
