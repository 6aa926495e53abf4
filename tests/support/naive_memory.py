"""A naive model of a week's memory: every row that was ever closed, and means of them by the definition.

Written from the definition, not from the code. The one thing that it must know of the ring: a late sample changes a
mean only while the ring has all rows of its period.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from streamd.core.arrays import Float32
from tests.support.naive_windows import NaiveServer


@dataclass
class NaiveMemory:
    """The closed rows of one server by step, without limit."""

    period: int
    rows: dict[int, dict[int, float]] = field(default_factory=dict)

    def follow(self, server: NaiveServer, newest_before: int | None) -> None:
        """Take over the closed rows of a server, whose newest row was another one before the last event."""
        if server.newest is None:
            return
        for step, row in server.rows.items():
            if step == server.filling or step > server.newest or not row.values:
                continue
            is_new = newest_before is None or step > newest_before
            oldest = 0 if newest_before is None else newest_before - server.context_length + 1
            if is_new or step // self.period * self.period >= oldest:
                self.rows[step] = dict(row.values)

    def get_mean(self, period: int, end: int, feature: int) -> float:
        """Return the mean of a feature over a period; NaN if the period ends after `end`, or no row has it."""
        steps = range(period * self.period, (period + 1) * self.period)
        values = [self.rows[step][feature] for step in steps if feature in self.rows.get(step, {})]
        if steps.stop > end or not values:
            return math.nan
        return math.fsum(values) / len(values)

    def make_memory(self, end: int, length: int, features: int) -> Float32:
        """Return the memory of a window that ends before the step `end`, `(length, features)`."""
        found = np.full((length, features), np.nan, np.float32)
        last, share = divmod(end, self.period)
        for place in range(length):
            first = last - length + place
            for feature in range(features):
                pairs = (
                    (self.get_mean(first, end, feature), self.period - share),
                    (self.get_mean(first + 1, end, feature), share),
                )
                known = [(mean, weight) for mean, weight in pairs if weight > 0 and not math.isnan(mean)]
                if known:
                    total = sum(weight for _, weight in known)
                    found[place, feature] = math.fsum(mean * weight for mean, weight in known) / total
        return found
