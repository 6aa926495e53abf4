"""Scores a sample of the past forecasts as their truth arrives.

Touches no windows: it is given forecasts and rows. It is lost with the process. Its clock is the newest origin of all
forecasts, in steps of the grid.
"""

import numpy as np

from streamd.core.accuracy.comparison import Comparisons
from streamd.core.accuracy.deviations import SeriesDeviations
from streamd.core.accuracy.pending import AccuracyLimits, PendingCounts, PendingForecast, ScoredVersion
from streamd.core.accuracy.sampling import choose_origins, compute_sampling_rate
from streamd.core.accuracy.scores import Scores, ScoreShape
from streamd.core.arrays import Float32, Float64, Numbers
from streamd.core.contract import ModelContract
from streamd.core.state.window_columns import NO_STEP
from streamd.core.unknown_targets import read_unknown

MIN_KNOWN_SHARE = 0.5
"""A target is scored if at least this share of its window was reported (as in training), and compared if at least this
share of the forecast steps was."""

ACTIVE_STEPS = 12
"""A version without a forecast for this long serves no more, and gets no places."""


class ForecastScorer:
    """The pending forecasts, and the scores by version and by pair of versions.

    1. `offer_forecasts` decides which new forecasts are sampled, by slot and step alone. `add_forecast` then makes one
       pending: it takes one of `scored_servers` places, one for each server.
    2. The same origin of another version joins it, so that two versions are compared on the same forecasts.
    3. `score` scores each step of the horizon once, when its row has settled: late samples change it no more.

    Memory: at most `scored_servers` times `versions` forecasts of `(targets, horizon, quantiles) float32`.
    """

    def __init__(self, contract: ModelContract, limits: AccuracyLimits, capacity: int) -> None:
        self.contract = contract
        self.limits = limits
        self.shape = ScoreShape(contract, limits.range_steps, limits.period_steps, limits.periods)
        self.versions: dict[str, ScoredVersion] = {}
        """By name; the version whose last sampled forecast is the oldest comes first."""
        self.comparisons = Comparisons(self.shape)
        self.pending: dict[int, PendingForecast] = {}
        """By slot; the one that was scored least recently comes first."""
        self.counts = PendingCounts()
        self.now_step = NO_STEP
        self._has_pending = np.zeros(capacity, np.bool_)
        self._deviations = SeriesDeviations(capacity, len(contract.targets))
        self._numbers = 0
        self._servers = 0

    # ------------------------------------------------------------ versions
    def follow(self, name: str, *, share: float = 1.0, shadow: bool = False) -> ScoredVersion:
        """Begin to score a version, or change the share and the role of one that is scored already.

        `share` is the share of the servers that it forecasts. A `shadow` only joins pending forecasts of other
        versions, unless there is no other version.
        """
        version = self.versions.get(name)
        if version is None:
            if len(self.versions) >= self.limits.versions:
                self.unfollow(next(iter(self.versions)))
            self._numbers += 1
            version = ScoredVersion(
                name=name, scores=Scores(self.shape), number=self._numbers, latest_step=self.now_step
            )
            self.versions[name] = version
        version.share, version.is_shadow = share, shadow
        self.set_server_count(self._servers)
        return version

    def unfollow(self, name: str) -> None:
        """Remove a version with its scores and its pending forecasts; a no-op if the version is not followed."""
        if self.versions.pop(name, None) is None:
            return
        self.comparisons.drop(name)
        for pending in list(self.pending.values()):
            if pending.forecasts.pop(name, None) is not None:
                del pending.losses[name]
            if not pending.forecasts:
                self._remove_pending(pending.slot)
                self.counts.forgotten += 1
        self.set_server_count(self._servers)

    def set_server_count(self, servers: int) -> None:
        """Set the sampling rate of each version so that its places are just filled, with `servers` servers in all.

        The active versions share the places equally, so that a candidate with few servers gets enough of them.
        """
        self._servers = servers
        active = [each for each in self.versions.values() if self.now_step - each.latest_step <= ACTIVE_STEPS]
        openers = [version for version in active if not version.is_shadow] or active
        length = self.contract.horizon + self.limits.settle_steps
        for version in self.versions.values():
            share = 0.0
            if version in openers:
                share = compute_sampling_rate(
                    self.limits.scored_servers / len(openers), version.share * servers, length
                )
            version.threshold = int(share * 2.0**64)

    # ------------------------------------------------------------ forecasts in
    def offer_forecasts(self, version: ScoredVersion, slots: Numbers, steps: Numbers) -> list[int]:
        """Record that a version has forecasts of distinct servers, each from one of `steps`; all arguments are `(n,)`.

        Returns the places in them of the few to call `add_forecast` with. Quick, because most are not sampled.
        """
        if not len(slots):
            return []
        latest = int(steps.max())
        version.latest_step = max(version.latest_step, latest)
        self.now_step = max(self.now_step, latest)
        has_pending = self._has_pending[slots]
        chosen = choose_origins(slots, steps, version.threshold)
        places = np.flatnonzero(chosen | has_pending).tolist()
        return [place for place in places if not has_pending[place] or self._joins(version, slots, steps, place)]

    def _joins(self, version: ScoredVersion, slots: Numbers, steps: Numbers, place: int) -> bool:
        """Whether a forecast belongs to the pending one of its server."""
        pending = self.pending[int(slots[place])]
        return pending.step == steps[place] and not pending.done_steps and version.name not in pending.forecasts

    def add_forecast(
        self, version: ScoredVersion, slot: int, *, generation: int, step: int, forecast: Float32, rows: Float32
    ) -> bool:
        """Make a sampled forecast pending, or join it to another version's of the same origin; returns whether.

        `forecast (targets, horizon, quantiles)` is copied. `rows (rows, targets)` are the server's last rows up to
        `step`, with NaN for a missing value; they may be fewer than a window.
        """
        pending = self.pending.get(slot)
        if pending is not None:
            # One that comes after some steps were scored is left out: all versions are scored on the same steps.
            if (
                pending.step != step
                or pending.generation != generation
                or pending.done_steps
                or version.name in pending.forecasts
            ):
                return False
            self.counts.joined += 1
        else:
            pending = self._open_pending(slot, generation, step, rows)
            if pending is None:
                return False
        # A value may come later of a target that one version did not know: all are scored on the same targets.
        pending.reported &= ~read_unknown(forecast)
        pending.forecasts[version.name] = np.array(forecast, np.float32)
        pending.losses[version.name] = np.zeros_like(pending.points)
        self.versions[version.name] = self.versions.pop(version.name)
        return True

    def _open_pending(self, slot: int, generation: int, step: int, rows: Float32) -> PendingForecast | None:
        if self._is_late(step):
            return None  # replayed history: it would expire before its truth arrives
        if len(self.pending) >= self.limits.scored_servers:
            self.counts.crowded += 1
            return None
        self._deviations.add_rows(slot, step, rows)
        reported = np.isfinite(rows).sum(0) >= MIN_KNOWN_SHARE * self.contract.context_length
        if not np.isfinite(self._deviations.compute_deviation(slot)[reported]).any():
            return None  # every target is unknown or flat
        points = np.zeros((len(self.contract.targets), self.shape.ranges))
        pending = PendingForecast(slot=slot, generation=generation, step=step, reported=reported, points=points)
        self.pending[slot] = pending
        self._has_pending[slot] = True
        self.counts.opened += 1
        return pending

    def forget(self, slot: int) -> None:
        """Forget everything about a slot that gets another server."""
        if slot in self.pending:
            self._remove_pending(slot)
            self.counts.forgotten += 1
        self._deviations.reset(slot)

    # ------------------------------------------------------------ truth in
    def drop_old_scores(self) -> None:
        """Drop the scores that are older than the sliding window."""
        period = max(self.now_step, 0) // self.limits.period_steps
        for version in self.versions.values():
            version.scores.sums.advance(period)
        self.comparisons.advance(period)

    def count_settled_steps(self, pending: PendingForecast, newest: int) -> int:
        """Return how many steps of the horizon are over; `newest` is the step of the server's newest closed row."""
        wait = 0 if self._is_late(pending.step) else self.limits.settle_steps
        return min(max(newest - wait - pending.step, 0), self.contract.horizon)

    def is_due(self, pending: PendingForecast, newest: int) -> bool:
        """Whether there is something to score, or the forecast has expired."""
        return self.count_settled_steps(pending, newest) > pending.done_steps or self._is_late(pending.step)

    def score(self, pending: PendingForecast, newest: int, rows: Float32) -> None:
        """Score the settled steps; `rows (rows, targets)` are the last rows up to `newest`, NaN for a missing value.

        A pending forecast ends if its horizon is over or if it has expired; rows that are missing then are not scored.
        """
        self.drop_old_scores()
        before, pending.done_steps = pending.done_steps, self.count_settled_steps(pending, newest)
        if pending.done_steps > before:
            last = pending.step + pending.done_steps
            # The rows belong to the series too and are added first: a leap is divided by a deviation that includes it.
            self._deviations.add_rows(pending.slot, last, rows[: max(len(rows) - (newest - last), 0)])
            self._score_steps(pending, before, _select_rows(rows, newest, pending.step + before + 1, last).T)
            self._compare_ranges(pending, before)
            self.pending[pending.slot] = self.pending.pop(pending.slot)
        finished = pending.done_steps == self.contract.horizon
        if finished or self._is_late(pending.step):
            self.counts.finished += finished
            self.counts.expired += not finished
            self._compare(pending, self.shape.ranges, slice(None), self.contract.horizon)
            self._remove_pending(pending.slot)

    def _remove_pending(self, slot: int) -> None:
        del self.pending[slot]
        self._has_pending[slot] = False

    def _is_late(self, step: int) -> bool:
        limit = self.contract.horizon + self.limits.settle_steps + self.limits.tolerance_steps
        return self.now_step - step > limit

    def _score_steps(self, pending: PendingForecast, first: int, truth: Float64) -> None:
        """Score the steps from `first` on by `truth (targets, steps)`."""
        deviation = np.where(pending.reported, self._deviations.compute_deviation(pending.slot), np.nan)
        known = np.isfinite(truth) & np.isfinite(deviation)[:, None]
        begins = bool(known.any()) and not pending.points.any()
        pending.points += self.shape.sum_by_range(first, known)
        for name, forecast in pending.forecasts.items():
            scores = self.versions[name].scores
            pending.losses[name] += scores.add(first, forecast, np.where(known, truth, np.nan), deviation)
            if begins:
                scores.count_forecast()

    # ------------------------------------------------------------ comparisons of versions
    def _compare_ranges(self, pending: PendingForecast, before: int) -> None:
        ends = np.cumsum(self.shape.range_lengths).astype(int)
        for index in np.flatnonzero((ends > before) & (ends <= pending.done_steps)).tolist():
            self._compare(pending, index, slice(index, index + 1), int(self.shape.range_lengths[index]))

    def _compare(self, pending: PendingForecast, row: int, ranges: slice, steps: int) -> None:
        """Add one observation for each pair of versions: the mean over the targets with enough reported values."""
        points = pending.points[:, ranges].sum(1)
        enough = points >= max(MIN_KNOWN_SHARE * steps, 1.0)
        if not enough.any():
            return
        means = {
            name: (loss[:, ranges].sum(1)[enough] / points[enough]).mean() for name, loss in pending.losses.items()
        }
        names = sorted(means, key=lambda name: self.versions[name].number)
        self.comparisons.add(row, [(name, float(means[name])) for name in names])


def _select_rows(rows: Float32, newest: int, first: int, last: int) -> Float64:
    """Return the rows of steps `first` to `last` of `rows`, which end at `newest`; NaN for steps before them."""
    found = np.full((last - first + 1, rows.shape[1]), np.nan)
    oldest = newest - len(rows) + 1
    begin = max(first, oldest)
    if begin <= last:
        found[begin - first :] = rows[begin - oldest : last - oldest + 1]
    return found
