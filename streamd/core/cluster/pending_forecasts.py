"""Forecasts of a shard that are not in its log yet: of each server the newest one. Arrays only."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Float32, Numbers, Slots, Times
from streamd.core.state.forecast_seals import Sums

STORED_SHARE = 4
"""Arrays hold up to so many times the rows that wait; then they are copied without those that were replaced."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ForecastRows:
    """Forecasts of `n` distinct servers, made by one version; `values (n, targets, horizon, quantiles)` are copies.

    `slots` and `generations (n,)` are those of the servers when the forecasts were made.
    """

    model: str
    servers: tuple[str, ...]
    slots: Slots
    generations: Numbers
    steps: Numbers
    contexts: Numbers
    since: Times
    """When each row became due (monotonic seconds)."""
    values: Float32
    checks: Sums
    """Of `compute_checks`, `(n,)`."""
    is_posted: npt.NDArray[np.bool_]
    """Whether the readers of this node have it already, since the log was away, `(n,)`."""

    def __len__(self) -> int:
        return len(self.servers)

    def select(self, rows: Numbers) -> "ForecastRows":
        """Return some of the rows, by their indices."""
        return ForecastRows(
            model=self.model,
            servers=tuple(self.servers[row] for row in rows.tolist()),
            slots=self.slots[rows],
            generations=self.generations[rows],
            steps=self.steps[rows],
            contexts=self.contexts[rows],
            since=self.since[rows],
            values=self.values[rows],
            checks=self.checks[rows],
            is_posted=self.is_posted[rows],
        )


def join_forecasts(parts: Sequence[ForecastRows]) -> ForecastRows:
    """Return all rows of several parts of one version, in order."""
    if len(parts) == 1:
        return parts[0]
    return ForecastRows(
        model=parts[0].model,
        servers=tuple(server for part in parts for server in part.servers),
        slots=np.concatenate([part.slots for part in parts]),
        generations=np.concatenate([part.generations for part in parts]),
        steps=np.concatenate([part.steps for part in parts]),
        contexts=np.concatenate([part.contexts for part in parts]),
        since=np.concatenate([part.since for part in parts]),
        values=np.concatenate([part.values for part in parts]),
        checks=np.concatenate([part.checks for part in parts]),
        is_posted=np.concatenate([part.is_posted for part in parts]),
    )


class PendingForecasts:
    """The queue: a server keeps its place when a newer forecast replaces its older one."""

    def __init__(self) -> None:
        self.superseded = 0
        """The forecasts that were replaced by a newer one before they were taken."""
        self._waiting: dict[str, tuple[ForecastRows, int]] = {}
        self._stored = 0

    def add(self, rows: ForecastRows) -> None:
        """Add forecasts; one that is not newer than that which waits is dropped."""
        for place, (server, step) in enumerate(zip(rows.servers, rows.steps.tolist(), strict=True)):
            waiting = self._waiting.get(server)
            if waiting is not None:
                self.superseded += 1
                if waiting[0].steps[waiting[1]] >= step:
                    continue
            self._waiting[server] = rows, place
        self._stored += len(rows)
        if self._stored > STORED_SHARE * len(self._waiting) + 256:
            self._repack()

    def take(self, count: int) -> ForecastRows | None:
        """Remove and return up to `count` forecasts of one version, the longest waiting first; `None` if none waits."""
        first = next(iter(self._waiting.values()), None)
        if first is None:
            return None
        model = first[0].model
        servers = [server for server, (rows, _) in islice(self._waiting.items(), count) if rows.model == model]
        taken = _gather([self._waiting.pop(server) for server in servers])
        if not self._waiting:
            self._stored = 0
        return taken

    def drop(self, server: str) -> None:
        """Drop the forecast of a server that was forgotten."""
        self._waiting.pop(server, None)

    def clear(self) -> None:
        """Drop all."""
        self._waiting.clear()
        self._stored = 0

    def mark_posted(self) -> None:
        """Note that the readers of this node have all that waits."""
        for rows in self._list_parts():
            rows.is_posted[:] = True

    def iterate_unposted(self) -> Iterator[ForecastRows]:
        """Yield the forecasts that the readers of this node do not have yet, of one version each."""
        by_model: dict[str, list[tuple[ForecastRows, int]]] = {}
        for rows, place in self._waiting.values():
            if not rows.is_posted[place]:
                by_model.setdefault(rows.model, []).append((rows, place))
        for found in by_model.values():
            yield _gather(found)

    def __len__(self) -> int:
        return len(self._waiting)

    def _list_parts(self) -> list[ForecastRows]:
        return list({id(rows): rows for rows, _ in self._waiting.values()}.values())

    def _repack(self) -> None:
        """Copy what waits, so that what was replaced takes no memory."""
        by_model: dict[str, list[str]] = {}
        for server, (rows, _) in self._waiting.items():
            by_model.setdefault(rows.model, []).append(server)
        for servers in by_model.values():
            packed = _gather([self._waiting[server] for server in servers])
            self._waiting.update(zip(packed.servers, ((packed, place) for place in range(len(packed))), strict=True))
        self._stored = len(self._waiting)


def _gather(found: Sequence[tuple[ForecastRows, int]]) -> ForecastRows:
    """Return the rows of several parts, in order of the parts' first rows."""
    places: dict[int, list[int]] = {}
    parts: dict[int, ForecastRows] = {}
    for rows, place in found:
        parts.setdefault(id(rows), rows)
        places.setdefault(id(rows), []).append(place)
    return join_forecasts([_choose(parts[key], chosen) for key, chosen in places.items()])


def _choose(rows: ForecastRows, places: list[int]) -> ForecastRows:
    """Return some of the rows; all of them, as is usual, without a copy."""
    if len(places) == len(rows) and places == list(range(len(rows))):
        return rows
    return rows.select(np.array(places, np.int64))
