"""The series and points that foreign protocols carry, and the sink that their decoders write to. Decodes nothing."""

from collections.abc import Hashable, Mapping
from enum import StrEnum
from typing import Protocol, TypeVar

import msgspec

from streamd.core.errors import StreamdError


class Kind(StrEnum):
    """The meaning of the values of a series, which decides how the values of a step become one."""

    GAUGE = "gauge"
    """A momentary value, or a rate that its sender computed; a step has the mean."""
    COUNTER = "counter"
    """A sum that rises until it is reset; a step has the increase per second."""
    STATE = "state"
    """A value that is replaced; a step has the last one."""


class SourceSeries(msgspec.Struct, frozen=True, gc=False):
    """One series as its sender names it.

    `kind` is what the protocol says about this series. If it is `None`, the rules decide.
    """

    name: str
    labels: Mapping[str, str]
    kind: Kind | None = None


SeriesEntry = TypeVar("SeriesEntry")
"""What a sink keeps for a series; a decoder passes it back and does not read it."""


class PointSink(Protocol[SeriesEntry]):
    """A receiver of the points of one body, in the order of the body.

    A decoder calls `find` with a key of the series, `bind` if the key is new, and `add` for each point; `add_point`
    does all three. A key is cheap to compute, and the same series has the same key in every body.
    """

    def wants(self, name: str) -> bool:
        """Whether a rule may want series of this metric; if not, a decoder may call `ignore` and decode no labels."""
        ...

    def ignore(self, count: int = 1) -> None:
        """Count points of series whose metric no rule wants."""
        ...

    def find(self, key: Hashable) -> SeriesEntry | None:
        """Return the entry of a series that was bound before, or `None`."""
        ...

    def bind(self, key: Hashable, series: SourceSeries) -> SeriesEntry:
        """Map a new series and return its entry, even if no rule wants the series."""
        ...

    def add(self, entry: SeriesEntry, time: float, value: float) -> None:
        """Add a point at epoch seconds; the value NaN means that the series ends (a stale marker)."""
        ...

    def add_point(self, series: SourceSeries, time: float, value: float) -> None:
        """Add a point of a series whose key is its name and labels."""
        ...

    def reject(self, error: StreamdError, count: int = 1, entry: SeriesEntry | None = None) -> None:
        """Count points that cannot be taken; the message of `error` names the place in the body.

        Points of an `entry` that no rule wants are ignored and not rejected.
        """
        ...

    def skip(self, reason: str, count: int = 1) -> None:
        """Count points that are no measurement, such as a missing value; `reason` is one of a few fixed texts."""
        ...
